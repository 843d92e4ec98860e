//! `raftkv rebalance`: gives every group its share of the slots.

use comfy_table::{CellAlignment, Table, presets};
use raftkv_runtime::config::ByteSize;
use serde::Deserialize;
use serde_json::{Value, json};

use super::operation::accepted;
use super::router::{Router, RouterArgs};
use super::view::{OperationView, plain};
use crate::failure::Failure;
use crate::output::{self, JsonArgs, thousands};

/// Arguments of `raftkv rebalance`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv rebalance --dry-run      print the moves without starting them
  raftkv rebalance --rate 10MiB   copy at most 10 MiB per second
  raftkv rebalance --no-wait      start; see `raftkv operation list`

Reads and writes continue. Ctrl-C stops the progress display and not the
rebalance: use `raftkv operation cancel` for that.")]
pub(crate) struct RebalanceArgs {
    /// Print the planned moves and change nothing
    #[arg(long, conflicts_with_all = ["rate", "no_wait"])]
    dry_run: bool,
    /// Maximum bytes copied per second [default: set by the routers]
    #[arg(long, value_name = "BYTES")]
    rate: Option<ByteSize>,
    /// Return before the rebalance is complete
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    format: JsonArgs,
    #[command(flatten)]
    router: RouterArgs,
}

/// A move that would be made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlannedMove {
    from: Value,
    to: Value,
    slots: Value,
    count: Option<u64>,
}

/// Plans, or begins and watches.
pub(crate) async fn run(args: RebalanceArgs) -> Result<(), Failure> {
    let router = Router::new(&args.router);
    if args.dry_run {
        let plan: Value = router.post("/v1/cluster/rebalance", &json!({"dry_run": true})).await?;
        return output::line(if args.format.is_json() { plan.to_string() } else { table(plan)? });
    }
    if args.format.is_json() {
        return Err(Failure::usage(
            "-o json needs --dry-run; to follow a rebalance as JSON, use `raftkv operation show ID -o json`",
        ));
    }
    if args.rate.is_some_and(|rate| rate.0 == 0) {
        return Err(Failure::usage("--rate must not be zero"));
    }
    let body = match args.rate {
        Some(rate) => json!({"rate_bytes_per_second": rate.0}),
        None => json!({}),
    };
    let operation: OperationView = router.post("/v1/cluster/rebalance", &body).await?;
    accepted(&router, &operation, args.no_wait).await
}

fn table(plan: Value) -> Result<String, Failure> {
    let list = match plan {
        Value::Object(mut fields) => fields.remove("moves").unwrap_or_default(),
        list => list,
    };
    let moves: Vec<PlannedMove> = serde_json::from_value(list)
        .map_err(|error| Failure::failed(format!("the plan cannot be understood: {error}")))?;
    if moves.is_empty() {
        return Ok("nothing to move: every group has its share".to_owned());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["from", "to", "slots", "which"]);
    let mut total = 0;
    for planned in &moves {
        let count = planned.count();
        total += count.unwrap_or(0);
        let text = |value: &Value| plain(value).unwrap_or_else(|| "nobody".to_owned());
        let which = planned.slots.as_str().unwrap_or_default().to_owned();
        table.add_row([text(&planned.from), text(&planned.to), count.map(thousands).unwrap_or_default(), which]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(format!("{table}\n{} slots would be moved", thousands(total)))
}

impl PlannedMove {
    /// As told, or counted.
    fn count(&self) -> Option<u64> {
        let told = self.count.or_else(|| self.slots.as_u64());
        told.or_else(|| Some(self.slots.as_str()?.parse::<raftkv_kv::SlotSet>().ok()?.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_with_what_moves_where() {
        let plan = json!({"moves": [{"from": 1, "to": 2, "slots": "0-2729"}, {"from": 1, "to": {"id": 3, "name": "west"}, "slots": "2730-5460,6000", "count": 2732}]});
        let text = table(plan).expect("a plan");
        for part in ["2,730", "2,732", "west", "0-2729", "5,462 slots would be moved"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(table(json!({"moves": []})).expect("empty").contains("nothing to move"));
        assert_eq!(table(json!({"moves": 7})).expect_err("no plan").code, 1);
    }
}
