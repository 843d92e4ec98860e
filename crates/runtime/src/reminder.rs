//! [`Reminder`]: what a loop that tries again writes into the log; [`Pauses`]: how long it waits in between.

use std::fmt;
use std::time::{Duration, Instant};

/// Before the second line of the same text.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Before each later line at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(640);
/// Texts remembered; beyond that the one that came last the longest ago is forgotten.
const MOST_TEXTS: usize = 32;
/// Longest wait of [`Pauses`] is reached after about ten of these steps.
const GROWTH: f64 = 1.5;

/// Decides which repetitions of a text are written: the first at once, then one after pauses that double from 10 s to about
/// 11 minutes, each with the number of those left out.
///
/// Several texts that take turns are told apart; a text that has not come for twice its pause is a new one.
#[derive(Debug, Default)]
pub struct Reminder {
    texts: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    text: String,
    told_at: Instant,
    last_seen: Instant,
    pause: Duration,
    left_out: u64,
}

/// A text is to be written. Shows how often it was left out since the last time: nothing, or ` (… times more since the last
/// line)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    left_out: u64,
}

impl Reminder {
    /// The text comes again. `Some`: write it, followed by what is returned.
    pub fn due(&mut self, text: &str) -> Option<Again> {
        self.due_at(text, Instant::now())
    }

    /// What was tried has worked: whatever comes next is new.
    pub fn clear(&mut self) {
        self.texts.clear();
    }

    fn due_at(&mut self, text: &str, now: Instant) -> Option<Again> {
        self.texts.retain(|told| now.saturating_duration_since(told.last_seen) < told.pause * 2);
        if let Some(told) = self.texts.iter_mut().find(|told| told.text == text) {
            told.last_seen = now;
            told.left_out += 1;
            if now.saturating_duration_since(told.told_at) < told.pause {
                return None;
            }
            let left_out = std::mem::take(&mut told.left_out) - 1;
            told.told_at = now;
            told.pause = (told.pause * 2).min(LONGEST_PAUSE);
            return Some(Again { left_out });
        }
        if self.texts.len() >= MOST_TEXTS
            && let Some(oldest) = (0..self.texts.len()).min_by_key(|at| self.texts[*at].last_seen)
        {
            self.texts.swap_remove(oldest);
        }
        let text = text.to_owned();
        self.texts.push(Told { text, told_at: now, last_seen: now, pause: FIRST_PAUSE, left_out: 0 });
        Some(Again { left_out: 0 })
    }
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.left_out {
            0 => Ok(()),
            1 => f.write_str(" (once more since the last line)"),
            times => write!(f, " ({times} times more since the last line)"),
        }
    }
}

/// Waits that grow by half each from `first` to `most`.
#[derive(Debug, Clone)]
pub struct Pauses {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Pauses {
    /// None was waited yet.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now; the next answer is longer.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.mul_f64(GROWTH).min(self.most);
        wait
    }

    /// Something worked, or is new: the next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_once_and_then_with_growing_pauses_and_a_count() {
        let (mut reminder, begin) = (Reminder::default(), Instant::now());
        let mut told = Vec::new();
        // Two that take turns, six a second, for half an hour.
        for step in 0..10_800_u64 {
            let now = begin + Duration::from_millis(step * 1_000 / 6);
            let text = if step % 2 == 0 { "refused" } else { "does not answer" };
            if let Some(again) = reminder.due_at(text, now) {
                told.push((now - begin, text, again));
            }
        }
        let refused: Vec<_> = told.iter().filter(|(_, text, _)| *text == "refused").collect();
        let seconds: Vec<u64> = refused.iter().map(|(at, _, _)| at.as_secs()).collect();
        assert_eq!(seconds, [0, 10, 30, 70, 150, 310, 630, 1_270]);
        assert_eq!(refused[1].2, Again { left_out: 29 });
        assert_eq!(refused[1].2.to_string(), " (29 times more since the last line)");
        assert_eq!(refused[0].2.to_string(), "");
        assert_eq!(told.len(), 16, "{told:?}");
    }

    #[test]
    fn what_was_quiet_for_long_or_was_cleared_is_new_and_the_memory_is_bounded() {
        let (mut reminder, begin) = (Reminder::default(), Instant::now());
        assert!(reminder.due_at("a", begin).is_some() && reminder.due_at("a", begin).is_none());
        assert!(reminder.due_at("a", begin + FIRST_PAUSE * 2).is_some_and(|again| again.left_out == 0));
        reminder.clear();
        assert!(reminder.due_at("a", begin + FIRST_PAUSE * 2).is_some());
        for number in 0..MOST_TEXTS * 2 {
            assert!(reminder.due_at(&number.to_string(), begin + FIRST_PAUSE * 2).is_some());
        }
        assert_eq!(reminder.texts.len(), MOST_TEXTS);
    }

    #[test]
    fn pauses_grow_to_the_bound_and_begin_again() {
        let mut pauses = Pauses::new(Duration::from_millis(500), Duration::from_secs(10));
        let waits: Vec<Duration> = (0..12).map(|_| pauses.wait()).collect();
        assert!(waits.is_sorted() && waits[0] == Duration::from_millis(500) && waits[11] == Duration::from_secs(10));
        pauses.reset();
        assert_eq!(pauses.wait(), Duration::from_millis(500));
    }
}
