//! [`Shortcut`]: answers from a state machine in the same process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Answer buffer of one end. Few batches are in flight per end; on overflow the answer arrives over the link.
const WAITING: usize = 8;

/// Delivers answers directly from the state machine to the proposer in the same process, as soon as a batch is applied
/// and visible. The answer also arrives over the link; the first of the two counts, since both result from the same
/// committed entry. Cloning shares the state.
#[derive(Debug, Clone, Default)]
pub struct Shortcut {
    ends: Arc<Mutex<HashMap<u64, mpsc::Sender<AppliedHere>>>>,
}

/// A batch applied in this process.
#[derive(Debug)]
pub struct AppliedHere {
    /// Session of the batch.
    pub session: u64,
    /// Sequence of the batch within the session.
    pub sequence: u64,
    /// Log index of the entry with the batch.
    pub index: u64,
    /// The encoded answer.
    pub answer: Bytes,
}

/// Receives the answers to the batches of one session.
#[derive(Debug)]
pub struct ShortcutEnd {
    shortcut: Shortcut,
    /// 0 = none yet.
    session: u64,
    sender: mpsc::Sender<AppliedHere>,
    answers: mpsc::Receiver<AppliedHere>,
}

impl Shortcut {
    /// Makes an end, idle until the end [follows](ShortcutEnd::follow) a session.
    pub fn end(&self) -> ShortcutEnd {
        let (sender, answers) = mpsc::channel(WAITING);
        ShortcutEnd { shortcut: self.clone(), session: 0, sender, answers }
    }

    /// Whether an end follows `session`.
    pub fn is_for(&self, session: u64) -> bool {
        self.lock().contains_key(&session)
    }

    /// Delivers the answer to an applied and visible batch.
    pub fn answer(&self, applied: AppliedHere) {
        if let Some(end) = self.lock().get(&applied.session) {
            // Buffer full or end closing: the answer arrives over the link.
            let _ = end.try_send(applied);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<AppliedHere>>> {
        // Every change of the map is a single step.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShortcutEnd {
    /// Switches to the batches of `session`, and leaves any earlier session.
    pub fn follow(&mut self, session: u64) {
        if session != self.session {
            self.leave();
            self.session = session;
            self.shortcut.lock().insert(session, self.sender.clone());
        }
    }

    /// Receives the next batch applied here. Cancel-safe.
    pub async fn next(&mut self) -> AppliedHere {
        match self.answers.recv().await {
            Some(applied) => applied,
            // Unreachable: `self` holds a sender.
            None => std::future::pending().await,
        }
    }

    fn leave(&mut self) {
        let mut ends = self.shortcut.lock();
        // Another end may follow the session by now.
        if ends.get(&self.session).is_some_and(|end| end.same_channel(&self.sender)) {
            ends.remove(&self.session);
        }
    }
}

impl Drop for ShortcutEnd {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn applied(session: u64) -> AppliedHere {
        AppliedHere { session, sequence: 1, index: 5, answer: Bytes::new() }
    }

    fn heard(end: &mut ShortcutEnd) -> Option<u64> {
        end.next().now_or_never().map(|applied| applied.session)
    }

    #[test]
    fn an_end_hears_of_the_session_that_it_followed_last() {
        let shortcut = Shortcut::default();
        let (mut one, mut other) = (shortcut.end(), shortcut.end());
        assert!(!shortcut.is_for(0) && !shortcut.is_for(7));
        one.follow(7);
        other.follow(8);
        shortcut.answer(applied(7));
        assert_eq!((heard(&mut one), heard(&mut other)), (Some(7), None));
        one.follow(9);
        assert!(!shortcut.is_for(7));
        shortcut.answer(applied(7));
        shortcut.answer(applied(9));
        assert_eq!((heard(&mut one), heard(&mut one)), (Some(9), None));
    }

    #[test]
    fn an_end_that_goes_does_not_take_away_what_another_follows_by_now() {
        let shortcut = Shortcut::default();
        let (mut one, mut other) = (shortcut.end(), shortcut.end());
        one.follow(7);
        other.follow(7);
        drop(one);
        shortcut.answer(applied(7));
        assert_eq!(heard(&mut other), Some(7));
        drop(other);
        assert!(!shortcut.is_for(7), "nothing is left behind");
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let shortcut = Shortcut::default();
        let mut end = shortcut.end();
        end.follow(7);
        for _ in 0..2 * WAITING {
            shortcut.answer(applied(7));
        }
        assert_eq!(std::iter::from_fn(|| heard(&mut end)).count(), WAITING);
    }
}
