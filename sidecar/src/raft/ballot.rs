//! [`judge`]: which candidates openraft hears of.
//!
//! A vote that is granted is durable, and raises the term for good. Raft itself asks only whether the candidate's log is long enough, and
//! takes the candidate's word for all the rest.

use openraft::raft::VoteRequest;

use crate::raft::types::{LogId, NodeId, TypeConfig, Vote};

/// How far the term of a candidate may be above the own one, in terms. Members that fail to elect anybody stand every three seconds in the
/// end: one that missed a month of that is still heard. And a term that was raised by so much a million times is still far from the last.
pub const MAX_TERM_STEP: u64 = 1 << 20;

/// How far the term of a leader may be above the own one, in terms. Members of a group that elects a leader keep to [`MAX_TERM_STEP`]: it takes
/// a million forged votes to come so far ahead of a member that is away, and sixteen million forged leaders to use up the terms.
pub const MAX_LED_TERM_STEP: u64 = 1 << 40;

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
    // Never let in, or removed. A member that lags elects one that it does not know yet, be it a new node or one that was removed and let in
    // again with its old data: then the entry that did so is beyond the end of the own log. The log of one that was removed and nothing
    // else ends before the entry that removed it, which is here.
    if !sight.is_member && request.last_log_id <= sight.last_log_id {
        return Verdict::Refuse("the candidate is no member that is known here");
    }
    // The answer to the first request was lost: the vote is granted already, and no promise is left to break.
    if request.vote.leader_id == sight.vote.leader_id {
        return Verdict::Ask;
    }
    match (request.leadership_transfer, sight.is_named, sight.names_successors) {
        (false, ..) | (true, true, _) => Verdict::Ask,
        (true, false, false) => Verdict::AskWithoutPrivilege,
        (true, false, true) => Verdict::Refuse("the leader has not named the candidate as its successor"),
    }
}

/// Whether `vote` can be that of a leader whose entries or snapshot this node takes. Pure.
///
/// # Errors
/// Why not: nothing of the message is to be taken.
pub fn check_leader(vote: &Vote, own_term: u64, me: NodeId) -> Result<(), &'static str> {
    if !vote.committed {
        return Err("the vote is not that of a leader");
    }
    if vote.leader_id.node_id == me {
        return Err("the leader has the raft id of this node");
    }
    if vote.leader_id.term > own_term.saturating_add(MAX_LED_TERM_STEP) {
        return Err("the term of the leader is too far above the one known here");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::types::LeaderId;

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
        // Removed by the leader of the term, with a long log of the term before.
        assert!(is_refused(judge(&request(TERM + 1, 3, log_id(TERM - 1, 900), false), &stranger)));
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
        let granted = Sight { vote: asked.vote, ..sight() };
        assert_eq!(judge(&asked, &granted), Verdict::Ask, "asked again");
    }

    #[test]
    fn nobody_stands_as_a_leader_or_as_this_node() {
        let mut led = request(TERM + 1, 3, log_id(TERM, 100), false);
        led.vote.committed = true;
        assert!(is_refused(judge(&led, &sight())));
        assert!(is_refused(judge(&request(TERM + 1, ME, log_id(TERM, 100), false), &sight())));
    }

    #[test]
    fn a_leader_is_another_one_and_not_out_of_reach() {
        let vote = |term, node_id, committed| Vote { leader_id: LeaderId { term, node_id }, committed };
        for good in [vote(TERM, 2, true), vote(1, 2, true), vote(TERM + MAX_LED_TERM_STEP, 2, true)] {
            assert_eq!(check_leader(&good, TERM, ME), Ok(()));
        }
        let far = vote(TERM + MAX_LED_TERM_STEP + 1, 2, true);
        for bad in [vote(TERM, 2, false), vote(TERM, ME, true), far, vote(u64::MAX, 2, true)] {
            assert!(check_leader(&bad, TERM, ME).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever is sent: openraft hears of no candidate that is too far ahead or of no group known here, and breaks no promise without the word
        /// of the leader.
        #[test]
        fn what_is_asked_is_bounded(
            term: u64,
            own_term in 0..u64::MAX,
            node_id in 0..4u64,
            last in proptest::option::of((0..9u64, 0..200u64)),
            flags: [bool; 5],
        ) {
            let [transfer, committed, is_member, is_named, names_successors] = flags;
            let mut asked = request(term, node_id, last.and_then(|(term, index)| log_id(term, index)), transfer);
            asked.vote.committed = committed;
            let vote = Vote { leader_id: LeaderId { term: own_term, node_id: 2 }, committed: true };
            let sight = Sight { vote, is_member, is_named, names_successors, ..sight() };
            let verdict = judge(&asked, &sight);
            if !is_refused(verdict) {
                prop_assert!(term <= own_term.saturating_add(MAX_TERM_STEP));
                prop_assert!(!committed && node_id != ME);
                prop_assert!(is_member || asked.last_log_id > sight.last_log_id);
            }
            if verdict == Verdict::Ask && transfer {
                prop_assert!(is_named || asked.vote.leader_id == sight.vote.leader_id);
            }
        }
    }
}
