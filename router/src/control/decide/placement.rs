//! Which group a new node belongs to. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::control::decide::change::{NewGroup, check_address, check_group_name};
use crate::control::document::records::{GroupId, GroupRecord, GroupState, NodeRecord};
use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::state::{ClusterState, MAX_NODES};

/// Longest name of a node, as a DNS label.
const MAX_NODE_NAME_BYTES: usize = 63;

/// A node that asks where it belongs. It is in no cluster yet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Its name. The same name later is the same node.
    pub name: String,
    /// It is to begin a new group, rather than to join one.
    #[serde(default)]
    pub bootstrap: bool,
    /// Where its peers reach it, `host:port`.
    pub raft_address: String,
    /// Where its sidecar's management listens.
    pub management_address: String,
    /// Where routers reach it.
    pub group_address: String,
    /// Name of the group that it is to be in: of the one it begins, or of the one it joins as soon as there is one of
    /// that name. Without it, the group that has the fewest nodes.
    #[serde(default)]
    pub group: Option<String>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase", tag = "assignment")]
pub enum Assignment {
    /// Begin the group: nobody else is in it.
    Bootstrap {
        /// Which.
        group: GroupId,
    },
    /// Join the group.
    Join {
        /// Which.
        group: GroupId,
        /// Management addresses of nodes of it.
        join: Vec<String>,
    },
    /// There is no place for it now; ask again in a second.
    Wait {
        /// Why.
        reason: String,
    },
}

impl ClusterState {
    /// Decides where a node belongs, and remembers it: the same node asking again gets the same answer.
    pub fn register(&mut self, node: &Registration, now_ms: u64) -> Result<Assignment, Rejected> {
        check_node_name(&node.name)?;
        for address in [&node.raft_address, &node.management_address, &node.group_address] {
            check_address(address)?;
        }
        let known = self.nodes.get(&node.name);
        if let Some(known) = known.filter(|known| self.groups.get(&known.group).is_some_and(GroupRecord::is_live)) {
            let (group, began) = (known.group, known.bootstrap);
            self.remember(node, group, began);
            return self.assign_again(&node.name, group, began);
        }
        // A member that was never registered here, or was forgotten, and lost its data.
        let member_of = self
            .groups
            .values()
            .find(|group| group.takes_nodes() && group.members.iter().any(|member| member.name == node.name));
        if let Some(group) = member_of.map(|group| group.id).filter(|_| !node.bootstrap) {
            self.remember(node, group, false);
            return self.assign_again(&node.name, group, false);
        }
        if self.nodes.len() >= MAX_NODES {
            let message = format!("{MAX_NODES} nodes are registered already; forget some that are gone");
            return Err(Rejected::new(RejectedCode::TooMany, message));
        }
        let wanted = match &node.group {
            Some(name) => {
                check_group_name(name)?;
                self.groups.values().find(|group| group.is_live() && group.name == *name).map(|group| group.id)
            }
            None => None,
        };
        // A group of that name is there already: one more node for it, never a second group.
        if node.bootstrap && wanted.is_none() {
            let new = NewGroup {
                name: node.group.clone(),
                addresses: vec![node.group_address.clone()],
                weight: 1,
                cluster_id: String::new(),
            };
            let (group, _) = self.add_group(new, now_ms)?;
            self.remember(node, group, true);
            return Ok(Assignment::Bootstrap { group });
        }
        let group = match (wanted, &node.group) {
            (Some(id), _) => {
                if !self.groups.get(&id).is_some_and(GroupRecord::takes_nodes) {
                    return Err(Rejected::conflict(format!("group {id} is being removed")));
                }
                id
            }
            // Its first node may be starting at this moment.
            (None, Some(name)) => return Ok(Assignment::Wait { reason: format!("there is no group {name:?} yet") }),
            (None, None) => match self.group_in_need() {
                Ok(group) => group,
                Err(reason) => return Ok(Assignment::Wait { reason }),
            },
        };
        let join = self.join_addresses(group, &node.name);
        if join.is_empty() {
            return Ok(Assignment::Wait { reason: format!("no node of group {group} has been seen yet") });
        }
        self.remember(node, group, false);
        Ok(Assignment::Join { group, join })
    }

    /// Forgets a node. It stays in its group as long as it is a member there.
    pub fn forget_node(&mut self, name: &str) -> Result<(), Rejected> {
        match self.nodes.remove(name) {
            Some(_) => Ok(()),
            None => Err(Rejected::new(RejectedCode::UnknownNode, format!("no node {name:?} is registered"))),
        }
    }

    /// A node that was given a group before and is in no cluster (yet, or again).
    fn assign_again(&mut self, name: &str, group: GroupId, began: bool) -> Result<Assignment, Rejected> {
        let record = self.group_mut(group)?;
        let others = record.members.iter().any(|member| member.name != name);
        let is_seen = record.reached_ms > 0;
        if began && !others {
            return match (is_seen, record.state) {
                (false, _) => Ok(Assignment::Bootstrap { group }),
                // It lost what it had, which was nothing: the group begins anew.
                (true, GroupState::Forming) => {
                    record.cluster_id.clear();
                    record.members.clear();
                    record.reached_ms = 0;
                    self.epoch += 1;
                    Ok(Assignment::Bootstrap { group })
                }
                // A second cluster under the id of the first would pass off the loss of its keys as their absence.
                (true, _) => Err(Rejected::conflict(format!(
                    "{name} is the only node of group {group} and has lost its data; restore it, or remove the group"
                ))),
            };
        }
        let join = self.join_addresses(group, name);
        if join.is_empty() {
            return Ok(Assignment::Wait { reason: format!("no other node of group {group} has been seen yet") });
        }
        Ok(Assignment::Join { group, join })
    }

    fn remember(&mut self, node: &Registration, group: GroupId, bootstrap: bool) {
        let record = NodeRecord {
            group,
            bootstrap,
            raft_address: node.raft_address.clone(),
            management_address: node.management_address.clone(),
            group_address: node.group_address.clone(),
        };
        self.nodes.insert(node.name.clone(), record);
    }

    /// The group with the fewest nodes, if any has less than it should.
    fn group_in_need(&self) -> Result<GroupId, String> {
        let groups = self.groups.values().filter(|group| group.takes_nodes());
        let counted = groups.map(|group| (self.node_names(group).len(), group));
        // A group of which nothing is known yet may well be complete.
        let counted = counted.filter(|(nodes, _)| *nodes > 0);
        match counted.min_by_key(|(nodes, group)| (*nodes, group.id)) {
            None => Err("no group has been seen yet".to_owned()),
            Some((nodes, _)) if nodes >= self.replicas => {
                Err(format!("every group has its {} nodes; one with bootstrap begins another", self.replicas))
            }
            Some((_, group)) => Ok(group.id),
        }
    }

    /// The nodes of a group: its members, and those that were told to become so.
    pub fn node_names(&self, group: &GroupRecord) -> BTreeSet<String> {
        let registered = self.nodes.iter().filter(|(_, node)| node.group == group.id).map(|(name, _)| name);
        group.members.iter().map(|member| &member.name).chain(registered).cloned().collect()
    }

    /// Where a node asks to be let in.
    fn join_addresses(&self, group: GroupId, name: &str) -> Vec<String> {
        let Some(record) = self.groups.get(&group) else { return Vec::new() };
        let members = record.members.iter().filter(|member| member.name != name);
        let mut join: BTreeSet<&String> = members.map(|member| &member.management_address).collect();
        if join.is_empty() {
            // The node that begins the group is there first.
            let first =
                self.nodes.iter().filter(|(other, node)| node.group == group && node.bootstrap && *other != name);
            join.extend(first.map(|(_, node)| &node.management_address));
        }
        join.into_iter().filter(|address| !address.is_empty()).cloned().collect()
    }
}

impl GroupRecord {
    fn takes_nodes(&self) -> bool {
        matches!(self.state, GroupState::Forming | GroupState::Active)
    }
}

fn check_node_name(name: &str) -> Result<(), Rejected> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.len() {
        1..=MAX_NODE_NAME_BYTES if name.chars().all(is_fine) => Ok(()),
        _ => Err(Rejected::invalid(format!(
            "the name of a node has 1 to {MAX_NODE_NAME_BYTES} letters, digits, and any of - _ ."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::records::MemberRecord;

    fn node(name: &str, bootstrap: bool, group: Option<&str>) -> Registration {
        Registration {
            name: name.to_owned(),
            bootstrap,
            raft_address: format!("{name}:8088"),
            management_address: format!("{name}:6000"),
            group_address: format!("{name}:50053"),
            group: group.map(str::to_owned),
        }
    }

    fn members(names: &[&str]) -> Vec<MemberRecord> {
        let member = |name: &&str| MemberRecord {
            name: (*name).to_owned(),
            voter: true,
            management_address: format!("{name}:6000"),
            group_address: format!("{name}:50053"),
        };
        names.iter().map(member).collect()
    }

    /// A store whose first group has three nodes.
    fn store() -> ClusterState {
        let mut state = ClusterState::init(7, vec!["a:50053".to_owned()], 3);
        state.see_group(1, "c1", members(&["a", "b", "c"]), 1).unwrap();
        state
    }

    #[test]
    fn a_group_begins_with_one_node_and_the_next_ones_join_it() {
        let mut state = store();
        assert!(matches!(state.register(&node("x", false, None), 1), Ok(Assignment::Wait { .. })), "all are complete");
        let bootstrap = Assignment::Bootstrap { group: 2 };
        assert_eq!(state.register(&node("d", true, None), 1), Ok(bootstrap.clone()));
        assert_eq!(state.register(&node("d", true, None), 1), Ok(bootstrap), "again");
        let join = Assignment::Join { group: 2, join: vec!["d:6000".to_owned()] };
        assert_eq!(state.register(&node("e", false, None), 1), Ok(join.clone()));
        assert_eq!(state.register(&node("f", false, None), 1), Ok(join.clone()));
        assert_eq!(state.register(&node("e", false, None), 1), Ok(join), "again");
        assert!(matches!(state.register(&node("x", false, None), 1), Ok(Assignment::Wait { .. })), "complete");
        assert_eq!(state.operations.len(), 1, "one group was added");
        state.check().unwrap();
    }

    #[test]
    fn nodes_go_where_the_fewest_are() {
        let mut state = store();
        state.see_group(1, "c1", members(&["a"]), 1).unwrap();
        state.register(&node("d", true, None), 1).unwrap();
        let mut placed = Vec::new();
        for name in ["e", "f", "g", "h"] {
            match state.register(&node(name, false, None), 1).unwrap() {
                Assignment::Join { group, .. } => placed.push(group),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(placed, [1, 2, 1, 2]);
        let asked = state.register(&node("i", false, Some("group2")), 1).unwrap();
        assert!(matches!(asked, Assignment::Join { group: 2, .. }), "a group that was named takes more: {asked:?}");
    }

    #[test]
    fn a_group_is_begun_once_under_the_name_that_its_nodes_say() {
        let mut state = store();
        let early = state.register(&node("e", false, Some("west")), 1).unwrap();
        assert!(matches!(early, Assignment::Wait { .. }), "nobody has begun it: {early:?}");
        assert_eq!(state.register(&node("d", true, Some("west")), 1), Ok(Assignment::Bootstrap { group: 2 }));
        assert_eq!(state.groups[&2].name, "west");
        let join = Assignment::Join { group: 2, join: vec!["d:6000".to_owned()] };
        assert_eq!(state.register(&node("e", false, Some("west")), 1), Ok(join.clone()));
        assert_eq!(state.register(&node("f", true, Some("west")), 1), Ok(join), "never a second one of that name");
        assert_eq!(state.groups.len(), 2);
    }

    #[test]
    fn a_node_that_lost_its_data_never_begins_a_second_cluster() {
        let mut state = store();
        state.register(&node("d", true, None), 1).unwrap();
        state.see_group(2, "c2", members(&["d"]), 1).unwrap();
        assert_eq!(
            state.register(&node("d", true, None), 1),
            Ok(Assignment::Bootstrap { group: 2 }),
            "the group owned nothing yet"
        );
        state.see_group(2, "c3", members(&["d", "e"]), 1).unwrap();
        assert_eq!(
            state.register(&node("d", true, None), 1),
            Ok(Assignment::Join { group: 2, join: vec!["e:6000".to_owned()] })
        );
        state.see_group(2, "c3", members(&["d"]), 1).unwrap();
        state.activate_group(2).unwrap();
        assert_eq!(state.register(&node("d", true, None), 1).unwrap_err().code, RejectedCode::Conflict);
    }

    #[test]
    fn a_node_is_forgotten_with_its_group_and_by_request() {
        let mut state = store();
        state.register(&node("d", true, None), 1).unwrap();
        assert_eq!(state.forget_node("x").unwrap_err().code, RejectedCode::UnknownNode);
        state.drain_group(2).unwrap();
        state.retire_group(2).unwrap();
        assert!(state.nodes.is_empty());
        assert_eq!(state.register(&node("d", true, None), 1), Ok(Assignment::Bootstrap { group: 3 }));
        state.forget_node("d").unwrap();
    }

    #[test]
    fn bad_registrations_change_nothing() {
        let state = store();
        let bad = [
            node("", false, None),
            node("a b", false, None),
            Registration { raft_address: "nowhere".to_owned(), ..node("d", false, None) },
            Registration { group_address: "d:0".to_owned(), ..node("d", false, None) },
            node("d", true, Some("a/b")),
            node("d", false, Some("")),
        ];
        for registration in bad {
            let mut after = state.clone();
            assert!(after.register(&registration, 1).is_err(), "{registration:?}");
            assert_eq!(after, state);
        }
    }
}
