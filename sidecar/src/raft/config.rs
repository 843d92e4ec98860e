//! [`raft_config`]: what openraft is set to.

use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::raft::timing::Timing;

/// Commands to the state machine that may wait. When it is full openraft stands still, heartbeats and all, so it holds
/// what commits while the engine is gone, until the state machine gives up on it (`ENGINE_GONE_DEADLINE` there).
const APPLY_QUEUE: u64 = 1 << 20;
/// Bounds openraft's queue of calls: at 4,096 a batch, more than a disk can keep up with.
const API_QUEUE: u64 = 16_384;
/// Entries per replication message; the log store also bounds it by bytes.
const MAX_PAYLOAD_ENTRIES: u64 = 4_096;
/// A snapshot of many gigabytes over a slow network; a transfer that does not move is ended by the network layer.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// After an unreachable member; short, because a restarted one should get its heartbeats soon.
const BACKOFF: &str = "50ms 100ms 200ms ...250ms";

/// The settings of the group `cluster_id`.
pub(crate) fn raft_config(cluster_id: &str, timing: &Timing) -> openraft::Config {
    let millis = |duration: Duration| duration.as_millis() as u64;
    openraft::Config {
        cluster_name: cluster_id.to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        // Only the deadline of votes: openraft starts no elections, `Candidacy` does. As long as can be, for a vote waits for a disk.
        election_timeout_min: millis(timing.promise).saturating_sub(1),
        // For so long after it has heard from a leader this node refuses votes.
        election_timeout_max: millis(timing.promise),
        enable_elect: false,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // Compaction decides, and purges; openraft keeps everything on its own.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        // Only asked when a learner is added and waited for, which membership does by itself.
        replication_lag_threshold: u64::MAX,
        api_channel_size: Some(API_QUEUE),
        state_machine_channel_size: Some(APPLY_QUEUE),
        backoff: BACKOFF.to_owned(),
        ..openraft::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_accepts_our_settings_over_the_whole_range() {
        let ms = |millis: u64| Some(Duration::from_millis(millis));
        for (heartbeat, election) in
            [(None, None), (ms(100), ms(900)), (ms(1), ms(6)), (ms(1_000), ms(15_000)), (None, ms(300))]
        {
            let timing = Timing::of(heartbeat, election).expect("sound");
            raft_config("c", &timing).validate().expect("valid");
        }
    }
}
