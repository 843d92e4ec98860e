//! [`Elections`]: whether this node stands for election.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::node::Group;

/// Why a node must not stand for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node may have promised a leader not to vote before the node restarted (decision 3).
    Restarted,
    /// It could not apply anything.
    EngineGone,
    /// It is going.
    Stopping,
    /// It is no longer a member.
    Removed,
    /// It led, and its entries made no progress at a majority.
    Standstill,
    /// Another process that runs has its raft id.
    Duplicate,
    /// Its log lacks entries that it acknowledged.
    Stale,
    /// Its log waits for a file descriptor.
    NoDescriptor,
}

/// Whether this node stands for election: only while no reason speaks against it.
///
/// Lives in the extensions of the Raft handle, so that whoever has the group has it, too.
#[derive(Debug, Clone)]
pub struct Elections {
    against: Arc<Mutex<BTreeSet<Reason>>>,
}

impl Default for Elections {
    /// With the reason that holds at every start until it is found not to.
    fn default() -> Self {
        Self { against: Arc::new(Mutex::new(BTreeSet::from([Reason::Restarted]))) }
    }
}

impl Elections {
    /// Those of a group.
    pub fn of(group: &Group) -> Self {
        group.raft.extension::<Self>()
    }

    /// Adds a reason. True when it is new.
    pub fn forbid(&self, reason: Reason) -> bool {
        self.lock().insert(reason)
    }

    /// Takes a reason back. True when it was there.
    pub fn permit(&self, reason: Reason) -> bool {
        self.lock().remove(&reason)
    }

    /// Whether that reason holds.
    pub fn is_forbidden_by(&self, reason: Reason) -> bool {
        self.lock().contains(&reason)
    }

    /// Whether nothing speaks against it.
    pub fn are_open(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Reason>> {
        self.against.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
