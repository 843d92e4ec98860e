//! `raftkv status`: how every node of the group is doing, or the whole store when a router is named.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use futures::future::join_all;
use raftkv_runtime::config::HumanDuration;
use serde_json::json;

use crate::args::ManagementArgs;
use crate::client::Endpoints;
use crate::failure::Failure;
use crate::management::{Management, Member, Status};
use crate::output::{self, bytes, thousands};
use crate::store::{Router, StoreStatus};

/// Clears the terminal and goes to its corner.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";
/// In place of what is not known.
const UNKNOWN: &str = "-";
/// Columns of text; the others are numbers.
const TEXT_COLUMNS: [usize; 3] = [0, 1, 8];

/// Arguments of `raftkv status`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv status
  raftkv status --management 10.0.0.1:6000,10.0.0.2:6000 --json
  raftkv status --watch --interval 500ms
  raftkv status --router 10.0.0.9:8000    every group of the store

LAG counts the log entries that a node has yet to receive.")]
pub(crate) struct StatusArgs {
    /// Print JSON: one object, with what each node said
    #[arg(long)]
    json: bool,
    /// Show it again and again
    #[arg(long)]
    watch: bool,
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "watch")]
    interval: HumanDuration,
    /// Show the whole store, as this router sees it; several, separated by commas, are tried in turn
    #[arg(long, value_name = "URL[,URL]", conflicts_with = "management")]
    router: Option<Endpoints>,
    #[command(flatten)]
    management: ManagementArgs,
}

/// Prints the table, once or again and again.
pub(crate) async fn run(args: StatusArgs) -> Result<(), Failure> {
    loop {
        // Who watches wants to see it come back, too.
        let text = match (see(&args).await, args.watch) {
            (Ok(text), _) => text,
            (Err(failure), true) => failure.message,
            (Err(failure), false) => return Err(failure),
        };
        if args.watch && !args.json && std::io::stdout().is_terminal() {
            std::io::stdout().write_all(CLEAR)?;
        }
        output::line(text)?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(args.interval.get()).await;
    }
}

/// The store that a router is of, or the group that a node is of.
async fn see(args: &StatusArgs) -> Result<String, Failure> {
    if let Some(router) = &args.router {
        return see_store(router, args).await;
    }
    match look(&args.management).await {
        Ok(group) => Ok(if args.json { group.to_json() } else { group.to_text() }),
        // A router has no status of a node: its address was given for a management address.
        Err(failure) if failure.code != raftkv_runtime::exit::UNAVAILABLE => {
            see_store(&args.management.management, args).await.map_err(|_| failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn see_store(router: &Endpoints, args: &StatusArgs) -> Result<String, Failure> {
    let store = StoreStatus::look(&Router::at(router.clone(), args.management.timeout())).await?;
    Ok(if args.json { store.to_json() } else { store.to_text() })
}

/// What was found out about a group.
#[derive(Debug)]
struct Group {
    cluster_id: Option<String>,
    nodes: Vec<Seen>,
}

/// What was found out about a node.
#[derive(Debug)]
struct Seen {
    member: Member,
    /// What it said, as it said it and parsed; or why it did not.
    answer: Result<(serde_json::Value, Status), String>,
}

/// Asks any node for the members, then each of them.
async fn look(args: &ManagementArgs) -> Result<Group, Failure> {
    let (raw, mut first) = Management::new(args).status().await?;
    if first.members.is_empty() {
        // In no cluster yet: there is only itself to show.
        let member = Member { name: first.node.name.clone(), ..Member::default() };
        return Ok(Group {
            cluster_id: first.cluster_id.clone(),
            nodes: vec![Seen { member, answer: Ok((raw, first)) }],
        });
    }
    // In the same order whoever answers: a table that is watched must not jump about.
    first.members.sort_by(|a, b| a.name.cmp(&b.name));
    let nodes = join_all(first.members.iter().map(|member| ask(member.clone(), args.timeout()))).await;
    Ok(Group { cluster_id: first.cluster_id, nodes })
}

async fn ask(member: Member, timeout: Duration) -> Seen {
    let answer = match &member.management_address {
        None => Err("no management address known".to_owned()),
        Some(address) => match Management::at(address, timeout) {
            Ok(management) => management.status().await.map_err(|failure| failure.message),
            Err(failure) => Err(failure.message),
        },
    };
    Seen { member, answer }
}

impl Group {
    /// The leader's status: that of the highest term, if several believe to lead.
    fn leader(&self) -> Option<&Status> {
        let said = self.nodes.iter().filter_map(|seen| seen.answer.as_ref().ok()).map(|(_, status)| status);
        said.filter(|status| status.node.role.as_deref() == Some("leader")).max_by_key(|status| status.node.term)
    }

    fn to_json(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|seen| match &seen.answer {
                Ok((raw, _)) => json!({"name": seen.member.name, "reachable": true, "status": raw}),
                Err(reason) => {
                    json!({"name": seen.member.name, "reachable": false, "error": reason})
                }
            })
            .collect();
        let leader = self.leader().and_then(|status| status.node.name.as_deref());
        json!({"cluster_id": self.cluster_id, "leader": leader, "nodes": nodes}).to_string()
    }

    fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["node", "role", "term", "applied", "lag", "keys", "disk", "snapshot", "http"]);
        let mut notes = Vec::new();
        for seen in &self.nodes {
            table.add_row(self.row(seen));
            let name = or_unknown(seen.member.name.clone());
            match &seen.answer {
                Err(reason) => notes.push(format!("{name} is unreachable: {reason}")),
                Ok((_, status)) => {
                    if status.node.engine.connected == Some(false) {
                        notes.push(format!("{name}: the engine does not answer its sidecar"));
                    }
                    if status.node.engine.disk_nearly_full == Some(true) {
                        let free = status.node.engine.disk_free_bytes.map_or_else(|| UNKNOWN.to_owned(), bytes);
                        notes.push(format!(
                            "{name}: the disk is nearly full ({free} free): writes are refused, deletes work"
                        ));
                    }
                }
            }
        }
        for column in (0..9).filter(|column| !TEXT_COLUMNS.contains(column)) {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if self.leader().is_none() {
            notes.push("no leader is known".to_owned());
        }
        let cluster = or_unknown(self.cluster_id.clone());
        let mut text = format!("cluster {cluster}\n{table}");
        for note in notes {
            text.push('\n');
            text.push_str(&note);
        }
        text
    }

    fn row(&self, seen: &Seen) -> [String; 9] {
        let name = or_unknown(seen.member.name.clone());
        let http = or_unknown(seen.member.http_address.clone());
        let lag = number(self.lag(seen));
        let Ok((_, status)) = &seen.answer else {
            let unknown = || UNKNOWN.to_owned();
            return [name, "unreachable".to_owned(), unknown(), unknown(), lag, unknown(), unknown(), unknown(), http];
        };
        let node = &status.node;
        let mut role = or_unknown(node.role.clone());
        if seen.member.voter == Some(false) && role != "learner" {
            role.push_str(" (learner)");
        }
        // The log is on the same disk as the engine's files.
        let disk = match (node.engine.disk_bytes, node.log_bytes) {
            (None, None) => UNKNOWN.to_owned(),
            (data, log) => bytes(data.unwrap_or(0) + log.unwrap_or(0)),
        };
        [
            name,
            role,
            number(node.term),
            number(node.applied_index),
            lag,
            number(node.engine.keys),
            disk,
            number(node.snapshot_index),
            http,
        ]
    }

    /// As the leader counts it; else what the node has not applied of what the leader has.
    fn lag(&self, seen: &Seen) -> Option<u64> {
        let leader = self.leader()?;
        let counted =
            leader.members.iter().find(|member| member.raft_id.is_some() && member.raft_id == seen.member.raft_id);
        if let Some(lag) = counted.and_then(|member| member.lag) {
            return Some(lag);
        }
        let (_, status) = seen.answer.as_ref().ok()?;
        Some(leader.node.last_log_index?.saturating_sub(status.node.applied_index?))
    }
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), thousands)
}

fn or_unknown(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| UNKNOWN.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let leader = json!({"cluster_id": "c1", "node": {"name": "node1", "raft_id": 1, "role": "leader", "term": 4,
            "last_log_index": 1200, "applied_index": 1200, "snapshot_index": null, "log_bytes": 1024,
            "engine": {"connected": true, "keys": 12345, "disk_bytes": 1047552, "disk_nearly_full": true, "disk_free_bytes": 2048}},
            "members": [{"name": "node1", "raft_id": 1, "lag": 0}, {"name": "node2", "raft_id": 2, "lag": 7},
                {"name": "node3", "raft_id": 3, "lag": null}]});
        let follower = json!({"node": {"name": "node2", "role": "follower", "term": 4, "applied_index": 1100,
            "engine": {"connected": false}}});
        let answered = |raw: serde_json::Value| {
            let status = serde_json::from_value(raw.clone()).expect("status");
            Ok((raw, status))
        };
        let member = |id: u64| Member {
            name: Some(format!("node{id}")),
            raft_id: Some(id),
            http_address: Some(format!("127.0.0.1:808{id}")),
            ..Member::default()
        };
        Group {
            cluster_id: Some("c1".to_owned()),
            nodes: vec![
                Seen { member: member(1), answer: answered(leader) },
                Seen { member: member(2), answer: answered(follower) },
                Seen { member: member(3), answer: Err("connection refused".to_owned()) },
            ],
        }
    }

    #[test]
    fn the_table_shows_every_member_reachable_or_not() {
        let text = group().to_text();
        for part in ["cluster c1", "leader", "follower", "unreachable", "12,345", "1.0 MiB", "127.0.0.1:8082"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains("node3 is unreachable: connection refused"), "{text}");
        assert!(text.contains("node2: the engine does not answer"), "{text}");
        assert!(text.contains("node1: the disk is nearly full (2.0 KiB free)"), "{text}");
        assert!(!text.contains("no leader"), "{text}");
    }

    #[test]
    fn lag_is_the_leaders_count_or_the_difference() {
        let mut group = group();
        let lags = |group: &Group| group.nodes.iter().map(|seen| group.lag(seen)).collect::<Vec<_>>();
        assert_eq!(lags(&group), [Some(0), Some(7), None]);
        group.nodes[1].member.raft_id = Some(9);
        assert_eq!(lags(&group)[1], Some(100));
    }

    #[test]
    fn json_tells_what_each_said() {
        let json: serde_json::Value = serde_json::from_str(&group().to_json()).expect("json");
        assert_eq!(json["leader"], "node1");
        assert_eq!(json["nodes"][1]["status"]["node"]["applied_index"], 1100);
        assert_eq!(json["nodes"][2]["reachable"], false);
    }
}
