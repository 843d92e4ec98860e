//! [`Progress`]: how far this node's engine has applied the log, as its sidecar knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::raft::types::LogId;

/// How far the engine is. Cheap to clone; all clones are of the same engine.
///
/// What the engine shows to readers lies between the two: it may have applied what it has not answered yet.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    applied: watch::Sender<Option<LogId>>,
    submitted_next: AtomicU64,
    /// The index after the last entry that a reader on another node waits for.
    awaited_next: watch::Sender<u64>,
}

impl Progress {
    /// The last entry that the engine has certainly applied.
    pub fn applied(&self) -> Option<LogId> {
        *self.shared.applied.borrow()
    }

    /// Follows [`applied`](Self::applied).
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.applied.subscribe()
    }

    /// The index after the last entry that the engine may have applied.
    pub fn submitted_next(&self) -> u64 {
        self.shared.submitted_next.load(Ordering::SeqCst)
    }

    /// Entries below `next_index` are about to be sent to the engine.
    pub fn submit(&self, next_index: u64) {
        self.shared.submitted_next.fetch_max(next_index, Ordering::SeqCst);
    }

    /// The engine says that it has applied up to `last`.
    pub fn set_applied(&self, last: Option<LogId>) {
        self.submit(last.map_or(0, |last| last.index + 1));
        self.shared.applied.send_replace(last);
    }

    /// A reader on another node waits until everything below `next_index` is applied there.
    pub fn hurry(&self, next_index: u64) {
        self.shared.awaited_next.send_if_modified(|awaited| {
            let is_news = next_index > *awaited;
            *awaited = next_index.max(*awaited);
            is_news
        });
    }

    /// Follows what [`hurry`](Self::hurry) was told: the highest index so far.
    pub fn watch_awaited(&self) -> watch::Receiver<u64> {
        self.shared.awaited_next.subscribe()
    }

    /// How much of what is committed other nodes may be told: what this node's engine has applied. Then no other engine is
    /// ever ahead of it, and who reads here under the lease sees whatever anybody has seen.
    pub fn gate(&self, committed: Option<LogId>) -> Option<LogId> {
        committed.min(self.applied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::LeaderId;

    fn log_id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(LeaderId { term, node_id: 1 }, index))
    }

    #[test]
    fn nobody_is_told_of_more_than_the_engine_has_applied() {
        let progress = Progress::default();
        assert_eq!(progress.gate(log_id(1, 5)), None);
        progress.set_applied(log_id(1, 5));
        assert_eq!(progress.gate(log_id(2, 9)), log_id(1, 5));
        assert_eq!(progress.gate(log_id(1, 4)), log_id(1, 4), "nor of more than is committed");
        assert_eq!(progress.gate(None), None);
    }

    #[test]
    fn what_may_have_been_applied_is_never_less_than_what_was() {
        let progress = Progress::default();
        progress.set_applied(log_id(1, 5));
        assert_eq!(progress.submitted_next(), 6);
        progress.submit(9);
        progress.set_applied(log_id(1, 6));
        assert_eq!((progress.submitted_next(), progress.applied()), (9, log_id(1, 6)));
    }
}
