//! What a node says about itself, for programs: the wire's form, and the document of `GET /status`.

use std::time::Duration;

use openraft::{RaftMetrics, ServerState};
use raftkv_proto::consensus::{ConsensusStatus, Member as WireMember};

use crate::life::bootstrap::Waiting;
use crate::life::lifecycle::Lifecycle;
use crate::node::elections::{Elections, Reason};
use crate::node::metrics::{is_left_behind, matched_next, metrics_of, outlook, quorum_ack_age, reachable_leader};
use crate::node::{Group, Node, Phase};
use crate::peers::management::{EngineDocument, MemberDocument, NodeDocument, StatusDocument, WaitingDocument};
use crate::raft::types::TypeConfig;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A status must answer also when the engine does not.
const ENGINE_DEADLINE: Duration = Duration::from_millis(500);

/// leader, follower, candidate, learner or removed. A leader that has lost its majority is a candidate: it stands, and nobody
/// follows.
pub fn role(node: &Node, group: &Group, metrics: &RaftMetrics<TypeConfig>) -> &'static str {
    match metrics.state {
        ServerState::Leader if reachable_leader(node, group, metrics).is_some() => "leader",
        ServerState::Leader => "candidate",
        _ if Elections::of(group).is_forbidden_by(Reason::Removed) => "removed",
        ServerState::Candidate => "candidate",
        ServerState::Follower => "follower",
        ServerState::Learner | ServerState::Shutdown => "learner",
    }
}

/// Why this node could not serve a linearizable request just now.
pub fn not_ready(node: &Node, lifecycle: &Lifecycle) -> Option<String> {
    let because = |what: &str, reason: String| match reason.as_str() {
        "" => what.to_owned(),
        reason => format!("{what}: {reason}"),
    };
    let barred = node.standing.barred().map(|(_, why)| why);
    let group = match node.phase() {
        Phase::Waiting => {
            return Some(because("this node is in no cluster yet", barred.unwrap_or_else(|| lifecycle.reason())));
        }
        Phase::Stopping(_) => return Some("stopping".to_owned()),
        Phase::Running(group) => group,
    };
    if barred.is_some() {
        return barred;
    }
    if !*node.engine.connected().borrow() {
        return Some("the engine is gone".to_owned());
    }
    let metrics = metrics_of(&group);
    if let Err(why) = outlook(node, &group, &metrics) {
        return Some(because(why, lifecycle.reason()));
    }
    is_left_behind(&group, &metrics)
        .then(|| "entries of the leader make no progress on their way to this node".to_owned())
}

/// For the engine and its clients. Does not ask the engine.
pub async fn consensus_status(node: &Node, lifecycle: &Lifecycle) -> ConsensusStatus {
    let mut status = ConsensusStatus {
        raft_id: node.identity.raft_id,
        name: node.identity.name.clone(),
        role: "waiting".to_owned(),
        version: VERSION.to_owned(),
        not_ready: not_ready(node, lifecycle).unwrap_or_default(),
        ..ConsensusStatus::default()
    };
    let Some(group) = node.group() else {
        return status;
    };
    let metrics = metrics_of(&group);
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
    status.cluster_id = group.cluster_id.clone();
    status.role = role(node, &group, &metrics).to_owned();
    status.term = metrics.current_term;
    status.leader_raft_id = reachable_leader(node, &group, &metrics).unwrap_or(0);
    status.last_log_next_index = next(metrics.last_log_index);
    status.committed_next_index = next(metrics.local_committed.map(|id| id.index()));
    status.applied_next_index = next(metrics.last_applied.map(|id| id.index()));
    status.snapshot_next_index = next(metrics.snapshot.map(|id| id.index()));
    status.purged_next_index = next(metrics.purged.map(|id| id.index()));
    status.log_bytes = group.log.wal().log_bytes();
    status.quorum_ack_age_ms = quorum_ack_age(&group).map_or(0, |age| age.as_millis() as u64);
    let leads = metrics.state == ServerState::Leader;
    let versions = &node.versions;
    (status.ready_version, status.ready_for_ms) = match versions.of_all() {
        Some((version, since)) if leads => (version, since.as_millis() as u64),
        _ if leads => (0, 0),
        _ => (versions.spoken().map_or(0, |spoken| spoken.max), 0),
    };
    status.formed_here = versions.is_formed_here();
    let members = metrics.membership_config.nodes().map(|(id, member)| WireMember {
        raft_id: *id,
        name: member.name.clone(),
        raft_address: member.raft_address.clone(),
        management_address: member.management_address.clone(),
        http_address: member.http_address.clone(),
        group_address: member.group_address.clone(),
        voter: voters.contains(id),
        matched_next_index: if leads { matched_next(&metrics, *id).unwrap_or(0) } else { 0 },
        version_min: versions.of(*id).map_or(0, |range| range.min),
        version_max: versions.of(*id).map_or(0, |range| range.max),
    });
    status.members = members.collect();
    status
}

/// For operators, other nodes and the command line. `waiting` is what the lifecycle says while the node is in no cluster.
pub async fn status_document(node: &Node, lifecycle: &Lifecycle, waiting: Option<Waiting>) -> StatusDocument {
    let (status, engine) = tokio::join!(consensus_status(node, lifecycle), engine_document(node));
    let in_cluster = !status.cluster_id.is_empty();
    let index = |next: u64| next.checked_sub(1);
    let leads = status.role == "leader";
    let barred = node.standing.barred().map(|(_, why)| why);
    let reason = barred.or_else(|| (!in_cluster).then(|| lifecycle.reason()));
    let last_next = status.last_log_next_index;
    let leader = status.members.iter().find(|member| member.raft_id == status.leader_raft_id);
    StatusDocument {
        cluster_id: in_cluster.then(|| status.cluster_id.clone()),
        node: NodeDocument {
            leader: leader.map(|leader| leader.name.clone()),
            leader_raft_id: (status.leader_raft_id != 0).then_some(status.leader_raft_id),
            last_log_index: index(last_next),
            committed_index: index(status.committed_next_index),
            applied_index: index(status.applied_next_index),
            snapshot_index: index(status.snapshot_next_index),
            purged_index: index(status.purged_next_index),
            log_bytes: in_cluster.then_some(status.log_bytes),
            quorum_ack_age_ms: node.group().and_then(|group| quorum_ack_age(&group)).map(|age| age.as_millis() as u64),
            engine,
            name: status.name,
            raft_id: status.raft_id,
            role: status.role,
            term: status.term,
            reason: reason.filter(|reason| !reason.is_empty()),
            version: status.version,
            incarnation: Some(node.life.incarnation()),
            uptime_ms: Some(node.life.age_ms()),
        },
        members: status
            .members
            .into_iter()
            .map(|member| MemberDocument {
                matched_index: if leads { index(member.matched_next_index) } else { None },
                // Not the whole log for one that this leader has not heard from: that is not known.
                lag: lag(leads, last_next, member.matched_next_index),
                name: member.name,
                raft_id: member.raft_id,
                voter: member.voter,
                raft_address: member.raft_address,
                management_address: member.management_address,
                http_address: member.http_address,
                group_address: member.group_address,
            })
            .collect(),
        waiting: waiting.map(|waiting| WaitingDocument {
            bootstrap: waiting.bootstrap,
            claim: waiting.claim,
            reason: Some(waiting.reason).filter(|reason| !reason.is_empty()),
        }),
    }
}

/// Entries that a member is behind, as a leader knows; `matched_next` is 0 where it knows nothing of the member.
fn lag(leads: bool, last_next: u64, matched_next: u64) -> Option<u64> {
    (leads && matched_next > 0).then(|| last_next.saturating_sub(matched_next))
}

async fn engine_document(node: &Node) -> EngineDocument {
    let connected = *node.engine.connected().borrow();
    if !connected {
        return EngineDocument::default();
    }
    match tokio::time::timeout(ENGINE_DEADLINE, node.engine.status()).await {
        Ok(Ok(status)) => EngineDocument {
            connected,
            revision: Some(status.revision),
            keys: Some(status.keys),
            disk_bytes: Some(status.disk_bytes),
            disk_free_bytes: Some(status.disk_free_bytes),
            disk_nearly_full: Some(status.disk_nearly_full),
            generation: Some(status.generation),
            http_address: Some(status.http_address).filter(|address| !address.is_empty()),
        },
        _ => EngineDocument { connected, ..EngineDocument::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_member_that_was_not_heard_from_is_not_known() {
        assert_eq!(lag(true, 91, 0), None, "not the whole log");
        assert_eq!(lag(true, 91, 84), Some(7));
        assert_eq!(lag(true, 91, 91), Some(0));
        assert_eq!(lag(false, 91, 84), None, "a follower knows nothing");
    }
}
