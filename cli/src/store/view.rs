//! What routers tell of a store. Every field may be missing: an older or newer router must still be shown.

use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// How many slots there are.
const SLOTS: u64 = raftkv_kv::SLOTS as u64;

/// Answer to `GET /v1/cluster`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterView {
    #[serde(alias = "store_id")]
    pub(crate) store: Value,
    pub(crate) epoch: Option<u64>,
    pub(crate) groups: Vec<GroupView>,
    /// The move under way.
    #[serde(rename = "move")]
    pub(crate) moving: Option<MoveView>,
    pub(crate) routers: Vec<Value>,
    /// Whether this is the newest state.
    pub(crate) meta_reachable: Option<bool>,
}

/// A group.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct GroupView {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// forming, active, draining or removed.
    pub(crate) state: String,
    pub(crate) weight: Option<u64>,
    /// How many it owns.
    pub(crate) slots: Option<u64>,
    pub(crate) keys: Option<u64>,
    pub(crate) members: Vec<Value>,
    pub(crate) leader: Option<String>,
    pub(crate) reachable: Option<bool>,
}

/// A move under way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct MoveView {
    pub(crate) from: Value,
    pub(crate) to: Value,
    pub(crate) slots: Value,
    pub(crate) step: Option<String>,
    pub(crate) operation: Option<u64>,
}

/// An operation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct OperationView {
    pub(crate) id: u64,
    /// add_group, remove_group, rebalance or move_slots.
    pub(crate) kind: String,
    /// pending, running, stalled, cancelling, done, failed or cancelled.
    pub(crate) state: String,
    pub(crate) percent: Option<f64>,
    pub(crate) step: Option<String>,
    pub(crate) slots_total: Option<u64>,
    pub(crate) slots_done: Option<u64>,
    pub(crate) keys: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) bytes_per_second: Option<f64>,
    pub(crate) remaining_seconds: Option<f64>,
    pub(crate) started: Value,
    pub(crate) ended: Value,
    pub(crate) error: Option<String>,
    /// Why it makes no progress at the moment.
    #[serde(alias = "reason")]
    pub(crate) stalled: Option<String>,
    pub(crate) longest_pause_ms: Option<u64>,
}

impl ClusterView {
    /// The group of that name, or with that id, that takes part.
    pub(crate) fn find_live(&self, name_or_id: &str) -> Result<&GroupView, Failure> {
        let found = self.find(name_or_id)?;
        if found.state != "removed" {
            return Ok(found);
        }
        let (id, name) = (found.id, &found.name);
        let mut message = format!("group {id} ({name}) was removed");
        match self.groups.iter().find(|group| group.state != "removed" && group.name == *name) {
            Some(now) => message.push_str(&format!("; {name} is the name of group {} now: say `{name}`", now.id)),
            None => message.push_str(&format!("; there are: {}", self.live_names())),
        }
        Err(Failure::failed(message))
    }

    fn live_names(&self) -> String {
        let live = self.groups.iter().filter(|group| group.state != "removed");
        live.map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The group of that name, or with that id; one that takes part before one that was removed.
    pub(crate) fn find(&self, name_or_id: &str) -> Result<&GroupView, Failure> {
        let fits = |group: &&GroupView| group.name == name_or_id || group.id.to_string() == name_or_id;
        let live = self.groups.iter().filter(|group| group.state != "removed").find(fits);
        live.or_else(|| self.groups.iter().find(fits)).ok_or_else(|| {
            Failure::failed(format!("there is no group {name_or_id:?}; there are: {}", self.live_names()))
        })
    }

    /// Where the nodes of one group are managed: of the group that has a member called `name`, else of the only one.
    pub(crate) fn managed_at(&self, name: Option<&str>) -> Result<Vec<String>, Failure> {
        let live: Vec<_> = self.groups.iter().filter(|group| group.state != "removed").collect();
        let text = |member: &Value, field: &str| member.get(field).and_then(Value::as_str).map(str::to_owned);
        let has = |group: &&&GroupView| group.members.iter().any(|member| text(member, "name").as_deref() == name);
        let group = match (name.and_then(|_| live.iter().find(has)), live.as_slice()) {
            (Some(group), _) | (None, [group]) => group,
            (None, _) => {
                let told = name.map(|name| format!("no group has a member called {name:?}")).unwrap_or_default();
                let what = if told.is_empty() { "the router has several groups".to_owned() } else { told };
                return Err(Failure::failed(format!("{what}: name a node with --management or RAFTKV_MANAGEMENT")));
            }
        };
        Ok(group.members.iter().filter_map(|member| text(member, "management_address")).collect())
    }

    /// Whether the group of that name was removed, and there is no other of that name.
    pub(crate) fn is_removed(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.name == name)
            && self.groups.iter().filter(|group| group.name == name).all(|group| group.state == "removed")
    }

    /// Why the slots are not shared by weight among `groups` active groups yet; `None` = they are.
    pub(crate) fn unsettled(&self, groups: usize) -> Option<String> {
        let active: Vec<_> = self.groups.iter().filter(|group| group.state == "active").collect();
        if active.len() < groups {
            return Some(format!("{} of {groups} groups are active", active.len()));
        }
        let weight = |group: &GroupView| group.weight.unwrap_or(1);
        let total: u64 = active.iter().map(|group| weight(group)).sum();
        for group in &active {
            let share = SLOTS * weight(group) / total.max(1);
            let slots = group.slots.unwrap_or(0);
            if slots.abs_diff(share) > active.len() as u64 {
                return Some(format!("{} has {slots} of its {share} slots", group.name));
            }
        }
        self.moving.as_ref().map(|_| "slots are being moved".to_owned())
    }
}

impl GroupView {
    /// Whether it should serve keys and cannot be asked. One that is forming or was removed is not asked.
    pub(crate) fn is_lost(&self) -> bool {
        self.reachable == Some(false) && matches!(self.state.as_str(), "active" | "draining")
    }

    /// The names of its members, the leader's marked.
    pub(crate) fn member_names(&self) -> Vec<String> {
        let name = |member: &Value| member.get("name").unwrap_or(member).as_str().map(str::to_owned);
        let names = self.members.iter().filter_map(name);
        names.map(|name| if self.leader.as_ref() == Some(&name) { format!("{name}*") } else { name }).collect()
    }
}

impl OperationView {
    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "cancelled")
    }

    /// `rebalance`, `add group`.
    pub(crate) fn title(&self) -> String {
        format!("operation {} ({})", self.id, self.kind.replace('_', " "))
    }
}

/// A number or a text for people.
pub(crate) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // The name tells more than the id.
        Value::Object(fields) => fields.get("name").or_else(|| fields.get("id")).and_then(plain),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn cluster() -> ClusterView {
        let cluster = json!({"store": "00c0ffee", "epoch": 4, "new": true, "routers": ["router1"], "move": null, "groups": [
            {"id": 1, "name": "g1", "state": "active", "weight": 1, "slots": 8192, "keys": 12345, "leader": "g1n1",
             "reachable": true, "members": [{"name": "g1n1", "voter": true}, {"name": "g1n2", "voter": true}]},
            {"id": 2, "name": "g2", "state": "active", "weight": 1, "slots": 8192, "keys": null, "reachable": false, "members": ["g2n1"]},
            {"id": 3, "name": "g2", "state": "removed", "weight": 1, "slots": 0}]});
        serde_json::from_value(cluster).expect("a view")
    }

    #[test]
    fn a_group_is_found_by_name_or_id_and_a_removed_one_last() {
        let view = cluster();
        assert_eq!((view.find("g2").expect("live").id, view.find("3").expect("id").id), (2, 3));
        // What a number meant before must not be done to another group, nor be told as done.
        assert_eq!(view.find_live("g2").expect("live").id, 2);
        let removed = view.find_live("3").expect_err("removed");
        assert!(removed.code == 1 && removed.message.contains("group 3 (g2) was removed; g2 is the name of group 2"));
        assert!(!view.is_removed("g2") && !view.is_removed("g9"), "one of the name is left, or never was");
        assert!(ClusterView { groups: view.groups[2..].to_vec(), ..ClusterView::default() }.is_removed("g2"));
        let missing = view.find("g9").expect_err("no such group");
        assert!(missing.code == 1 && missing.message.contains("g1, g2"), "{missing:?}");
        assert_eq!(view.groups[0].member_names(), ["g1n1*", "g1n2"]);
        assert_eq!(view.groups[1].member_names(), ["g2n1"]);
    }

    #[test]
    fn the_group_of_a_node_is_found_for_its_management() {
        let view = json!({"groups": [
            {"id": 1, "name": "g1", "state": "active", "members": [{"name": "a", "management_address": "a:6000"}]},
            {"id": 2, "name": "g2", "state": "removed", "members": [{"name": "b", "management_address": "old:6000"}]},
            {"id": 3, "name": "g3", "state": "active", "members": [{"name": "b", "management_address": "b:6000"}]}]});
        let mut view: ClusterView = serde_json::from_value(view).expect("a view");
        assert_eq!(view.managed_at(Some("b")).expect("a member"), ["b:6000"]);
        assert!(view.managed_at(Some("c")).expect_err("nobody").message.contains("\"c\""));
        assert!(view.managed_at(None).expect_err("several").message.contains("--management"));
        view.groups.pop();
        assert_eq!(view.managed_at(None).expect("the only one"), ["a:6000"]);
    }

    #[test]
    fn settled_means_active_even_by_weight_and_at_rest() {
        let mut view = cluster();
        assert_eq!(view.unsettled(2), None);
        assert!(view.unsettled(3).is_some_and(|why| why.contains("2 of 3")));
        view.groups[0].weight = Some(3);
        assert!(view.unsettled(2).is_some_and(|why| why.contains("12288")));
        (view.groups[0].slots, view.groups[1].slots) = (Some(12_288), Some(4_096));
        assert_eq!(view.unsettled(2), None);
        view.moving = Some(MoveView::default());
        assert!(view.unsettled(2).is_some());
    }

    #[test]
    fn whatever_is_missing_or_new_a_view_is_read() {
        assert_eq!(serde_json::from_str::<ClusterView>("{}").expect("nothing"), ClusterView::default());
        let operation: OperationView =
            serde_json::from_value(json!({"id": 7, "kind": "add_group", "state": "done", "ended": 12, "x": []}))
                .expect("some");
        assert_eq!((operation.title().as_str(), operation.is_over()), ("operation 7 (add group)", true));
    }
}
