//! Compaction: when the engine makes its state durable, and which part of the log may go then.
//!
//! On a disk that is nearly full the log is kept as short as can be: what it holds besides is what the engine needs to make room.

use std::time::Duration;

use openraft::{RaftMetrics, ServerState};
use raftkv_runtime::shutdown::Shutdown;

use crate::engine::disk::Disk;
use crate::node::metrics::{ALIVE_WITHIN, matched_next, metrics_of, silent_for};
use crate::node::{Group, Node, Phase};
use crate::raft::types::TypeConfig;

/// How often the log is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A restart should not replay more than this, however small the entries are.
const SNAPSHOT_AFTER_ENTRIES: u64 = 100_000;
/// The log is purged in steps of at least this part of what is retained: each step costs a write of its own.
const PURGE_STEP_DIVISOR: u64 = 8;

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of log after which state is made durable.
    pub snapshot_after: u64,
    /// Bytes of log kept behind its end.
    pub retain: u64,
    /// Bytes of log beyond which nobody holds it back.
    pub max: u64,
}

/// The number of segments kept for members that are a little behind while the disk is nearly full.
const LOW_RETAINED_SEGMENTS: u64 = 2;

impl Limits {
    /// On a disk that is nearly full: state is made durable with every segment. With half of the reserve gone, too, members that are
    /// behind hold nothing back: they get a snapshot, for which their own disk may have no room now.
    fn low(&self, disk: &Disk, free_bytes: u64) -> Self {
        let snapshot_after = self.snapshot_after.min(disk.segment_bytes);
        let retain = self.retain.min(LOW_RETAINED_SEGMENTS * disk.segment_bytes);
        let max = if free_bytes < disk.reserve / 2 { snapshot_after + 2 * retain } else { self.max };
        Self { snapshot_after, retain, max: self.max.min(max) }
    }
}

/// The log as it is. All positions are "next": one beyond the last index that is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// Everything below is purged.
    pub purged_next: u64,
    /// Everything below is in the durable state.
    pub snapshot_next: u64,
    /// Everything below is applied.
    pub applied_next: u64,
    /// The end.
    pub last_next: u64,
    /// Size of what is between `purged_next` and `last_next`.
    pub bytes: u64,
    /// On the leader: up to where each living member has the log.
    pub matched_next: Vec<u64>,
}

/// What to do about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Make the state durable.
    pub snapshot: bool,
    /// Purge every entry below this index.
    pub purge_below: Option<u64>,
}

/// Decides. Sizes of parts of the log are estimated from its average entry.
pub fn decide(log: &LogFigures, limits: &Limits) -> Compaction {
    let entries = log.last_next.saturating_sub(log.purged_next);
    if entries == 0 {
        return Compaction::default();
    }
    let bytes_per_entry = (log.bytes / entries).max(1);

    let not_durable = log.applied_next.saturating_sub(log.snapshot_next);
    let snapshot = not_durable > SNAPSHOT_AFTER_ENTRIES
        || (not_durable > 0 && not_durable.saturating_mul(bytes_per_entry) > limits.snapshot_after);

    let retained = (limits.retain / bytes_per_entry).max(1);
    let mut below = log.snapshot_next.min(log.last_next.saturating_sub(retained));
    if log.bytes <= limits.max {
        below = log.matched_next.iter().copied().fold(below, u64::min);
    }
    let step = (retained / PURGE_STEP_DIVISOR).max(1);
    let purge_below = (below >= log.purged_next.saturating_add(step)).then_some(below);
    Compaction { snapshot, purge_below }
}

fn figures(metrics: &RaftMetrics<TypeConfig>, bytes: u64) -> LogFigures {
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let matched = match metrics.state {
        ServerState::Leader => metrics
            .membership_config
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| silent_for(metrics, *id).is_some_and(|silent| silent <= ALIVE_WITHIN))
            .filter_map(|id| matched_next(metrics, id))
            .collect(),
        _ => Vec::new(),
    };
    LogFigures {
        purged_next: next(metrics.purged.map(|id| id.index())),
        snapshot_next: next(metrics.snapshot.map(|id| id.index())),
        applied_next: next(metrics.last_applied.map(|id| id.index())),
        last_next: next(metrics.last_log_index),
        bytes,
        matched_next: matched,
    }
}

/// Looks after the log until the shutdown.
pub async fn run(node: Node, limits: Limits, disk: Disk, shutdown: Shutdown) {
    let mut was_low = false;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Phase::Running(group) = node.phase() else {
            continue;
        };
        // Without the engine nothing can be made durable, and the request would only wait.
        if !*node.engine.connected().borrow() {
            continue;
        }
        let free_bytes = disk.free_bytes().await.unwrap_or(u64::MAX);
        let is_low = disk.is_low(free_bytes);
        if is_low != was_low {
            tracing::info!(is_low, "the disk is nearly full, or has room again: the log is kept shorter while it is");
            was_low = is_low;
        }
        let limits = if is_low { limits.low(&disk, free_bytes) } else { limits };
        compact(&group, &limits).await;
    }
}

async fn compact(group: &Group, limits: &Limits) {
    let log = figures(&metrics_of(group), group.log.wal().log_bytes());
    let decision = decide(&log, limits);
    if decision.snapshot {
        tracing::debug!(applied_next = log.applied_next, snapshot_next = log.snapshot_next, "making the state durable");
        metrics::counter!("raftkv_snapshots_triggered_total").increment(1);
        // An error here means that Raft has stopped, which ends the process elsewhere.
        let _ = group.raft.trigger().snapshot().await;
    }
    if let Some(below) = decision.purge_below {
        tracing::debug!(from = log.purged_next, below, bytes = log.bytes, "purging the log");
        metrics::counter!("raftkv_log_purges_total").increment(1);
        let _ = group.raft.trigger().purge_log(below - 1).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use raftkv_runtime::disk::DiskPlan;

    use super::*;

    const LIMITS: Limits = Limits { snapshot_after: 1_000, retain: 2_000, max: 10_000 };

    /// Entries of ten bytes, all applied.
    fn log(purged_next: u64, snapshot_next: u64, last_next: u64, matched_next: &[u64]) -> LogFigures {
        LogFigures {
            purged_next,
            snapshot_next,
            applied_next: last_next,
            last_next,
            bytes: (last_next - purged_next) * 10,
            matched_next: matched_next.to_vec(),
        }
    }

    #[test]
    fn an_empty_log_is_left_alone() {
        assert_eq!(decide(&LogFigures::default(), &LIMITS), Compaction::default());
        assert_eq!(decide(&log(50, 50, 50, &[]), &LIMITS), Compaction::default());
    }

    #[test]
    fn state_is_made_durable_by_bytes_and_by_entries() {
        assert!(!decide(&log(0, 100, 200, &[]), &LIMITS).snapshot, "1,000 bytes are allowed");
        assert!(decide(&log(0, 100, 201, &[]), &LIMITS).snapshot);
        let many = Limits { snapshot_after: u64::MAX, ..LIMITS };
        assert!(!decide(&log(0, 0, SNAPSHOT_AFTER_ENTRIES, &[]), &many).snapshot);
        assert!(decide(&log(0, 0, SNAPSHOT_AFTER_ENTRIES + 1, &[]), &many).snapshot);
    }

    #[test]
    fn only_what_is_durable_and_beyond_what_is_retained_goes() {
        assert_eq!(decide(&log(0, 500, 600, &[]), &LIMITS).purge_below, Some(400), "200 entries are retained");
        assert_eq!(decide(&log(0, 100, 600, &[]), &LIMITS).purge_below, Some(100), "the rest is not durable");
        assert_eq!(decide(&log(0, 0, 600, &[]), &LIMITS).purge_below, None);
    }

    #[test]
    fn a_slow_living_member_holds_the_log_back_up_to_the_maximum() {
        assert_eq!(decide(&log(0, 900, 900, &[900, 120]), &LIMITS).purge_below, Some(120));
        assert_eq!(decide(&log(0, 900, 900, &[900, 0]), &LIMITS).purge_below, None);
        assert_eq!(
            decide(&log(0, 1_100, 1_100, &[1_100, 0]), &LIMITS).purge_below,
            Some(900),
            "11,000 bytes are too many"
        );
    }

    #[test]
    fn on_a_disk_that_is_nearly_full_the_log_is_short_and_nobody_far_behind_holds_it_back() {
        let plan = DiskPlan { segment_bytes: 300, ..DiskPlan::for_disk(0) };
        let disk = Disk::new(PathBuf::new(), &plan, Some(4_000));
        assert_eq!(LIMITS.low(&disk, 2_000), Limits { snapshot_after: 300, retain: 600, max: LIMITS.max });
        let low = LIMITS.low(&disk, 1_999);
        assert_eq!(low, Limits { snapshot_after: 300, retain: 600, max: 1_500 });
        assert!(decide(&log(0, 100, 131, &[]), &low).snapshot, "a segment is not durable");
        assert_eq!(decide(&log(0, 500, 500, &[490, 460]), &low).purge_below, Some(440), "60 entries are retained");
        assert_eq!(decide(&log(0, 500, 500, &[490, 10]), &low).purge_below, Some(440), "a snapshot is for that member");
        let small = Limits { snapshot_after: 100, retain: 200, max: 300 };
        assert_eq!(small.low(&disk, 0), small, "never more than is allowed otherwise");
    }

    #[test]
    fn it_purges_in_steps() {
        assert_eq!(decide(&log(390, 600, 600, &[]), &LIMITS).purge_below, None, "ten entries are not worth it");
        assert_eq!(decide(&log(375, 600, 600, &[]), &LIMITS).purge_below, Some(400));
    }
}
