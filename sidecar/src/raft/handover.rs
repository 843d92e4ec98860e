//! [`Handover`]: the successor that a leader has named, and in which term it is to stand.
//!
//! A member that has promised a leader to help nobody else may break the promise for one candidate only: for the one that this very leader
//! wants to take over. The word of the candidate is not enough, for anybody can send it. So the leader names its successor in its appends,
//! before it asks the successor to stand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftkv_proto::raft as proto;

use crate::raft::types::{LeaderId, NodeId, Vote};

/// Whom a leader has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    by: LeaderId,
    /// As whom it stands.
    successor: LeaderId,
}

/// What is known of it here: as leader, what this node has named; as follower, what it was told. In memory only: a member that restarts
/// keeps its promise to the end. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Handover {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whether anybody was ever named: appends look no further where not.
    is_named: AtomicBool,
    named: Mutex<Option<Named>>,
}

impl Handover {
    /// This node, which leads as `leader`, gives leadership to `successor`, which stands in the next term. Holds until the leadership ends:
    /// the lease of this leadership must have been revoked before.
    pub fn name(&self, leader: LeaderId, successor: NodeId) {
        let successor = LeaderId { term: leader.term.saturating_add(1), node_id: successor };
        self.note(Named { by: leader, successor });
    }

    /// What an append of `leader` is to say.
    pub fn said_by(&self, leader: LeaderId) -> Option<proto::LeaderId> {
        if !self.inner.is_named.load(Ordering::Acquire) {
            return None;
        }
        let named = self.lock().filter(|named| named.by == leader)?;
        Some(proto::LeaderId { term: named.successor.term, node_id: named.successor.node_id })
    }

    /// An append of `leader`, which this node has accepted, named a successor.
    pub fn heard(&self, leader: LeaderId, successor: proto::LeaderId) {
        self.note(Named { by: leader, successor: LeaderId { term: successor.term, node_id: successor.node_id } });
    }

    /// Whether the leader whose `vote` this node follows has named `candidate`.
    pub fn is_to(&self, candidate: LeaderId, vote: Vote) -> bool {
        let wanted = Named { by: vote.leader_id, successor: candidate };
        vote.committed && *self.lock() == Some(wanted)
    }

    /// Whether the leader whose `vote` this node follows has named this member, in whatever term.
    pub fn is_to_member(&self, member: NodeId, vote: Vote) -> bool {
        let is_it = |named: Named| named.by == vote.leader_id && named.successor.node_id == member;
        vote.committed && self.lock().is_some_and(is_it)
    }

    fn note(&self, named: Named) {
        let mut known = self.lock();
        let order = |named: Named| (named.by.term, named.by.node_id);
        if known.is_none_or(|known| order(known) <= order(named)) {
            *known = Some(named);
            self.inner.is_named.store(true, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Named>> {
        self.inner.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, node_id: NodeId) -> LeaderId {
        LeaderId { term, node_id }
    }

    fn follows(leader_id: LeaderId) -> Vote {
        Vote { leader_id, committed: true }
    }

    #[test]
    fn only_the_pair_that_the_own_leader_has_named_may_stand() {
        let (at_leader, at_member) = (Handover::default(), Handover::default());
        let now = leader(5, 1);
        assert_eq!(at_leader.said_by(now), None);
        at_leader.name(now, 2);
        let said = at_leader.said_by(now).expect("named");
        assert_eq!((said.term, said.node_id), (6, 2));
        assert!(at_leader.is_to(leader(6, 2), follows(now)), "it votes, too");
        assert!(!at_member.is_to(leader(6, 2), follows(now)), "not told yet");
        at_member.heard(now, said);
        assert!(at_member.is_to(leader(6, 2), follows(now)) && at_member.is_to_member(2, follows(now)));
        for candidate in [leader(7, 2), leader(5, 2), leader(6, 3), leader(u64::MAX, 2)] {
            assert!(!at_member.is_to(candidate, follows(now)), "{candidate}");
        }
        assert!(!at_member.is_to(leader(6, 2), follows(leader(5, 3))), "of another leader");
        let granted = Vote { leader_id: now, committed: false };
        assert!(!at_member.is_to(leader(6, 2), granted) && !at_member.is_to_member(2, granted), "it leads no more");
    }

    #[test]
    fn a_leader_names_another_and_an_older_one_nobody() {
        let handover = Handover::default();
        handover.name(leader(5, 1), 2);
        handover.name(leader(5, 1), 3);
        assert!(handover.is_to_member(3, follows(leader(5, 1))) && !handover.is_to_member(2, follows(leader(5, 1))));
        handover.heard(leader(4, 9), proto::LeaderId { term: 5, node_id: 4 });
        assert!(handover.is_to_member(3, follows(leader(5, 1))));
        assert_eq!(handover.said_by(leader(6, 1)), None, "for a leadership, not for a node");
        handover.heard(leader(6, 2), proto::LeaderId { term: 7, node_id: 1 });
        assert!(handover.is_to(leader(7, 1), follows(leader(6, 2))));
    }
}
