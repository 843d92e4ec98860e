//! `raftkv status`: how every node of the group is doing, or the whole store when a router is named.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use futures::future::join_all;
use raftkv_runtime::config::HumanDuration;
use raftkv_runtime::deadlines;
use serde_json::json;

use crate::args::ManagementArgs;
use crate::failure::{Cause, Failure};
use crate::management::{Management, Member, Status};
use crate::output::{self, JsonArgs, bytes, thousands};
use crate::store::{Router, StoreStatus};
use raftkv_client::Endpoints;

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
  raftkv status --management 10.0.0.1:6000,10.0.0.2:6000 -o json
  raftkv status --watch --interval 500ms
  raftkv status --router 10.0.0.9:8000      every group of the store

LAG is the number of log entries that a node has not received yet, or - if the
leader has no contact with the node.

The command asks each member at its own address. If that address cannot be
reached from here, the view of the asked node is shown. Exits with 1 if no
leader is known or if a reachable member does not answer.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    format: JsonArgs,
    /// Refresh until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Refresh interval
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "watch")]
    interval: HumanDuration,
    /// HTTP address of a router, for the whole store; separate several by commas, they are tried in turn
    #[arg(long, value_name = "URL[,URL]", conflicts_with = "management")]
    router: Option<Endpoints>,
    #[command(flatten)]
    management: ManagementArgs,
}

/// Prints the table, once or again and again.
pub(crate) async fn run(args: StatusArgs) -> Result<(), Failure> {
    loop {
        // Who watches wants to see it come back, too.
        let (text, is_well) = match (see(&args).await, args.watch) {
            (Ok(seen), _) => seen,
            (Err(failure), true) => (failure.message, false),
            (Err(failure), false) => return Err(failure),
        };
        if args.watch && !args.format.is_json() && std::io::stdout().is_terminal() {
            std::io::stdout().write_all(CLEAR)?;
        }
        output::line(text)?;
        if !args.watch {
            // All there is to say was said.
            return if is_well { Ok(()) } else { Err(Failure::failed("")) };
        }
        tokio::time::sleep(args.interval.get()).await;
    }
}

/// The store that a router is of, or the group that a node is of; and whether nothing is wrong with it.
async fn see(args: &StatusArgs) -> Result<(String, bool), Failure> {
    if let Some(router) = &args.router {
        return see_store(router, args).await;
    }
    match look(&args.management).await {
        Ok(group) => Ok((if args.format.is_json() { group.to_json() } else { group.to_text() }, group.is_well())),
        // A router has no status of a node: its address may have been given for a management address.
        Err(failure) if failure.cause == Cause::Stranger => {
            see_store(&args.management.management, args).await.map_err(|_| failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn see_store(router: &Endpoints, args: &StatusArgs) -> Result<(String, bool), Failure> {
    let timeout = args.management.timeout(deadlines::ROUTER_DOCUMENT);
    let store = StoreStatus::look(&Router::at(router.clone(), timeout)).await?;
    Ok((if args.format.is_json() { store.to_json() } else { store.to_text() }, true))
}

/// What was found out about a group.
#[derive(Debug)]
struct Group {
    cluster_id: Option<String>,
    /// The leader, as the asked node knows it.
    leader: Option<String>,
    nodes: Vec<Seen>,
}

/// What was found out about a node.
#[derive(Debug)]
struct Seen {
    member: Member,
    /// What it said, as it said it and parsed; or why it did not.
    answer: Result<(serde_json::Value, Status), Silence>,
}

/// Why a member said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Silence {
    reason: String,
    /// Its address leads nowhere from here: that says nothing about the member.
    is_not_reached: bool,
}

/// Asks any node for the members, then each of them.
async fn look(args: &ManagementArgs) -> Result<Group, Failure> {
    let (raw, mut first) = Management::for_status(args).status().await?;
    if first.members.is_empty() {
        // In no cluster yet: there is only itself to show.
        let member = Member { name: first.node.name.clone(), ..Member::default() };
        return Ok(Group {
            cluster_id: first.cluster_id.clone(),
            leader: None,
            nodes: vec![Seen { member, answer: Ok((raw, first)) }],
        });
    }
    // In the same order, whichever node answers: a table that is watched must not jump about.
    first.members.sort_by(|a, b| a.name.cmp(&b.name));
    let (raw, asked) = (&raw, &first);
    let nodes = join_all(first.members.iter().map(|member| async move {
        let is_asked_already = member.raft_id.is_some() && member.raft_id == asked.node.raft_id;
        match is_asked_already {
            true => Seen { member: member.clone(), answer: Ok((raw.clone(), asked.clone())) },
            false => ask(member.clone(), args.probe()).await,
        }
    }));
    let nodes = nodes.await;
    Ok(Group { cluster_id: first.cluster_id, leader: first.node.leader, nodes })
}

/// A member that does not answer must not keep the others' answers from being shown.
async fn ask(member: Member, timeout: Duration) -> Seen {
    let asked = match &member.management_address {
        None => Err(Failure::not_reached("no management address known")),
        Some(address) => match Management::at(address, timeout) {
            Ok(management) => management.status().await,
            Err(failure) => Err(failure),
        },
    };
    let silence =
        |failure: Failure| Silence { reason: failure.message, is_not_reached: failure.cause == Cause::NotReached };
    Seen { member, answer: asked.map_err(silence) }
}

impl Group {
    /// The leader's status: that of the highest term, if several believe to lead.
    fn leader(&self) -> Option<&Status> {
        let said = self.nodes.iter().filter_map(|seen| seen.answer.as_ref().ok()).map(|(_, status)| status);
        said.filter(|status| status.node.role.as_deref() == Some("leader")).max_by_key(|status| status.node.term)
    }

    /// The leader's name: as it says itself, or as the asked node knows.
    fn leader_name(&self) -> Option<&str> {
        let itself = self.leader().and_then(|status| status.node.name.as_deref());
        itself.or(self.leader.as_deref())
    }

    /// Somebody leads, and no member that can be reached keeps silent.
    fn is_well(&self) -> bool {
        let is_silent = |seen: &Seen| seen.answer.as_ref().is_err_and(|silence| !silence.is_not_reached);
        self.leader_name().is_some() && !self.nodes.iter().any(is_silent)
    }

    fn to_json(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|seen| match &seen.answer {
                Ok((raw, _)) => json!({"name": seen.member.name, "reachable": true, "status": raw}),
                Err(silence) => {
                    json!({"name": seen.member.name, "reachable": false, "error": silence.reason})
                }
            })
            .collect();
        json!({"cluster_id": self.cluster_id, "leader": self.leader_name(), "nodes": nodes}).to_string()
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
                Err(silence) if silence.is_not_reached => {
                    notes.push(format!("{name} cannot be reached from here: {}", silence.reason));
                }
                Err(silence) => notes.push(format!("{name} does not answer: {}", silence.reason)),
                Ok((_, status)) => {
                    if let Some(reason) = status.reason() {
                        let does = if status.cluster_id.is_none() { "waits" } else { "serves nothing" };
                        notes.push(format!("{name} {does}: {reason}"));
                    }
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
        match (self.leader(), &self.leader) {
            (None, None) => notes.push("no leader is known".to_owned()),
            (None, Some(name)) => notes.push(format!("{name} leads, as the asked node says")),
            (Some(_), _) => {}
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
            // What the asked node knows of it.
            let role = match self.leader_name() {
                Some(leader) if seen.member.name.as_deref() == Some(leader) => "leader (unreachable)",
                _ => "unreachable",
            };
            return [name, role.to_owned(), unknown(), unknown(), lag, unknown(), unknown(), unknown(), http];
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
        let silent = |is_not_reached, reason: &str| Err(Silence { reason: reason.to_owned(), is_not_reached });
        let member = |id: u64| Member {
            name: Some(format!("node{id}")),
            raft_id: Some(id),
            http_address: Some(format!("127.0.0.1:808{id}")),
            ..Member::default()
        };
        Group {
            cluster_id: Some("c1".to_owned()),
            leader: Some("node1".to_owned()),
            nodes: vec![
                Seen { member: member(1), answer: answered(leader) },
                Seen { member: member(2), answer: answered(follower) },
                Seen { member: member(3), answer: silent(true, "connection refused") },
            ],
        }
    }

    #[test]
    fn the_table_shows_every_member_reachable_or_not() {
        let text = group().to_text();
        for part in ["cluster c1", "leader", "follower", "unreachable", "12,345", "1.0 MiB", "127.0.0.1:8082"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains("node3 cannot be reached from here: connection refused"), "{text}");
        assert!(text.contains("node2: the engine does not answer"), "{text}");
        assert!(text.contains("node1: the disk is nearly full (2.0 KiB free)"), "{text}");
        assert!(!text.contains("no leader"), "{text}");
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_not_the_clusters_state() {
        let mut group = group();
        assert!(group.is_well());
        // Only a follower can be asked, as from a host that does not know the others' names.
        group.nodes[0].answer = Err(Silence { reason: "cannot resolve node1".to_owned(), is_not_reached: true });
        let text = group.to_text();
        assert!(text.contains("node1 leads, as the asked node says") && !text.contains("no leader"), "{text}");
        assert!(text.contains("node1 cannot be reached from here: cannot resolve node1"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&group.to_json()).expect("json");
        assert_eq!(json["leader"], "node1");
        assert!(group.is_well());
        group.leader = None;
        assert!(group.to_text().contains("no leader is known") && !group.is_well());
    }

    #[test]
    fn a_member_that_hangs_is_told_and_counts() {
        let mut group = group();
        group.nodes[2].answer = Err(Silence { reason: "no answer within 2s".to_owned(), is_not_reached: false });
        assert!(group.to_text().contains("node3 does not answer: no answer within 2s") && !group.is_well());
    }

    #[test]
    fn a_node_that_waits_or_serves_nothing_says_why() {
        let says = |raw: serde_json::Value| {
            let status: Status = serde_json::from_value(raw.clone()).expect("status");
            let member = Member { name: status.node.name.clone(), ..Member::default() };
            Group { cluster_id: None, leader: None, nodes: vec![Seen { member, answer: Ok((raw, status)) }] }.to_text()
        };
        let text = says(json!({"node": {"name": "n1"}, "waiting": {"reason": "node2 does not answer"}}));
        assert!(text.contains("n1 waits: node2 does not answer"), "{text}");
        let text = says(json!({"cluster_id": "c", "node": {"name": "n1", "reason": "it was removed"}}));
        assert!(text.contains("n1 serves nothing: it was removed"), "{text}");
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
