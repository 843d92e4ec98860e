//! What a scrape sees of consensus; recorded when it is asked for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::gauge;
use openraft::ServerState;
use raftkv_runtime::metrics::UNKNOWN;
use raftkv_runtime::scrapes::Scrapes;

use crate::node::Node;
use crate::node::metrics::{matched_next, metrics_of, quorum_ack_age, reachable_leader};

/// The members of which there were series at the last scrape: those of members that are gone are to go, too.
static MEMBERS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What the port answers: metrics of all kinds, those of consensus among them.
pub fn scrapes(node: Node) -> Scrapes {
    Scrapes::new(move || {
        record(&node);
        raftkv_runtime::metrics::render()
    })
}

/// Sets the gauges to what is the case now, and those of what is not known here to [`UNKNOWN`].
fn record(node: &Node) {
    gauge!("raftkv_engine_connected").set(f64::from(u8::from(*node.engine.connected().borrow())));
    let Some(group) = node.group() else { return };
    let metrics = metrics_of(&group);
    let leader = reachable_leader(node, &group, &metrics);
    // One that has lost its majority leads nothing.
    let leads = metrics.state == ServerState::Leader && leader == Some(metrics.id);
    let next = |index: Option<u64>| index.map_or(0.0, |index| (index + 1) as f64);
    gauge!("raftkv_raft_term").set(metrics.current_term as f64);
    gauge!("raftkv_raft_is_leader").set(f64::from(u8::from(leads)));
    gauge!("raftkv_raft_has_leader").set(f64::from(u8::from(leader.is_some())));
    gauge!("raftkv_raft_last_log_next_index").set(next(metrics.last_log_index));
    gauge!("raftkv_raft_committed_next_index").set(next(metrics.local_committed.map(|id| id.index())));
    gauge!("raftkv_raft_applied_next_index").set(next(metrics.last_applied.map(|id| id.index())));
    gauge!("raftkv_raft_snapshot_next_index").set(next(metrics.snapshot.map(|id| id.index())));
    gauge!("raftkv_raft_purged_next_index").set(next(metrics.purged.map(|id| id.index())));
    gauge!("raftkv_raft_log_bytes").set(group.log.wal().log_bytes() as f64);
    gauge!("raftkv_raft_voters").set(metrics.membership_config.voter_ids().count() as f64);
    gauge!("raftkv_raft_members").set(metrics.membership_config.nodes().count() as f64);
    // Known to a leader only, and also to one that has lost its majority: that is when it is looked at.
    gauge!("raftkv_raft_quorum_ack_age_seconds").set(quorum_ack_age(&group).map_or(UNKNOWN, |age| age.as_secs_f64()));
    let stuck = metrics.state == ServerState::Leader && group.peers.work.is_stuck();
    gauge!("raftkv_raft_entries_stuck").set(f64::from(u8::from(stuck)));

    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let standing = group.peers.work.standing();
    let mut gone = MEMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut members = BTreeSet::new();
    for (id, member) in metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id) {
        // Known to a leader only, and of a member only once it has answered.
        let matched = matched_next(&metrics, *id).filter(|matched| leads && *matched > 0);
        let lag = matched.map_or(UNKNOWN, |matched| last.saturating_sub(matched) as f64);
        let stands = if leads { f64::from(u8::from(standing.contains(id))) } else { UNKNOWN };
        record_member(&member.name, lag, stands);
        members.insert(member.name.clone());
    }
    for name in gone.difference(&members) {
        record_member(name, UNKNOWN, UNKNOWN);
    }
    *gone = members;
}

fn record_member(name: &str, lag: f64, stands: f64) {
    gauge!("raftkv_raft_member_lag_entries", "member" => name.to_owned()).set(lag);
    gauge!("raftkv_raft_member_stalled", "member" => name.to_owned()).set(stands);
}
