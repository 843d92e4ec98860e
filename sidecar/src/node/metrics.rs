//! What the metrics of a group say: who leads, who can be counted on, and how far the members are.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};

use crate::node::{Group, Node};
use crate::peers::Trouble;
use crate::raft::types::{LeaderId, NodeId, TypeConfig};

/// An election is over within so many times the patience, also after a split vote.
const OUTAGE_AFTER: u32 = 4;
/// A request that finds no leader waits for one as long as this, instead of being sent again with growing pauses: longer than it takes
/// to replace a leader whose process has ended.
const SUCCESSION: Duration = Duration::from_millis(400);
/// Answers of a leader may still be on their way when another one is known.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// A member whose last acknowledgement is not older counts as alive.
pub const ALIVE_WITHIN: Duration = Duration::from_millis(1_500);

/// The metrics as of now. Cloned: the borrow must not be held across an await.
pub fn metrics_of(group: &Group) -> RaftMetrics<TypeConfig> {
    group.raft.metrics().borrow_watched().clone()
}

/// The leader as far as this node knows. After a restart openraft names the leader of the stored vote, be it this node.
pub fn known_leader(metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
    metrics.current_leader.filter(|leader| *leader != metrics.id || metrics.state == ServerState::Leader)
}

/// The leader, when it can be counted on now: this node while a quorum follows it, or another that was heard lately.
///
/// A node that is cut off still knows who led; whoever asks whether it can serve must not be told so.
pub fn reachable_leader(node: &Node, group: &Group, metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
    outlook(node, group, metrics).ok()
}

/// The same, with the reason where there is none. Readiness, status, metrics and log lines all ask here.
pub fn outlook(node: &Node, group: &Group, metrics: &RaftMetrics<TypeConfig>) -> Result<NodeId, &'static str> {
    let leader = known_leader(metrics).ok_or("no leader is known")?;
    if metrics.state == ServerState::Leader {
        return match (has_quorum_contact(group), group.peers.work.is_stuck()) {
            (false, _) => Err("this leader has lost contact with a majority"),
            (true, true) => Err("entries of this leader make no progress at a majority"),
            (true, false) => Ok(leader),
        };
    }
    if node.leader_silent_for() > ALIVE_WITHIN {
        return Err("the leader has not been heard for a while");
    }
    match group.peers.work.told_by(metrics.vote.leader_id) {
        Trouble::NoMajority => Err("the leader reaches no majority"),
        Trouble::None | Trouble::Standstill => Ok(leader),
    }
}

/// Whether entries of the leader make no progress on their way to this node, as the leader says.
pub fn is_left_behind(group: &Group, metrics: &RaftMetrics<TypeConfig>) -> bool {
    metrics.state != ServerState::Leader && group.peers.work.told_by(metrics.vote.leader_id) == Trouble::Standstill
}

/// Why nothing that needs a leader can be done, where that has been so for longer than an election takes: who waits would only
/// wait in vain. `None` also while an election may be under way.
pub fn outage(node: &Node, group: &Group) -> Option<&'static str> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    let patience = group.timing.patience * OUTAGE_AFTER;
    let is_lost = group.peers.work.lost_for() >= patience;
    if metrics.state == ServerState::Leader {
        return match group.peers.work.is_stuck() {
            _ if is_lost => Some("the leader has lost contact with a majority"),
            true => Some("entries of the leader make no progress at a majority"),
            false => None,
        };
    }
    // What was seen a moment ago may be over.
    if is_lost && node.leader_silent_for() > ALIVE_WITHIN {
        return Some("no leader has been heard for longer than an election takes");
    }
    let told = group.peers.work.told_by(metrics.vote.leader_id);
    (told == Trouble::NoMajority).then_some("the leader reaches no majority")
}

/// Whether the node `sender` may have this leader work for it: only a member may. A node of version 0.1.0 does not
/// name itself, and may.
pub fn may_ask(group: &Group, sender: NodeId) -> bool {
    sender == 0 || group.raft.metrics().borrow_watched().membership_config.get_node(&sender).is_some()
}

/// Milliseconds are enough: since when each member has been silent, on the leader.
pub fn silent_for(metrics: &RaftMetrics<TypeConfig>, member: NodeId) -> Option<Duration> {
    if member == metrics.id {
        return Some(Duration::ZERO);
    }
    let acked = metrics.heartbeat.as_ref()?.get(&member)?.as_ref()?;
    Some(elapsed(acked))
}

/// Below which index a member's log is known to match, on the leader.
pub fn matched_next(metrics: &RaftMetrics<TypeConfig>, member: NodeId) -> Option<u64> {
    if member == metrics.id {
        return Some(metrics.last_log_index.map_or(0, |index| index + 1));
    }
    let matched = metrics.replication.as_ref()?.get(&member)?;
    Some(matched.as_ref().map_or(0, |id| id.index() + 1))
}

fn elapsed(at: &openraft::alias::SerdeInstantOf<TypeConfig>) -> Duration {
    let at = **at;
    let now = <openraft::alias::InstantOf<TypeConfig> as openraft::Instant>::now();
    if now > at { now - at } else { Duration::ZERO }
}

/// How long ago a quorum last acknowledged this leader; `None` on other nodes, and before the first time.
pub fn quorum_ack_age(group: &Group) -> Option<Duration> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    ack_age(&metrics)
}

fn ack_age(metrics: &RaftMetrics<TypeConfig>) -> Option<Duration> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let mut voters = metrics.membership_config.voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        // It is its own quorum at any time; openraft does not write that down while idle.
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.as_ref().map(elapsed)
}

/// Whether a leader may take proposals: a quorum has acknowledged it lately. A leader cut off from the others must not collect
/// writes that it cannot commit.
pub fn has_quorum_contact(group: &Group) -> bool {
    quorum_ack_age(group).is_some_and(|age| age < group.timing.patience)
}

/// As whom somebody leads, as far as this node knows.
pub fn led_by(group: &Group) -> Option<LeaderId> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    known_leader(&metrics).and(metrics.vote.committed.then_some(metrics.vote.leader_id))
}

/// Waits for a leader that can do something: another one than `gone`, or this node once a majority has answered it; until
/// `deadline`, and at most for the time in which a leader whose process has ended is replaced. False when there is none.
pub async fn await_successor(node: &Node, group: &Group, gone: Option<LeaderId>, deadline: std::time::Instant) -> bool {
    if !node.is_running() {
        return false;
    }
    let left = deadline.saturating_duration_since(std::time::Instant::now());
    let wait = group.raft.wait(Some(left.min(SUCCESSION)));
    let is_there = |metrics: &RaftMetrics<TypeConfig>| match metrics.state {
        ServerState::Leader => ack_age(metrics).is_some_and(|age| age < group.timing.patience),
        _ => known_leader(metrics).is_some() && metrics.vote.committed && Some(metrics.vote.leader_id) != gone,
    };
    wait.metrics(is_there, "there is a leader").await.is_ok()
}

/// Returns a moment after this node knows of another leader than `leader`: what was asked of that one and is not answered by then, never
/// may be.
pub async fn replaced(group: &Group, leader: NodeId) {
    let mut changes = group.raft.server_metrics();
    loop {
        let server = changes.borrow_and_update().clone();
        let leads_here = server.state == ServerState::Leader;
        if server.current_leader.is_some_and(|now| now != leader && (now != server.id || leads_here)) {
            return tokio::time::sleep(LAST_ANSWERS).await;
        }
        if changes.changed().await.is_err() {
            // Raft has ended, and this process is about to.
            std::future::pending::<()>().await;
        }
    }
}
