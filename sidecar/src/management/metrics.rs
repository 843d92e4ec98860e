//! What a scrape sees of consensus; recorded when it is asked for.

use metrics::gauge;
use openraft::ServerState;

use crate::leadership::{known_leader, matched_next, metrics_of, quorum_ack_age};
use crate::node::Node;

/// Sets the gauges to what is the case now.
pub(super) fn record(node: &Node) {
    gauge!("raftkv_engine_connected").set(f64::from(u8::from(*node.engine.connected().borrow())));
    let Some(group) = node.group() else { return };
    let metrics = metrics_of(&group);
    let leads = metrics.state == ServerState::Leader;
    let next = |index: Option<u64>| index.map_or(0.0, |index| (index + 1) as f64);
    gauge!("raftkv_raft_term").set(metrics.current_term as f64);
    gauge!("raftkv_raft_is_leader").set(f64::from(u8::from(leads)));
    gauge!("raftkv_raft_has_leader").set(f64::from(u8::from(known_leader(&metrics).is_some())));
    gauge!("raftkv_raft_last_log_next_index").set(next(metrics.last_log_index));
    gauge!("raftkv_raft_committed_next_index").set(next(metrics.local_committed.map(|id| id.index())));
    gauge!("raftkv_raft_applied_next_index").set(next(metrics.last_applied.map(|id| id.index())));
    gauge!("raftkv_raft_snapshot_next_index").set(next(metrics.snapshot.map(|id| id.index())));
    gauge!("raftkv_raft_purged_next_index").set(next(metrics.purged.map(|id| id.index())));
    gauge!("raftkv_raft_log_bytes").set(group.log.wal().log_bytes() as f64);
    gauge!("raftkv_raft_voters").set(metrics.membership_config.voter_ids().count() as f64);
    gauge!("raftkv_raft_members").set(metrics.membership_config.nodes().count() as f64);
    gauge!("raftkv_raft_quorum_ack_age_seconds").set(quorum_ack_age(&group).map_or(0.0, |age| age.as_secs_f64()));
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    for (id, member) in metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id) {
        // A follower does not know: zero, not the figure of a time when it led.
        let lag = if leads { last.saturating_sub(matched_next(&metrics, *id).unwrap_or(0)) } else { 0 };
        gauge!("raftkv_raft_member_lag_entries", "member" => member.name.clone()).set(lag as f64);
    }
}
