//! [`Inbound`]: the streams of appends that other members have open to this node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::raft::types::NodeId;

/// Senders that are remembered, far above the members that a group has: whoever opens a stream may say any number of itself.
pub(crate) const MAX_SENDERS: usize = 1_024;

/// How many streams each member has open. Cheap to clone.
///
/// A leader has two, for entries and for heartbeats. When its process ends they end with it, which is seen long before its silence
/// means anything.
#[derive(Debug, Clone, Default)]
pub struct Inbound {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    streams: Mutex<HashMap<NodeId, usize>>,
    last_ended: Notify,
}

/// One open stream, until this is dropped.
#[derive(Debug)]
pub struct Stream {
    inbound: Inbound,
    sender: NodeId,
}

impl Inbound {
    /// `sender` opens a stream.
    pub fn open(&self, sender: NodeId) -> Stream {
        let mut streams = self.lock();
        if streams.len() >= MAX_SENDERS && !streams.contains_key(&sender) {
            streams.retain(|_, open| *open > 0);
        }
        *streams.entry(sender).or_default() += 1;
        drop(streams);
        Stream { inbound: self.clone(), sender }
    }

    /// Whether `sender` had streams, and has none now. One that does not say who it is, as version 0.1.0, never has.
    pub fn has_ended(&self, sender: NodeId) -> bool {
        self.lock().get(&sender) == Some(&0)
    }

    /// Returns when the last stream of a member has ended since the last call.
    pub async fn last_ended(&self) {
        self.shared.last_ended.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, usize>> {
        self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.inbound.lock();
        let left = streams.get_mut(&self.sender).map(|open| {
            *open = open.saturating_sub(1);
            *open
        });
        drop(streams);
        if left == Some(0) {
            self.inbound.shared.last_ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_the_end_of_the_last_stream_is_told() {
        let inbound = Inbound::default();
        let (first, second) = (inbound.open(1), inbound.open(1));
        let other = inbound.open(2);
        drop(first);
        assert!(!inbound.has_ended(1) && !inbound.has_ended(3));
        assert!(tokio::time::timeout(Duration::from_millis(20), inbound.last_ended()).await.is_err());
        drop(second);
        assert!(inbound.has_ended(1) && !inbound.has_ended(2));
        tokio::time::timeout(Duration::from_secs(10), inbound.last_ended()).await.expect("told");
        let again = inbound.open(1);
        assert!(!inbound.has_ended(1));
        drop((again, other));
        assert!(inbound.has_ended(1) && inbound.has_ended(2));
    }

    #[test]
    fn numbers_that_nobody_has_are_forgotten() {
        let inbound = Inbound::default();
        let member = inbound.open(1);
        for sender in 2..3 * MAX_SENDERS as NodeId {
            drop(inbound.open(sender));
        }
        assert!(inbound.lock().len() <= MAX_SENDERS);
        drop(member);
        assert!(inbound.has_ended(1), "one with a stream is not");
    }
}
