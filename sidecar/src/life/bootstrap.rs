//! Whether an empty node joins, forms a cluster or waits: decided from what the nodes it was told of answer.

use std::collections::BTreeSet;

use crate::peers::management::StatusDocument;
use crate::raft::types::NodeId;

/// What a JOIN_ADDR answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Silent,
    /// It is this node.
    Myself,
    /// It is in no cluster, either.
    Waiting {
        /// Who.
        raft_id: NodeId,
        /// It wants to form one.
        bootstrap: bool,
        /// Whose wish to form one it has noted.
        claim: Option<NodeId>,
    },
    /// It is in a cluster.
    Member,
    /// It was in one and is not any more: no help.
    Removed,
}

impl Answer {
    /// From its status.
    pub fn of(status: &StatusDocument, me: NodeId) -> Self {
        if status.node.raft_id == me {
            return Self::Myself;
        }
        match &status.waiting {
            Some(waiting) => {
                Self::Waiting { raft_id: status.node.raft_id, bootstrap: waiting.bootstrap, claim: waiting.claim }
            }
            None if status.node.role == "removed" => Self::Removed,
            None => Self::Member,
        }
    }
}

/// What a waiting node answers about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whether it wants to form a cluster.
    pub bootstrap: bool,
    /// Whose wish it has noted.
    pub claim: Option<NodeId>,
    /// Why it waits; empty = nothing is known yet.
    pub reason: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Ask these (places in the list) to make this node a member.
    Join(Vec<usize>),
    /// Form a new cluster.
    Form,
    /// Another node that may form one goes first: give up any claim.
    Yield(NodeId),
    /// Ask again later; the reason is for the log.
    Wait(String),
}

/// Decides for the node `me`. `answers` are those of the distinct JOIN_ADDR; `claimed` is whose wish this node has noted
/// itself; `foreign` is a cluster that has sent it Raft messages, so an old one still knows this address.
///
/// Two nodes can never both form one: each needs the claims of a majority of the nodes named, and each node notes one
/// claim at a time.
pub fn decide(
    me: NodeId,
    bootstrap: bool,
    answers: &[Answer],
    claimed: Option<NodeId>,
    foreign: Option<&str>,
) -> Decision {
    let members: Vec<usize> =
        answers.iter().enumerate().filter(|(_, answer)| **answer == Answer::Member).map(|(at, _)| at).collect();
    if !members.is_empty() {
        return Decision::Join(members);
    }
    if let Some(cluster) = foreign {
        return Decision::Wait(format!(
            "the cluster {cluster} still knows this address: a new one is not formed beside it; let a member of it join this node"
        ));
    }
    if !bootstrap {
        let whom = if answers.is_empty() { "an operator" } else { "a cluster to join, or an operator" };
        return Decision::Wait(format!("waiting for {whom}"));
    }
    if answers.contains(&Answer::Removed) {
        return Decision::Wait("a node named in JOIN_ADDR was removed from a cluster, so there is one".to_owned());
    }
    let mut waiting = BTreeSet::from([me]);
    let mut claims = BTreeSet::new();
    if claimed == Some(me) {
        claims.insert(me);
    }
    // Addresses that did not say whose they are count as nodes; two that are the same node count once.
    let silent = answers.iter().filter(|answer| **answer == Answer::Silent).count();
    for answer in answers {
        if let Answer::Waiting { raft_id, bootstrap, claim } = answer {
            if *bootstrap && *raft_id < me {
                return Decision::Yield(*raft_id);
            }
            waiting.insert(*raft_id);
            if *claim == Some(me) {
                claims.insert(*raft_id);
            }
        }
    }
    let all = waiting.len() + silent;
    if claims.len() * 2 > all {
        return Decision::Form;
    }
    Decision::Wait(format!(
        "to form a cluster, a majority of the {all} nodes named must answer that there is none; {} did",
        claims.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = 10;

    fn waiting(raft_id: NodeId, claim: NodeId) -> Answer {
        Answer::Waiting { raft_id, bootstrap: false, claim: Some(claim) }
    }

    fn forms(answers: &[Answer]) -> bool {
        decide(ME, true, answers, Some(ME), None) == Decision::Form
    }

    #[test]
    fn an_existing_cluster_is_joined_whatever_the_flags_say() {
        let answers = [Answer::Myself, Answer::Silent, Answer::Member, Answer::Member];
        for bootstrap in [true, false] {
            assert_eq!(decide(ME, bootstrap, &answers, Some(ME), Some("x")), Decision::Join(vec![2, 3]));
        }
    }

    #[test]
    fn alone_with_the_flag_it_forms_at_once_and_without_it_waits() {
        assert!(forms(&[]) && forms(&[Answer::Myself]));
        assert!(matches!(decide(ME, false, &[], None, None), Decision::Wait(_)));
    }

    #[test]
    fn a_majority_of_the_nodes_named_must_say_that_there_is_none() {
        assert!(!forms(&[Answer::Myself, Answer::Silent, Answer::Silent]));
        assert!(forms(&[Answer::Myself, waiting(11, ME), Answer::Silent]));
        assert!(forms(&[waiting(11, ME), Answer::Silent]), "itself counts though the list does not name it");
        assert!(!forms(&[waiting(11, ME), Answer::Silent, Answer::Silent]), "two of four");
        assert!(!forms(&[Answer::Silent]), "one of two");
    }

    #[test]
    fn the_same_node_under_two_addresses_counts_once() {
        assert!(!forms(&[waiting(11, ME), waiting(11, ME), Answer::Silent, Answer::Silent]));
    }

    #[test]
    fn claims_of_another_do_not_count() {
        assert!(!forms(&[Answer::Myself, waiting(11, 12), Answer::Silent]));
        assert!(!matches!(decide(ME, true, &[waiting(11, ME), Answer::Silent], Some(12), None), Decision::Form));
    }

    #[test]
    fn of_two_that_want_to_the_lower_raft_id_does() {
        let lower = Answer::Waiting { raft_id: 9, bootstrap: true, claim: Some(ME) };
        let higher = Answer::Waiting { raft_id: 11, bootstrap: true, claim: Some(ME) };
        assert_eq!(decide(ME, true, &[lower], Some(ME), None), Decision::Yield(9));
        assert!(forms(&[higher]));
    }

    #[test]
    fn an_old_cluster_that_knows_the_address_or_a_removed_node_prevents_a_new_one() {
        assert!(
            matches!(decide(ME, true, &[], Some(ME), Some("c0ffee")), Decision::Wait(why) if why.contains("c0ffee"))
        );
        assert!(!forms(&[Answer::Removed, waiting(11, ME)]));
    }
}
