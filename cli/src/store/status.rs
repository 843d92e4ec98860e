//! [`StoreStatus`]: a whole store as a table.

use comfy_table::{CellAlignment, Table, presets};

use super::router::Router;
use super::view::{ClusterView, GroupView, plain};
use crate::failure::Failure;
use crate::output::thousands;

/// In place of what is not known.
const UNKNOWN: &str = "-";
/// Columns of numbers.
const NUMBERS: [usize; 4] = [1, 3, 4, 5];

/// What a router says of its store.
#[derive(Debug)]
pub(crate) struct StoreStatus {
    raw: serde_json::Value,
    view: ClusterView,
}

impl StoreStatus {
    /// Asks.
    pub(crate) async fn look(router: &Router) -> Result<Self, Failure> {
        let (raw, view) = router.cluster().await?;
        Ok(Self { raw, view })
    }

    /// As the router said it.
    pub(crate) fn to_json(&self) -> String {
        self.raw.to_string()
    }

    /// The groups with their members, slots and keys, the move under way, and what is wrong.
    pub(crate) fn to_text(&self) -> String {
        let view = &self.view;
        let mut text = format!("store {}", plain(&view.store).unwrap_or_else(|| UNKNOWN.to_owned()));
        if let Some(epoch) = view.epoch {
            text.push_str(&format!(", epoch {epoch}"));
        }
        let routers: Vec<_> = view.routers.iter().filter_map(router_name).collect();
        if !routers.is_empty() {
            text.push_str(&format!(", routers {}", routers.join(", ")));
        }
        text.push('\n');
        text.push_str(&Self::groups_table(view, false));
        let mut notes = Vec::new();
        if let Some(moving) = &view.moving {
            let name = |group| match plain(group) {
                Some(id) => view.find(&id).map_or(id, |group| group.name.clone()),
                None => "nobody".to_owned(),
            };
            let mut note = format!("moving slots {}", plain(&moving.slots).unwrap_or_default());
            note.push_str(&format!(" from {} to {}", name(&moving.from), name(&moving.to)));
            note.push_str(&moving.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default());
            if let Some(operation) = moving.operation {
                note.push_str(&format!(" (operation {operation})"));
            }
            notes.push(note);
        }
        if view.meta_reachable == Some(false) {
            notes.push("the group that keeps the map cannot be reached: this is what was known last".to_owned());
        }
        for group in view.groups.iter().filter(|group| group.is_lost()) {
            notes.push(format!("{} cannot be reached: its keys are not served", group.name));
        }
        for note in notes {
            text.push('\n');
            text.push_str(&note);
        }
        text
    }

    /// Just the groups; `all`: with those that were removed.
    pub(crate) fn groups_table(view: &ClusterView, all: bool) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["group", "id", "state", "weight", "slots", "keys", "members (* leads)"]);
        for group in view.groups.iter().filter(|group| all || group.state != "removed") {
            table.add_row(row(group));
        }
        for column in NUMBERS {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

fn row(group: &GroupView) -> [String; 7] {
    let number = |number: Option<u64>| number.map_or_else(|| UNKNOWN.to_owned(), thousands);
    let mut state = group.state.clone();
    if group.is_lost() {
        state.push_str(", unreachable");
    }
    [
        group.name.clone(),
        group.id.to_string(),
        state,
        number(group.weight),
        number(group.slots),
        number(group.keys),
        group.member_names().join(", "),
    ]
}

/// Its id, with what is special about it.
fn router_name(router: &serde_json::Value) -> Option<String> {
    let mut name = router.get("id").and_then(plain).or_else(|| plain(router))?;
    let says = |what: &str| router.get(what).and_then(serde_json::Value::as_bool);
    if says("coordinator") == Some(true) {
        name.push_str(" (coordinates)");
    }
    if says("alive") == Some(false) {
        name.push_str(" (silent)");
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(moving: serde_json::Value) -> StoreStatus {
        let raw = json!({"store": "00c0ffee", "epoch": 4, "routers": [{"id": "r1", "alive": true, "coordinator": true}, {"id": "r2", "alive": false}], "move": moving, "groups": [
            {"id": 1, "name": "west", "state": "active", "weight": 2, "slots": 10923, "keys": 12345, "leader": "n1", "reachable": true,
             "members": [{"name": "n1"}, {"name": "n2"}]},
            {"id": 2, "name": "east", "state": "draining", "weight": 1, "slots": 5461, "reachable": false},
            {"id": 3, "name": "gone", "state": "removed"}]});
        StoreStatus { view: serde_json::from_value(raw.clone()).expect("a view"), raw }
    }

    #[test]
    fn the_whole_store_is_shown_with_what_is_wrong() {
        let text =
            status(json!({"id": 7, "from": 2, "to": 1, "slots": "0-99", "step": "copying", "operation": 5})).to_text();
        for part in [
            "store 00c0ffee, epoch 4, routers r1 (coordinates), r2 (silent)",
            "10,923",
            "12,345",
            "n1*, n2",
            "draining, unreachable",
            "moving slots 0-99 from east to west: copying (operation 5)",
            "east cannot be reached",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("gone"), "{text}");
        let calm = status(json!(null));
        assert!(!calm.to_text().contains("moving"));
        assert!(StoreStatus::groups_table(&calm.view, true).contains("gone"));
        assert!(calm.to_json().contains("00c0ffee"));
    }
}
