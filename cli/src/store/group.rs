//! `raftkv group`: the groups of a store.

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use super::operation::{accepted, remark};
use super::router::{Router, RouterArgs};
use super::status::StoreStatus;
use super::view::OperationView;
use crate::failure::Failure;
use crate::output::{self, JsonArgs};

/// Arguments of `raftkv group list`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GroupListArgs {
    #[command(flatten)]
    format: JsonArgs,
    /// Include removed groups
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv group add`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  raftkv group add kv4:50053,kv5:50053,kv6:50053 --name west

The nodes already form a group without keys. Nodes started with RAFTKV_ROUTER
register themselves and do not need this command.")]
pub(crate) struct GroupAddArgs {
    /// host:port of the group port of at least one node of the group
    #[arg(required = true, value_delimiter = ',', value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    addresses: Vec<String>,
    /// Name of the group [default: groupID]
    #[arg(long)]
    name: Option<String>,
    /// Share of the slots, relative to the other groups
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Return before the group has its slots
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv group remove`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  raftkv group remove west

The slots and keys of the group are moved to the other groups first. Then you
can stop its nodes, or kill them one by one with `raftkv node kill`.")]
pub(crate) struct GroupRemoveArgs {
    /// Name or id of the group
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    group: String,
    /// Remove the last group and delete every key
    #[arg(long)]
    yes_delete_all_keys: bool,
    /// Return before the group is removed
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv group weight`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv group weight west 2      twice the slots of a group with weight 1
  raftkv group weight west 0      no slots: drain the group

Slots move at the next `raftkv rebalance`.")]
pub(crate) struct GroupWeightArgs {
    /// Name or id of the group
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    group: String,
    /// Share of the slots, relative to the other groups
    weight: u32,
    #[command(flatten)]
    router: RouterArgs,
}

/// Lists the groups.
pub(crate) async fn list(args: GroupListArgs) -> Result<(), Failure> {
    let (raw, view) = Router::new(&args.router).cluster().await?;
    if args.format.is_json() {
        let is_shown = |group: &&Value| args.all || group.get("state").is_none_or(|state| state != "removed");
        let groups: Vec<_> =
            raw.get("groups").and_then(Value::as_array).into_iter().flatten().filter(is_shown).collect();
        return output::line(json!(groups));
    }
    output::line(StoreStatus::groups_table(&view, args.all))
}

/// Adds a group.
pub(crate) async fn add(args: GroupAddArgs) -> Result<(), Failure> {
    let mut body = json!({"addresses": args.addresses});
    if let Some(name) = &args.name {
        body["name"] = json!(name);
    }
    if let Some(weight) = args.weight {
        body["weight"] = json!(weight);
    }
    let router = Router::new(&args.router);
    let operation: OperationView = router.post("/v1/cluster/groups", &body).await?;
    accepted(&router, &operation, args.no_wait).await
}

/// Removes a group.
pub(crate) async fn remove(args: GroupRemoveArgs) -> Result<(), Failure> {
    let router = Router::new(&args.router);
    let group = router.group(&args.group).await?;
    let confirm = if args.yes_delete_all_keys { "?confirm=delete-all-keys" } else { "" };
    let asked = router.delete(&format!("/v1/cluster/groups/{}{confirm}", group.id)).await;
    let operation: OperationView = asked.map_err(|mut failure| {
        if failure.message.contains("confirm=delete-all-keys") {
            failure.message.push_str("; here: --yes-delete-all-keys");
        }
        failure
    })?;
    accepted(&router, &operation, args.no_wait).await
}

/// Changes a weight.
pub(crate) async fn weight(args: GroupWeightArgs) -> Result<(), Failure> {
    let router = Router::new(&args.router);
    let group = router.group(&args.group).await?;
    let path = format!("/v1/cluster/groups/{}/weight", group.id);
    let _: Value = router.post(&path, &json!({"weight": args.weight})).await?;
    output::line(format!("{} has weight {} now", group.name, args.weight))?;
    if group.weight != Some(u64::from(args.weight)) {
        remark("`raftkv rebalance` moves the slots accordingly");
    }
    Ok(())
}
