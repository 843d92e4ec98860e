//! [`Gather`]: when a batch should leave.

use std::time::{Duration, Instant};

/// Below this many callers a batch leaves at once: what little could share it is not worth a wait.
const FEWEST_CALLERS: usize = 8;
/// A batch never waits longer for callers than this by default, the shortest a timer can be.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// Decides when the callers that wait make a full batch, for one batch at a time.
///
/// Callers work in closed loops: those who were just answered will soon ask again. A batch that leaves before they do is
/// small, and every batch costs all nodes the same, whatever its size. So after an answer to many callers the next batch
/// waits until three quarters of them are back, or a moment has passed. With few callers nothing ever waits. A wait in vain
/// happens once: the next answer counts the callers anew.
#[derive(Debug)]
pub struct Gather {
    longest: Duration,
    enough: usize,
    until: Option<Instant>,
}

impl Default for Gather {
    fn default() -> Self {
        Self::within(LONGEST_WAIT)
    }
}

impl Gather {
    /// Waits for callers no longer than `longest`.
    pub fn within(longest: Duration) -> Self {
        Self { longest, enough: 0, until: None }
    }

    /// Callers were answered while others already waited.
    pub fn answered(&mut self, answered: usize, waiting: usize, now: Instant) {
        let callers = answered + waiting;
        self.enough = callers * 3 / 4;
        self.until = (callers >= FEWEST_CALLERS).then(|| now + self.longest);
    }

    /// Whether a batch of this many may leave.
    pub fn is_over(&self, waiting: usize, now: Instant) -> bool {
        waiting >= self.enough || self.until.is_none_or(|until| now >= until)
    }

    /// When it will be over at the latest, if it is not yet.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_callers_never_wait() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        assert!(gather.is_over(1, now), "before the first answer");
        gather.answered(1, 0, now);
        assert!(gather.is_over(1, now));
        gather.answered(4, 3, now);
        assert!(gather.is_over(3, now));
    }

    #[test]
    fn many_callers_are_waited_for_but_not_for_long() {
        let (mut gather, now) = (Gather::default(), Instant::now());
        gather.answered(12, 8, now);
        assert!(!gather.is_over(8, now));
        assert!(gather.is_over(15, now), "three quarters of twenty are back");
        assert_eq!(gather.due(now), Some(now + LONGEST_WAIT));
        assert!(gather.is_over(8, now + LONGEST_WAIT));
        assert_eq!(gather.due(now + LONGEST_WAIT), None);
    }
}
