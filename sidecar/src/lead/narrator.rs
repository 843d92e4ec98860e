//! [`narrate`]: the log lines about who leads and who belongs to the group.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use raftkv_runtime::exit;

use crate::node::{Group, Node, Phase};
use crate::raft::types::NodeId;

/// How often Raft is asked whether it still runs.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// Tells the story of a group in the log, and ends the process when Raft has ended by itself.
pub(crate) async fn narrate(group: Arc<Group>, node: Node) {
    let mut changes = group.raft.server_metrics();
    let metrics = group.raft.metrics();
    let mut told = (ServerState::Learner, None, 0);
    let mut members = Vec::new();
    loop {
        let server = changes.borrow_and_update().clone();
        let term = server.vote.leader_id.term;
        let now = (server.state, server.current_leader, term);
        if now != told {
            match (told.0, server.state) {
                (before, ServerState::Leader) if before != ServerState::Leader || told.2 != term => {
                    tracing::info!(term, "this node leads");
                }
                (ServerState::Leader, _) => {
                    tracing::info!(term, leader = ?server.current_leader, "this node leads no more")
                }
                _ if server.current_leader.is_some() && (told.1 != server.current_leader || told.2 != term) => {
                    let leader = server.current_leader;
                    let name = leader.and_then(|id| server.membership_config.get_node(&id)).map(ToString::to_string);
                    tracing::info!(term, leader, name, "follows a leader");
                }
                (before, after) if before != after => {
                    tracing::info!(term, role = ?after, "has a new role")
                }
                _ => {}
            }
            told = now;
        }
        group.peers.follow(&server.membership_config);
        let voters: Vec<NodeId> = server.membership_config.voter_ids().collect();
        let current: Vec<(String, bool)> =
            server.membership_config.nodes().map(|(id, member)| (member.to_string(), voters.contains(id))).collect();
        if current != members {
            let list: Vec<String> =
                current.iter().map(|(name, voter)| format!("{name}{}", if *voter { "" } else { " learner" })).collect();
            tracing::info!(members = list.join(", "), "membership");
            members = current;
        }
        // The full metrics change with every entry: they are only looked at from time to time.
        let ended = tokio::select! {
            changed = changes.changed() => changed.is_err(),
            () = tokio::time::sleep(HEALTH_INTERVAL) => metrics.borrow_watched().running_state.is_err(),
        };
        if ended {
            if matches!(node.phase(), Phase::Stopping(_)) {
                return;
            }
            let why = metrics.borrow_watched().running_state.clone().err();
            let why = why.map_or_else(|| "it is gone".to_owned(), |error| error.to_string());
            exit::fatal(
                exit::SOFTWARE,
                format!("consensus has stopped ({why}): ending, so that a restart can recover"),
            );
        }
    }
}
