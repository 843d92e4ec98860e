//! [`run`]: has the clock of the group count while this node leads.

use std::time::Duration;

use raftkv_proto::GROUP_CLOCK_VERSION;
use raftkv_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::node::metrics::quorum_ack_age;
use crate::node::{Group, Node};
use crate::raft::group_clock::Sight;
use crate::raft::types::LogId;

/// How often the leader looks whether it still counts.
const LOOK: Duration = Duration::from_millis(50);
/// The clock is in the log at least once a minute while something ends by it: what all members lose when they restart at once. The look and
/// the way into the log take a part of the minute, and so does a restart.
const TICK_AFTER_MS: u64 = 50_000;
/// An entry that was to write it down may be lost.
const TICK_AGAIN: Duration = Duration::from_secs(2);
/// A leader that no majority has answered for so long does not count time.
const CONTACT: Duration = Duration::from_secs(1);

/// Counts while this node leads, until the shutdown; and has the clock written into the log from time to time.
pub async fn run(node: Node, shutdown: Shutdown) {
    // An entry of its own term that was seen to be applied.
    let mut own: Option<LogId> = None;
    let mut ticked: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(group) = node.group() else { continue };
        let sight = sight(&node, &group, &mut own);
        group.clock.look(sight);
        let is_due = sight.and_then(|sight| sight.state_ms).is_some_and(|state_ms| is_due(&node, &group, state_ms));
        if is_due && ticked.is_none_or(|ticked| ticked.elapsed() >= TICK_AGAIN) {
            ticked = Some(Instant::now());
            group.combiner.tick(&group.raft, &group.clock).await;
        }
    }
}

/// Whether something ends by the clock, and the state's is so old that a restart of all members would lose much of it.
fn is_due(node: &Node, group: &Group, state_ms: u64) -> bool {
    node.is_running()
        && node.versions.engine().is_some_and(|engine| engine.next_deadline_ms != 0)
        && group.clock.stamp_ms().saturating_sub(state_ms) >= TICK_AFTER_MS
}

fn sight(node: &Node, group: &Group, own: &mut Option<LogId>) -> Option<Sight> {
    let leader = group.lease.leads_as(&group.raft)?;
    if own.is_none_or(|own| own.leader_id != leader) {
        *own = group.progress.applied().filter(|applied| applied.leader_id == leader);
    }
    // An engine that came back with less than it had knows an older clock.
    let engine = own.and_then(|own| node.versions.engine().filter(|engine| engine.next_index > own.index));
    let state_ms = engine.filter(|engine| engine.cluster >= GROUP_CLOCK_VERSION).map(|engine| engine.clock_ms);
    Some(Sight { leader, state_ms, in_contact: quorum_ack_age(group).is_some_and(|age| age < CONTACT) })
}
