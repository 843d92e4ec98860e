//! [`FullMembers`]: the members whose disks are nearly full, as they say with each answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::raft::types::NodeId;

/// A leader takes no values for so long because of one member. Meanwhile that member compacts what it has, and is not sent more than
/// its reserve holds. It is the time in which deletes give their space back; a member that has no room after it is behind for a reason
/// that more patience does not mend, and a majority that has room goes on without it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Cheap to clone; clones are one. Counts only on a leader.
#[derive(Debug, Clone, Default)]
pub struct FullMembers {
    /// Since when, each without a pause.
    since: Arc<Mutex<HashMap<NodeId, Instant>>>,
    /// Whether there are any: asked for with each proposal and told with each answer.
    any: Arc<AtomicBool>,
}

impl FullMembers {
    /// Notes what `member` has said.
    pub(super) fn heard(&self, member: NodeId, is_full: bool) {
        if !is_full && !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut since = self.lock();
        if is_full {
            since.entry(member).or_insert_with(Instant::now);
        } else {
            since.remove(&member);
        }
        self.any.store(!since.is_empty(), Ordering::Relaxed);
    }

    /// Forgets all others.
    pub(super) fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        let mut since = self.lock();
        since.retain(|member, _| is_member(*member));
        self.any.store(!since.is_empty(), Ordering::Relaxed);
    }

    /// Whose disk has been nearly full for so short a time that values are not to be taken.
    pub fn waited_for(&self) -> Option<NodeId> {
        self.waited_for_at(Instant::now)
    }

    fn waited_for_at(&self, now: impl Fn() -> Instant) -> Option<NodeId> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let now = now();
        let since = self.lock();
        since.iter().find(|(_, since)| now.saturating_duration_since(**since) < PATIENCE).map(|(member, _)| *member)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_waited_for_until_it_has_room_and_not_for_ever() {
        let full = FullMembers::default();
        full.heard(1, false);
        assert_eq!(full.waited_for(), None);
        full.heard(1, true);
        let later = Instant::now() + PATIENCE;
        full.heard(1, true);
        assert_eq!(full.waited_for(), Some(1));
        assert_eq!(full.waited_for_at(|| later), None, "it is told again and again, and counts from the first time on");
        full.heard(2, false);
        assert_eq!(full.waited_for(), Some(1), "that another has room says nothing");
        full.heard(1, false);
        assert_eq!(full.waited_for(), None);
        full.heard(1, true);
        full.heard(3, true);
        full.retain(|member| member == 3);
        assert_eq!(full.waited_for(), Some(3), "one that is no member any more is not waited for");
    }
}
