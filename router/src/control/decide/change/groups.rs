//! Groups: added, seen, active, weighed, removed.

use crate::control::document::records::{GroupId, GroupRecord, GroupState, MemberRecord, OperationId, OperationKind};
use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::state::{
    ClusterState, MAX_GROUP_NAME_BYTES, MAX_GROUPS, MAX_MEMBERS, MAX_REMOVED_GROUPS, MAX_TEXT_BYTES, MAX_WEIGHT,
    META_GROUP,
};

/// A group that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// For people; `None` = `group<id>`.
    pub name: Option<String>,
    /// Where routers reach its nodes; at least one.
    pub addresses: Vec<String>,
    /// Its part of the slots, relative to the other groups.
    pub weight: u32,
    /// The id of its Raft cluster; empty = not seen yet.
    pub cluster_id: String,
}

impl ClusterState {
    /// Adds a group and the operation that gives it its share of the slots once it is active.
    ///
    /// A group that was removed is another one afterwards: see [`revive_group`](Self::revive_group).
    pub fn add_group(&mut self, new: NewGroup, now_ms: u64) -> Result<(GroupId, OperationId), Rejected> {
        let id = self.next_group;
        let name = new.name.unwrap_or_else(|| self.free_group_name(id));
        check_group_name(&name)?;
        check_weight(new.weight)?;
        check_addresses(&new.addresses)?;
        let live = || self.groups.values().filter(|group| group.is_live());
        if live().count() >= MAX_GROUPS {
            return Err(Rejected::new(RejectedCode::TooMany, format!("there are {MAX_GROUPS} groups already")));
        }
        if let Some(other) = live().find(|group| group.name == name) {
            return Err(Rejected::conflict(format!("group {} has the name {name:?} already", other.id)));
        }
        for address in &new.addresses {
            if let Some(other) = live().find(|group| group.reachable_at().contains(address)) {
                return Err(Rejected::conflict(format!("{address} is a node of group {} already", other.id)));
            }
        }
        if let Some(other) = live().find(|group| !new.cluster_id.is_empty() && group.cluster_id == new.cluster_id) {
            return Err(Rejected::conflict(format!("these nodes are group {} already", other.id)));
        }
        let next_group = id.checked_add(1);
        self.next_group = next_group.ok_or_else(|| Rejected::conflict("all ids of groups were given out"))?;
        let group = GroupRecord {
            id,
            name,
            state: GroupState::Forming,
            weight: new.weight,
            slots: raftkv_kv::SlotSet::new(),
            addresses: new.addresses,
            cluster_id: new.cluster_id,
            members: Vec::new(),
            reached_ms: 0,
        };
        self.groups.insert(id, group);
        self.epoch += 1;
        Ok((id, self.enqueue(OperationKind::AddGroup { group: id }, None, now_ms)?))
    }

    /// A name that no group has, made from an id.
    fn free_group_name(&self, id: GroupId) -> String {
        let is_free = |name: &String| !self.groups.values().any(|group| group.is_live() && group.name == *name);
        let plain = format!("group{id}");
        if is_free(&plain) {
            return plain;
        }
        (1..).map(|n| format!("group{id}-{n}")).find(is_free).unwrap_or(plain)
    }

    /// A removed group takes part again: its nodes know it by its id, so it cannot get another.
    pub fn revive_group(&mut self, id: GroupId, addresses: Vec<String>, now_ms: u64) -> Result<OperationId, Rejected> {
        check_addresses(&addresses)?;
        if self.groups.values().filter(|group| group.is_live()).count() >= MAX_GROUPS {
            return Err(Rejected::new(RejectedCode::TooMany, format!("there are {MAX_GROUPS} groups already")));
        }
        let free_name = self.free_group_name(id);
        let namesakes = |name: &str| self.groups.values().any(|group| group.is_live() && group.name == name);
        let is_taken = self.groups.get(&id).is_some_and(|group| namesakes(&group.name));
        let group = self.group_mut(id)?;
        if group.state != GroupState::Removed {
            return Err(Rejected::conflict(format!("these nodes are group {id} already")));
        }
        if is_taken {
            group.name = free_name;
        }
        group.state = GroupState::Forming;
        group.addresses = addresses;
        group.reached_ms = 0;
        group.weight = group.weight.max(1);
        self.epoch += 1;
        self.enqueue(OperationKind::AddGroup { group: id }, None, now_ms)
    }

    /// What a group looks like, as seen by asking its nodes. Says whether that is news.
    pub fn see_group(
        &mut self,
        id: GroupId,
        cluster_id: &str,
        mut members: Vec<MemberRecord>,
        now_ms: u64,
    ) -> Result<bool, Rejected> {
        let group = self.group_mut(id)?;
        if !group.is_live() {
            return Err(Rejected::outdated(format!("group {id} was removed")));
        }
        if !group.cluster_id.is_empty() && group.cluster_id != cluster_id {
            return Err(Rejected::conflict(format!(
                "the nodes of group {id} are in cluster {cluster_id}; the group is cluster {}",
                group.cluster_id
            )));
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.truncate(MAX_MEMBERS);
        members.retain(|member| {
            [&member.name, &member.management_address, &member.group_address]
                .iter()
                .all(|text| text.len() <= MAX_TEXT_BYTES)
        });
        let is_known = group.cluster_id == cluster_id && group.members == members && group.reached_ms > 0;
        if is_known {
            return Ok(false);
        }
        cluster_id.clone_into(&mut group.cluster_id);
        group.members = members;
        if group.reached_ms == 0 {
            group.reached_ms = now_ms;
        }
        // Routers look for the group at other addresses from now on.
        self.epoch += 1;
        Ok(true)
    }

    /// A group is ready to own slots.
    pub fn activate_group(&mut self, id: GroupId) -> Result<(), Rejected> {
        let group = self.group_mut(id)?;
        match group.state {
            GroupState::Forming => group.state = GroupState::Active,
            GroupState::Active => return Ok(()),
            GroupState::Draining | GroupState::Removed => {
                return Err(Rejected::outdated(format!("group {id} is being removed")));
            }
        }
        self.epoch += 1;
        Ok(())
    }

    /// Gives a group another part of the slots. Nothing moves by it: a rebalance does that.
    pub fn set_weight(&mut self, id: GroupId, weight: u32) -> Result<(), Rejected> {
        check_weight(weight)?;
        let stays = |group: &&GroupRecord| matches!(group.state, GroupState::Active | GroupState::Forming);
        let others = self.groups.values().filter(stays).filter(|group| group.id != id);
        if weight == 0 && others.map(|group| group.weight).sum::<u32>() == 0 {
            return Err(Rejected::conflict("some group must have a weight, or nobody would own the slots"));
        }
        let group = self.group_mut(id)?;
        if !matches!(group.state, GroupState::Active | GroupState::Forming) {
            return Err(Rejected::conflict(format!("group {id} is being removed")));
        }
        if group.weight != weight {
            group.weight = weight;
            self.epoch += 1;
        }
        Ok(())
    }

    /// Asks for the removal of a group. Asked again, it is the same operation.
    pub fn remove_group(&mut self, id: GroupId, delete_all_keys: bool, now_ms: u64) -> Result<OperationId, Rejected> {
        let group = self.groups.get(&id).ok_or_else(|| Rejected::unknown_group(id))?;
        if group.state == GroupState::Removed {
            return Err(Rejected::conflict(format!("group {id} was removed already")));
        }
        let asked = self.operations.values().find(|operation| {
            !operation.state.is_over()
                && matches!(operation.task, OperationKind::RemoveGroup { group, .. } if group == id)
        });
        if let Some(asked) = asked {
            return Ok(asked.id);
        }
        let others = self.groups.values().filter(|other| other.is_live() && other.id != id).count();
        if others == 0 && !delete_all_keys {
            return Err(Rejected::new(
                RejectedCode::ConfirmationRequired,
                format!(
                    "group {id} is the last one: removing it deletes all keys; confirm with ?confirm=delete-all-keys"
                ),
            ));
        }
        if others > 0 && id == META_GROUP {
            return Err(Rejected::conflict(format!(
                "group {META_GROUP} keeps the cluster document and can be removed only as the last; to drain it, set its \
                 weight to 0 and rebalance"
            )));
        }
        self.enqueue(
            OperationKind::RemoveGroup { group: id, delete_all_keys: delete_all_keys && others == 0 },
            None,
            now_ms,
        )
    }

    /// A group gives its slots away from now on, and gets no more.
    pub fn drain_group(&mut self, id: GroupId) -> Result<(), Rejected> {
        let group = self.group_mut(id)?;
        match group.state {
            GroupState::Active | GroupState::Forming => group.state = GroupState::Draining,
            GroupState::Draining => return Ok(()),
            GroupState::Removed => return Err(Rejected::outdated(format!("group {id} was removed"))),
        }
        self.epoch += 1;
        Ok(())
    }

    /// The removal of a group was given up.
    pub fn undrain_group(&mut self, id: GroupId) -> Result<(), Rejected> {
        let group = self.group_mut(id)?;
        if group.state == GroupState::Draining {
            // One without slots may not have been active before: it becomes so (again) as a new one does.
            group.state = if group.slots.is_empty() { GroupState::Forming } else { GroupState::Active };
            self.epoch += 1;
        }
        Ok(())
    }

    /// A group that gave all its slots away is gone.
    pub fn retire_group(&mut self, id: GroupId) -> Result<(), Rejected> {
        if id == META_GROUP && self.groups.values().any(|other| other.is_live() && other.id != id) {
            return Err(Rejected::conflict("the meta group can be removed only as the last"));
        }
        let group = self.group_mut(id)?;
        if !group.slots.is_empty() || group.state != GroupState::Draining {
            return Err(Rejected::conflict(format!("group {id} still owns slots, or is not being removed")));
        }
        group.state = GroupState::Removed;
        group.members.clear();
        self.nodes.retain(|_, node| node.group != id);
        self.epoch += 1;
        // Where it gets too many, the oldest are forgotten: their ids are not used again anyway.
        let removed = self.groups.values().filter(|group| !group.is_live() && group.id != META_GROUP);
        let removed: Vec<GroupId> = removed.map(|group| group.id).collect();
        for id in removed.iter().take(removed.len().saturating_sub(MAX_REMOVED_GROUPS)) {
            self.groups.remove(id);
        }
        Ok(())
    }

    pub(in crate::control) fn group_mut(&mut self, id: GroupId) -> Result<&mut GroupRecord, Rejected> {
        self.groups.get_mut(&id).ok_or_else(|| Rejected::unknown_group(id))
    }
}

fn check_weight(weight: u32) -> Result<(), Rejected> {
    match weight {
        0..=MAX_WEIGHT => Ok(()),
        _ => Err(Rejected::invalid(format!("a weight is a number from 0 to {MAX_WEIGHT}"))),
    }
}

pub(in crate::control) fn check_group_name(name: &str) -> Result<(), Rejected> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.len() {
        1..=MAX_GROUP_NAME_BYTES if name.chars().all(is_fine) => Ok(()),
        _ => Err(Rejected::invalid(format!(
            "the name of a group has 1 to {MAX_GROUP_NAME_BYTES} letters, digits, and any of - _ ."
        ))),
    }
}

/// At least one, none twice, each `host:port`.
fn check_addresses(addresses: &[String]) -> Result<(), Rejected> {
    if addresses.is_empty() || addresses.len() > MAX_MEMBERS {
        return Err(Rejected::invalid(format!("a group has 1 to {MAX_MEMBERS} addresses")));
    }
    for (at, address) in addresses.iter().enumerate() {
        check_address(address)?;
        if addresses[..at].contains(address) {
            return Err(Rejected::invalid(format!("the address {address} is given twice")));
        }
    }
    Ok(())
}

/// `host:port`, where the port is not 0.
pub(in crate::control) fn check_address(address: &str) -> Result<(), Rejected> {
    let is_fine = address.len() <= MAX_TEXT_BYTES
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#'))
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if is_fine { Ok(()) } else { Err(Rejected::invalid(format!("{address:?} is not an address such as kv4:50053"))) }
}
