//! What a change of membership takes, decided from what is known. No clock, socket or lock.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;

use crate::node::standing::Bar;
use crate::peers::management::ADDRESS_IN_USE;
use crate::raft::types::{Member, NodeId};

/// Entries a learner may be behind and still become a voter at once.
const CAUGHT_UP_WITHIN: u64 = 500;

/// The membership and what the leader sees of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Voters of the newest configuration.
    pub voters: BTreeSet<NodeId>,
    /// All members.
    pub members: BTreeMap<NodeId, Member>,
    /// Those that answered lately, the leader included.
    pub alive: BTreeSet<NodeId>,
    /// A change was begun and not finished.
    pub joint: bool,
    /// This node, the leader.
    pub leader: NodeId,
}

/// One step towards what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is left to do.
    Done,
    /// Another leader began a change: finish it first.
    FinishJoint,
    /// Make it a learner, so that it gets the log.
    AddLearner(NodeId, Member),
    /// It is a learner: once caught up, make it a voter and drop those it replaces, in one change.
    Promote {
        /// Whom.
        raft_id: NodeId,
        /// Members that it takes the place of.
        replaced: Vec<NodeId>,
    },
    /// A member has new addresses.
    Update(NodeId, Member),
    /// Drop members.
    Remove(Vec<NodeId>),
    /// The leader is to go: another must lead and do it.
    TransferFirst,
}

/// The reason of a refusal, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// The address belongs to another node.
    AddressInUse,
    /// The node announces an address that is no `host:port`.
    BadAddress,
    /// The node must not serve.
    Barred(Bar),
    /// The last voter cannot be removed.
    LastVoter,
    /// A living member has the same name or address.
    MemberAlive,
    /// No voter can take over leadership.
    NoSuccessor,
    /// Too few voters are alive to commit the change.
    NoQuorum,
    /// No member has this name or id.
    NoSuchMember,
    /// The node belongs to another cluster.
    OtherCluster,
    /// openraft refused the change.
    Refused,
    /// The node was removed before it had all data.
    Removed,
    /// The node does not support the cluster version.
    Version,
    /// The node speaks another version of the wire format.
    WireVersion,
    /// The change would leave too few voters alive.
    WouldLoseQuorum,
    /// Another node than the named one answers at the address.
    WrongNode,
}

impl RefusalCode {
    /// The code in answers; never renamed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressInUse => ADDRESS_IN_USE,
            Self::BadAddress => "bad_address",
            Self::Barred(bar) => bar.code(),
            Self::LastVoter => "last_voter",
            Self::MemberAlive => "member_alive",
            Self::NoSuccessor => "no_successor",
            Self::NoQuorum => "no_quorum",
            Self::NoSuchMember => "no_such_member",
            Self::OtherCluster => "other_cluster",
            Self::Refused => "refused",
            Self::Removed => "removed",
            Self::Version => "version",
            Self::WireVersion => "wire_version",
            Self::WouldLoseQuorum => "would_lose_quorum",
            Self::WrongNode => "wrong_node",
        }
    }
}

/// Why it cannot be done. `code` is stable, the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub detail: String,
}

impl Refusal {
    fn new(code: RefusalCode, detail: String) -> Self {
        Self { code, detail }
    }
}

/// The next step to make the node `raft_id`, which answers as `joiner`, a voter.
pub fn plan_join(view: &View, raft_id: NodeId, joiner: &Member) -> Result<Step, Refusal> {
    if view.joint {
        return Ok(Step::FinishJoint);
    }
    let mut replaced = Vec::new();
    for (id, member) in view.members.iter().filter(|(id, _)| **id != raft_id) {
        let same_name = member.name == joiner.name;
        if !same_name && member.raft_address != joiner.raft_address {
            continue;
        }
        if view.alive.contains(id) {
            let what = if same_name { "name" } else { "address" };
            return Err(Refusal::new(
                RefusalCode::MemberAlive,
                format!("the living member {member} with raft id {id} has the same {what}: remove it first"),
            ));
        }
        replaced.push(*id);
    }
    Ok(match view.members.get(&raft_id) {
        None => Step::AddLearner(raft_id, joiner.clone()),
        Some(known) if known != joiner => Step::Update(raft_id, joiner.clone()),
        Some(_) if !view.voters.contains(&raft_id) => Step::Promote { raft_id, replaced },
        Some(_) if !replaced.is_empty() => Step::Remove(replaced),
        Some(_) => Step::Done,
    })
}

/// The next step to remove the member named, or with that raft id.
pub fn plan_remove(view: &View, name_or_id: &str, force: bool) -> Result<Step, Refusal> {
    if view.joint {
        return Ok(Step::FinishJoint);
    }
    let named = view.members.iter().filter(|(_, member)| member.name == name_or_id).map(|(id, _)| *id);
    let mut targets: Vec<NodeId> = named.collect();
    if targets.is_empty() {
        targets = view.members.keys().copied().filter(|id| id.to_string() == name_or_id).collect();
    }
    if targets.is_empty() {
        return Err(Refusal::new(RefusalCode::NoSuchMember, format!("no member is called {name_or_id:?}")));
    }
    let left: BTreeSet<NodeId> = view.voters.iter().copied().filter(|voter| !targets.contains(voter)).collect();
    if left.is_empty() {
        return Err(Refusal::new(
            RefusalCode::LastVoter,
            "the last voter cannot be removed: nobody would have the data".to_owned(),
        ));
    }
    if left.len() < view.voters.len() {
        let alive_now = view.voters.intersection(&view.alive).count();
        if !is_majority(alive_now, view.voters.len()) {
            return Err(Refusal::new(
                RefusalCode::NoQuorum,
                format!(
                    "only {alive_now} of {} voters are alive: the change could not be committed",
                    view.voters.len()
                ),
            ));
        }
        let alive_then = left.intersection(&view.alive).count();
        if !force && !is_majority(alive_then, left.len()) {
            return Err(Refusal::new(
                RefusalCode::WouldLoseQuorum,
                format!(
                    "only {alive_then} of the {} voters left would be alive: remove a dead one, or use force",
                    left.len()
                ),
            ));
        }
    }
    if targets.contains(&view.leader) {
        return Ok(Step::TransferFirst);
    }
    Ok(Step::Remove(targets))
}

/// The one change that makes `raft_id` a voter and drops those it replaces.
pub fn promotion(view: &View, raft_id: NodeId, replaced: &[NodeId]) -> ChangeMembers<NodeId, Member> {
    let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([raft_id]))];
    changes.extend(removals(view, replaced));
    ChangeMembers::Batch(changes)
}

/// The one change that drops members. To be proposed with `retain = false`, or voters stay as learners.
pub fn removal(view: &View, targets: &[NodeId]) -> ChangeMembers<NodeId, Member> {
    ChangeMembers::Batch(removals(view, targets))
}

fn removals(view: &View, targets: &[NodeId]) -> Vec<ChangeMembers<NodeId, Member>> {
    let (voters, learners): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        targets.iter().copied().partition(|id| view.voters.contains(id));
    let mut changes = Vec::new();
    if !voters.is_empty() {
        changes.push(ChangeMembers::RemoveVoters(voters));
    }
    if !learners.is_empty() {
        changes.push(ChangeMembers::RemoveNodes(learners));
    }
    changes
}

/// Whether a learner is near enough to vote: as a voter it must not hold up commits for long.
pub fn is_caught_up(matched_next: u64, last_next: u64) -> bool {
    matched_next > 0 && last_next.saturating_sub(matched_next) < CAUGHT_UP_WITHIN
}

fn is_majority(some: usize, all: usize) -> bool {
    some * 2 > all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            raft_address: format!("{name}:8088"),
            management_address: format!("{name}:6000"),
            http_address: format!("{name}:8080"),
            group_address: format!("{name}:50053"),
        }
    }

    /// Voters 1, 2 and 3, called n1 to n3; 1 leads.
    fn group(alive: &[NodeId]) -> View {
        View {
            voters: BTreeSet::from([1, 2, 3]),
            members: (1..=3).map(|id| (id, member(&format!("n{id}")))).collect(),
            alive: alive.iter().copied().collect(),
            joint: false,
            leader: 1,
        }
    }

    fn code(step: Result<Step, Refusal>) -> &'static str {
        step.expect_err("refused").code.as_str()
    }

    #[test]
    fn a_new_node_becomes_learner_then_voter_then_nothing_is_left() {
        let mut view = group(&[1, 2, 3]);
        assert_eq!(plan_join(&view, 4, &member("n4")), Ok(Step::AddLearner(4, member("n4"))));
        view.members.insert(4, member("n4"));
        assert_eq!(plan_join(&view, 4, &member("n4")), Ok(Step::Promote { raft_id: 4, replaced: vec![] }));
        view.voters.insert(4);
        assert_eq!(plan_join(&view, 4, &member("n4")), Ok(Step::Done));
    }

    #[test]
    fn a_wiped_node_replaces_its_old_self_in_one_change() {
        let mut view = group(&[1, 2]);
        assert_eq!(plan_join(&view, 9, &member("n3")), Ok(Step::AddLearner(9, member("n3"))));
        view.members.insert(9, member("n3"));
        assert_eq!(plan_join(&view, 9, &member("n3")), Ok(Step::Promote { raft_id: 9, replaced: vec![3] }));
        assert_eq!(
            promotion(&view, 9, &[3]),
            ChangeMembers::Batch(vec![
                ChangeMembers::AddVoterIds(BTreeSet::from([9])),
                ChangeMembers::RemoveVoters(BTreeSet::from([3])),
            ])
        );
    }

    #[test]
    fn old_learners_of_the_same_name_go_too() {
        let mut view = group(&[1, 2, 3]);
        view.members.insert(7, member("n4"));
        view.members.insert(8, member("n4"));
        assert_eq!(plan_join(&view, 8, &member("n4")), Ok(Step::Promote { raft_id: 8, replaced: vec![7] }));
        assert_eq!(
            promotion(&view, 8, &[7]),
            ChangeMembers::Batch(vec![
                ChangeMembers::AddVoterIds(BTreeSet::from([8])),
                ChangeMembers::RemoveNodes(BTreeSet::from([7])),
            ])
        );
        view.voters.insert(8);
        assert_eq!(plan_join(&view, 8, &member("n4")), Ok(Step::Remove(vec![7])));
    }

    #[test]
    fn nobody_takes_the_place_of_the_living() {
        assert_eq!(code(plan_join(&group(&[1, 2, 3]), 9, &member("n3"))), "member_alive");
        let moved = Member { name: "n4".to_owned(), ..member("n3") };
        assert_eq!(code(plan_join(&group(&[1, 2, 3]), 9, &moved)), "member_alive");
        assert_eq!(plan_join(&group(&[1, 2]), 9, &moved), Ok(Step::AddLearner(9, moved)));
    }

    #[test]
    fn new_addresses_are_written_down() {
        let moved = Member { raft_address: "elsewhere:8088".to_owned(), ..member("n3") };
        assert_eq!(plan_join(&group(&[1, 2, 3]), 3, &moved), Ok(Step::Update(3, moved)));
    }

    #[test]
    fn a_change_that_was_begun_is_finished_first() {
        let view = View { joint: true, ..group(&[1, 2, 3]) };
        assert_eq!(plan_join(&view, 4, &member("n4")), Ok(Step::FinishJoint));
        assert_eq!(plan_remove(&view, "n3", false), Ok(Step::FinishJoint));
    }

    #[test]
    fn members_are_removed_by_name_and_by_raft_id() {
        assert_eq!(plan_remove(&group(&[1, 2, 3]), "n3", false), Ok(Step::Remove(vec![3])));
        assert_eq!(plan_remove(&group(&[1, 2, 3]), "3", false), Ok(Step::Remove(vec![3])));
        assert_eq!(code(plan_remove(&group(&[1, 2, 3]), "n4", false)), "no_such_member");
    }

    #[test]
    fn the_leader_hands_over_before_it_goes() {
        assert_eq!(plan_remove(&group(&[1, 2, 3]), "n1", false), Ok(Step::TransferFirst));
    }

    #[test]
    fn a_removal_keeps_a_quorum_unless_forced() {
        assert_eq!(plan_remove(&group(&[1, 2]), "n3", false), Ok(Step::Remove(vec![3])), "the dead one");
        assert_eq!(code(plan_remove(&group(&[1, 2]), "n2", false)), "would_lose_quorum");
        assert_eq!(plan_remove(&group(&[1, 2]), "n2", true), Ok(Step::Remove(vec![2])));
        assert_eq!(code(plan_remove(&group(&[1]), "n2", true)), "no_quorum");
    }

    #[test]
    fn the_last_voter_stays() {
        let view = View {
            voters: BTreeSet::from([1]),
            members: BTreeMap::from([(1, member("n1")), (2, member("n2"))]),
            alive: BTreeSet::from([1]),
            joint: false,
            leader: 1,
        };
        assert_eq!(code(plan_remove(&view, "n1", true)), "last_voter");
        assert_eq!(plan_remove(&view, "n2", false), Ok(Step::Remove(vec![2])), "a dead learner needs no quorum check");
    }

    #[test]
    fn a_learner_that_got_nothing_is_not_caught_up() {
        assert!(!is_caught_up(0, 10));
        assert!(is_caught_up(10, 10) && is_caught_up(1, 500));
        assert!(!is_caught_up(1, 501));
    }
}
