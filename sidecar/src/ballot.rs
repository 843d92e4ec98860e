//! [`judge`]: which candidates openraft hears of; [`Departed`]: who was a member.
//!
//! A vote that is granted is durable, and raises the term for good. Raft itself asks only whether the candidate's log is long enough, and
//! takes the candidate's word for all the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::raft::VoteRequest;

use crate::types::{LogId, NodeId, StoredMembership, TypeConfig, Vote};

/// How far the term of a candidate may be above the own one, in terms. Members that fail to elect anybody stand every three seconds in the
/// end: one that missed a month of that is still heard. And a term that was raised by so much a million times is still far from the last.
pub const MAX_TERM_STEP: u64 = 1 << 20;
/// Members that have left and are remembered, the last ones: each had to be let in and removed by a majority.
const MOST_DEPARTED: usize = 1_024;

/// What a member knows of itself and of a candidate.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// This node.
    pub me: NodeId,
    /// Its vote.
    pub vote: Vote,
    /// The end of its log.
    pub last_log_id: Option<LogId>,
    /// The candidate is in the newest membership that is known here.
    pub is_member: bool,
    /// It was in one before, and is in the newest no more.
    pub has_departed: bool,
    /// The leader that this node follows has named this very candidate, in this term.
    pub is_named: bool,
    /// The group has a cluster version in which leaders name their successors.
    pub names_successors: bool,
}

/// What to do with a request for a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// openraft decides.
    Ask,
    /// openraft decides, as about any other candidate: the promise to the leader counts.
    AskWithoutPrivilege,
    /// Not granted, whatever openraft would say; and why. The candidate is told the vote of this node, and so the term.
    Refuse(&'static str),
}

/// Whether openraft is to hear of a candidate. Pure.
pub fn judge(request: &VoteRequest<TypeConfig>, sight: &Sight) -> Verdict {
    let candidate = request.vote.leader_id;
    if request.vote.committed {
        return Verdict::Refuse("a vote that is committed is no candidate's");
    }
    if candidate.node_id == sight.me {
        return Verdict::Refuse("the candidate has the raft id of this node");
    }
    if candidate.term > sight.vote.leader_id.term.saturating_add(MAX_TERM_STEP) {
        return Verdict::Refuse("the term is too far above the one known here");
    }
    if sight.has_departed {
        return Verdict::Refuse("the candidate was removed from the group");
    }
    // A member that lags elects one that it does not know yet: then the entry that let it in is beyond the end of the own log.
    if !sight.is_member && request.last_log_id <= sight.last_log_id {
        return Verdict::Refuse("the candidate is no member that is known here");
    }
    match (request.leadership_transfer, sight.is_named, sight.names_successors) {
        (false, ..) | (true, true, _) => Verdict::Ask,
        (true, false, false) => Verdict::AskWithoutPrivilege,
        (true, false, true) => Verdict::Refuse("the leader has not named the candidate as its successor"),
    }
}

/// The raft ids of nodes that were members and are no more, as far as this process has seen; none is ever used again. Cheap to clone;
/// clones are one.
#[derive(Debug, Clone, Default)]
pub struct Departed {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<NodeId>,
    departed: VecDeque<NodeId>,
}

impl Departed {
    /// Follows the newest membership known here. One whose entry is not committed may be taken back: then who had left is there again.
    pub fn follow(&self, membership: &StoredMembership) {
        self.see(membership.nodes().map(|(id, _)| *id).collect());
    }

    /// Whether it has left.
    pub fn contains(&self, node: NodeId) -> bool {
        self.lock().departed.contains(&node)
    }

    fn see(&self, now: Vec<NodeId>) {
        let mut state = self.lock();
        if state.members == now {
            return;
        }
        let before = std::mem::replace(&mut state.members, now);
        let State { members, departed } = &mut *state;
        departed.retain(|id| !members.contains(id));
        departed.extend(before.into_iter().filter(|id| !members.contains(id)));
        let surplus = departed.len().saturating_sub(MOST_DEPARTED);
        departed.drain(..surplus);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::LeaderId;

    const ME: NodeId = 1;
    const TERM: u64 = 7;

    fn log_id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(LeaderId { term, node_id: 2 }, index))
    }

    fn request(term: u64, node_id: NodeId, last_log_id: Option<LogId>, transfer: bool) -> VoteRequest<TypeConfig> {
        let vote = Vote { leader_id: LeaderId { term, node_id }, committed: false };
        VoteRequest { vote, last_log_id, leadership_transfer: transfer }
    }

    fn sight() -> Sight {
        Sight {
            me: ME,
            vote: Vote { leader_id: LeaderId { term: TERM, node_id: 2 }, committed: true },
            last_log_id: log_id(TERM, 100),
            is_member: true,
            has_departed: false,
            is_named: false,
            names_successors: true,
        }
    }

    fn is_refused(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Refuse(_))
    }

    #[test]
    fn the_last_term_is_never_reached_by_one_vote() {
        let at = |term| judge(&request(term, 3, log_id(TERM, 100), false), &sight());
        assert_eq!(at(TERM + MAX_TERM_STEP), Verdict::Ask);
        assert!(is_refused(at(TERM + MAX_TERM_STEP + 1)) && is_refused(at(u64::MAX)));
        let high =
            Sight { vote: Vote { leader_id: LeaderId { term: u64::MAX, node_id: 2 }, ..sight().vote }, ..sight() };
        assert_eq!(judge(&request(u64::MAX, 3, log_id(TERM, 100), false), &high), Verdict::Ask, "no overflow");
    }

    #[test]
    fn a_stranger_is_heard_only_if_its_log_may_know_more() {
        let stranger = Sight { is_member: false, ..sight() };
        for (last, is_heard) in
            [(None, false), (log_id(TERM, 99), false), (log_id(TERM, 100), false), (log_id(TERM, 101), true)]
        {
            let verdict = judge(&request(TERM + 1, 3, last, false), &stranger);
            assert_eq!(verdict == Verdict::Ask, is_heard, "{last:?}");
        }
        let departed = Sight { has_departed: true, ..stranger };
        assert!(
            is_refused(judge(&request(TERM + 1, 3, log_id(TERM, 101), false), &departed)),
            "it is known to be removed"
        );
        // A node that was just let in knows nobody yet.
        let blank = Sight { last_log_id: None, ..stranger };
        assert_eq!(judge(&request(TERM + 1, 3, log_id(1, 0), false), &blank), Verdict::Ask);
    }

    #[test]
    fn a_transfer_needs_the_word_of_the_leader() {
        let asked = request(TERM + 1, 3, log_id(TERM, 100), true);
        assert!(is_refused(judge(&asked, &sight())));
        assert_eq!(judge(&asked, &Sight { is_named: true, ..sight() }), Verdict::Ask);
        let older = Sight { names_successors: false, ..sight() };
        assert_eq!(judge(&asked, &older), Verdict::AskWithoutPrivilege, "its leader may be of version 0.1.0");
        assert_eq!(judge(&asked, &Sight { is_named: true, ..older }), Verdict::Ask);
    }

    #[test]
    fn nobody_stands_as_a_leader_or_as_this_node() {
        let mut led = request(TERM + 1, 3, log_id(TERM, 100), false);
        led.vote.committed = true;
        assert!(is_refused(judge(&led, &sight())));
        assert!(is_refused(judge(&request(TERM + 1, ME, log_id(TERM, 100), false), &sight())));
    }

    proptest! {
        /// Whatever is sent: openraft hears of no candidate that is too far ahead or has left, and breaks no promise without the word
        /// of the leader.
        #[test]
        fn what_is_asked_is_bounded(
            term: u64,
            own_term in 0..u64::MAX,
            node_id in 0..4u64,
            last in proptest::option::of((0..9u64, 0..200u64)),
            flags: [bool; 6],
        ) {
            let [transfer, committed, is_member, has_departed, is_named, names_successors] = flags;
            let mut asked = request(term, node_id, last.and_then(|(term, index)| log_id(term, index)), transfer);
            asked.vote.committed = committed;
            let vote = Vote { leader_id: LeaderId { term: own_term, node_id: 2 }, committed: true };
            let sight = Sight { vote, is_member, has_departed, is_named, names_successors, ..sight() };
            let verdict = judge(&asked, &sight);
            if !is_refused(verdict) {
                prop_assert!(term <= own_term.saturating_add(MAX_TERM_STEP));
                prop_assert!(!committed && !has_departed && node_id != ME);
                prop_assert!(is_member || asked.last_log_id > sight.last_log_id);
            }
            if verdict == Verdict::Ask && transfer {
                prop_assert!(is_named);
            }
        }
    }

    #[test]
    fn who_has_left_is_remembered_until_it_is_there_again() {
        let departed = Departed::default();
        departed.see(vec![1, 2, 3]);
        assert!(!departed.contains(1) && !departed.contains(4));
        departed.see(vec![1, 2, 4]);
        assert!(departed.contains(3) && !departed.contains(4));
        departed.see(vec![1, 2, 3]);
        assert!(!departed.contains(3) && departed.contains(4), "the change was taken back");
        for id in 10..(10 + 2 * MOST_DEPARTED as u64) {
            departed.see(vec![1, id]);
        }
        assert!(departed.lock().departed.len() <= MOST_DEPARTED);
        assert!(departed.contains(8 + 2 * MOST_DEPARTED as u64) && !departed.contains(10));
    }
}
