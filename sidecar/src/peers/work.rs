//! [`Work`]: whether a leader's entries get through, as the leader knows, and as it tells the members.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::raft::types::{LeaderId, NodeId};

/// What a leader says of itself with each heartbeat. A leader of version 0.1.0 says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    /// Entries get through, as far as it knows.
    #[default]
    None,
    /// It reaches no majority, or its entries do not: nothing it is asked for can be done.
    NoMajority,
    /// Its entries make no progress on their way to the member that is told.
    Standstill,
}

impl Trouble {
    /// As a number for the wire.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::None => 0,
            Self::NoMajority => 1,
            Self::Standstill => 2,
        }
    }

    /// From the wire. What a newer version may say counts as nothing.
    pub fn of_code(code: u32) -> Self {
        match code {
            1 => Self::NoMajority,
            2 => Self::Standstill,
            _ => Self::None,
        }
    }
}

/// Heartbeats travel on a connection of their own, so that they are answered says nothing about entries. Cheap to clone;
/// clones are one.
#[derive(Debug, Clone, Default)]
pub struct Work {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// As a leader: whether entries make no progress at a majority.
    stuck: bool,
    /// As a leader: whether no majority answers.
    silent: bool,
    /// As a leader: to whom entries make no progress.
    standing: BTreeSet<NodeId>,
    /// For how long no leader with a majority was seen.
    lost_for: Duration,
    /// As a follower: what the leader said last.
    told: Option<(LeaderId, Trouble)>,
}

impl Work {
    /// Notes what this node sees while it leads.
    pub fn set(&self, stuck: bool, silent: bool, standing: BTreeSet<NodeId>) {
        let mut state = self.lock();
        (state.stuck, state.silent, state.standing) = (stuck, silent, standing);
    }

    /// Notes for how long no leader with a majority was seen.
    pub fn set_lost_for(&self, lost_for: Duration) {
        self.lock().lost_for = lost_for;
    }

    /// For how long no leader with a majority was seen; zero while there is one.
    pub fn lost_for(&self) -> Duration {
        self.lock().lost_for
    }

    /// Whether entries of this leader make no progress at a majority, though it answers heartbeats.
    pub fn is_stuck(&self) -> bool {
        self.lock().stuck
    }

    /// The members to whom entries of this leader make no progress.
    pub fn standing(&self) -> BTreeSet<NodeId> {
        self.lock().standing.clone()
    }

    /// What this leader says to `target`.
    pub(super) fn trouble_for(&self, target: NodeId) -> Trouble {
        let state = self.lock();
        match state.stuck || state.silent {
            true => Trouble::NoMajority,
            false if state.standing.contains(&target) => Trouble::Standstill,
            false => Trouble::None,
        }
    }

    /// Notes what `leader` said to this node.
    pub fn heard(&self, leader: LeaderId, trouble: Trouble) {
        self.lock().told = Some((leader, trouble));
    }

    /// What `leader` said to this node last.
    pub fn told_by(&self, leader: LeaderId) -> Trouble {
        self.lock().told.filter(|(who, _)| *who == leader).map(|(_, trouble)| trouble).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_told_what_concerns_it_and_only_its_own_leader_is_believed() {
        let work = Work::default();
        assert_eq!(work.trouble_for(2), Trouble::None);
        work.set(false, false, BTreeSet::from([2]));
        assert_eq!((work.trouble_for(2), work.trouble_for(3)), (Trouble::Standstill, Trouble::None));
        for (stuck, silent) in [(true, false), (false, true)] {
            work.set(stuck, silent, BTreeSet::new());
            assert_eq!(work.trouble_for(3), Trouble::NoMajority);
        }
        let leader = LeaderId { term: 4, node_id: 2 };
        work.heard(leader, Trouble::Standstill);
        assert_eq!(work.told_by(leader), Trouble::Standstill);
        assert_eq!(work.told_by(LeaderId { term: 5, node_id: 2 }), Trouble::None);
        for trouble in [Trouble::None, Trouble::NoMajority, Trouble::Standstill] {
            assert_eq!(Trouble::of_code(trouble.code()), trouble);
        }
    }
}
