//! `raftkv slots`: which group has which slots, or a key.

use clap::builder::NonEmptyStringValueParser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::Value;

use super::router::{Router, RouterArgs};
use super::view::{ClusterView, plain};
use crate::failure::Failure;
use crate::output::{self, JsonArgs, thousands};
use raftkv_client::encode;

/// Arguments of `raftkv slots`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv slots                   the slots of each group
  raftkv slots user/1            slot, group and leader of a key
  raftkv slots '{user1}.cart'    a hash tag: keys with the same tag share a slot")]
pub(crate) struct SlotsArgs {
    /// Show slot, group and leader of this key [default: the slots of each group]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    #[command(flatten)]
    format: JsonArgs,
    #[command(flatten)]
    router: RouterArgs,
}

/// A run of slots of one group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    first: u64,
    last: u64,
    group: Value,
}

/// Prints the map, or where a key belongs.
pub(crate) async fn run(args: SlotsArgs) -> Result<(), Failure> {
    let router = Router::new(&args.router);
    let path = match &args.key {
        Some(key) => format!("/v1/cluster/slots?key={}", encode(key)),
        None => "/v1/cluster/slots".to_owned(),
    };
    let raw: Value = router.get(&path).await?;
    if args.format.is_json() {
        return output::line(raw);
    }
    let (_, view) = router.cluster().await?;
    output::line(match &args.key {
        Some(key) => of_key(key, &raw, &view)?,
        None => table(raw, &view)?,
    })
}

fn of_key(key: &str, raw: &Value, view: &ClusterView) -> Result<String, Failure> {
    let slot = raw.get("slot").and_then(Value::as_u64);
    let slot = slot.ok_or_else(|| Failure::failed(format!("the router's answer has no slot: {raw}")))?;
    let group = raw.get("group").unwrap_or(&Value::Null);
    let mut text = format!("{key:?} is in slot {slot}, of {}", group_name(group, view));
    let leader = plain(group).and_then(|id| view.find(&id).ok()?.leader.clone());
    if let Some(leader) = leader.filter(|leader| !leader.is_empty()) {
        text.push_str(&format!(", led by {leader}"));
    }
    if let Some(to) = raw.get("moving_to").filter(|to| !to.is_null()) {
        text.push_str(&format!(", on its way to {}", group_name(to, view)));
    }
    Ok(text)
}

fn table(raw: Value, view: &ClusterView) -> Result<String, Failure> {
    let list = match raw {
        Value::Object(mut fields) => fields.remove("ranges").or_else(|| fields.remove("slots")).unwrap_or_default(),
        list => list,
    };
    let ranges: Vec<Range> = serde_json::from_value(list)
        .map_err(|error| Failure::failed(format!("the map cannot be understood: {error}")))?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["first", "last", "slots", "group"]);
    for range in &ranges {
        let count = (range.last + 1).saturating_sub(range.first);
        let group = group_name(&range.group, view);
        table.add_row([range.first.to_string(), range.last.to_string(), thousands(count), group]);
    }
    for column in 0..3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Ok(table.to_string())
}

/// `g2 (id 2)`.
fn group_name(group: &Value, view: &ClusterView) -> String {
    let Some(id) = plain(group) else { return "no group".to_owned() };
    match view.find(&id) {
        Ok(group) => format!("{} (id {})", group.name, group.id),
        Err(_) => id,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> ClusterView {
        serde_json::from_value(json!({"groups": [{"id": 1, "name": "west", "state": "active"}]})).expect("a view")
    }

    #[test]
    fn ranges_are_shown_with_their_groups() {
        let text = table(
            json!({"ranges": [{"first": 0, "last": 8191, "group": 1}, {"first": 8192, "last": 16383, "group": null}]}),
            &view(),
        );
        let text = text.expect("a map");
        for part in ["8,192", "16383", "west (id 1)", "no group"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_key_is_told_with_its_slot_and_group() {
        let text = of_key("a b", &json!({"key": "a b", "slot": 77, "group": 1}), &view()).expect("told");
        assert_eq!(text, r#""a b" is in slot 77, of west (id 1)"#);
        let moving = of_key("a", &json!({"slot": 77, "group": null, "moving_to": 1}), &view()).expect("told");
        assert_eq!(moving, r#""a" is in slot 77, of no group, on its way to west (id 1)"#);
        let mut led = view();
        led.groups[0].leader = Some("n2".to_owned());
        let text = of_key("a", &json!({"slot": 77, "group": 1}), &led).expect("told");
        assert_eq!(text, r#""a" is in slot 77, of west (id 1), led by n2"#);
        assert_eq!(of_key("a", &json!({}), &view()).expect_err("nothing told").code, 1);
    }
}
