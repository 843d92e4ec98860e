//! [`Transfer`]: how a snapshot on its way to a member gets on, for the log and for the deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::raft::types::NodeId;

/// Between two lines about a transfer that takes long.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// The least that counts as progress, within [`WINDOW`]: a receiver that hangs keeps answering HTTP/2 pings, a few dozen bytes in
/// that time, and a link that carries less will not bring a snapshot to its end.
const PROGRESS_BYTES: u64 = 1_024;
/// The time for them.
const WINDOW: Duration = Duration::from_secs(10);

/// A transfer under way.
pub(super) struct Transfer {
    to: String,
    target: NodeId,
    began: Instant,
    sent: u64,
    /// What was sent when the window began.
    counted: u64,
    window_at: Instant,
    moved_at: Instant,
    told_at: Instant,
    failed_before: u32,
}

impl Transfer {
    /// A transfer begins, after so many that have failed.
    pub(super) fn begin(
        address: &str,
        target: NodeId,
        up_to: Option<u64>,
        estimated_bytes: u64,
        failed_before: u32,
    ) -> Self {
        let now = Instant::now();
        let this = Self {
            to: address.to_owned(),
            target,
            began: now,
            sent: 0,
            counted: 0,
            window_at: now,
            moved_at: now,
            told_at: now,
            failed_before,
        };
        if this.is_told() {
            tracing::info!(
                to = this.to,
                raft_id = target,
                ?up_to,
                estimated_bytes,
                failed_before,
                "sending a snapshot"
            );
        }
        this
    }

    /// `sent` bytes have left by now. Returns for how long too few did; tells of progress now and then.
    pub(super) fn stands_still_for(&mut self, sent: u64, now: Instant) -> Duration {
        self.sent = sent;
        let has_moved = sent - self.counted >= PROGRESS_BYTES;
        if has_moved {
            self.moved_at = now;
        }
        // What is too little in one window is not added up over several.
        if has_moved || now - self.window_at >= WINDOW {
            (self.counted, self.window_at) = (sent, now);
        }
        if now - self.told_at >= TELL_INTERVAL {
            self.told_at = now;
            let (seconds, still) = ((now - self.began).as_secs(), (now - self.moved_at).as_secs());
            tracing::info!(to = self.to, raft_id = self.target, sent, seconds, still, "still sending the snapshot");
        }
        now - self.moved_at
    }

    /// The member has it.
    pub(super) fn done(&self, sent: u64) {
        tracing::info!(to = self.to, raft_id = self.target, sent, took = ?self.began.elapsed(), "the snapshot has arrived");
    }

    /// It will be begun again, unless something else is to be done.
    pub(super) fn failed(&self, reason: &str) {
        if self.is_told() {
            let (sent, failed_before) = (self.sent, self.failed_before);
            let took = self.began.elapsed();
            tracing::warn!(
                to = self.to,
                raft_id = self.target,
                sent,
                ?took,
                failed_before,
                reason,
                "the snapshot did not arrive"
            );
        }
    }

    /// A member that is down is tried again several times a second: the first, the second, the fourth failure and so on are told,
    /// and whatever took long.
    fn is_told(&self) -> bool {
        self.failed_before == 0 || self.failed_before.is_power_of_two() || self.began.elapsed() >= TELL_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_move_stands_still() {
        let mut transfer = Transfer::begin("n2:8088", 7, Some(5), 1_000, 0);
        let mut now = Instant::now();
        for seconds in 1..=600 {
            now += Duration::from_secs(1);
            assert_eq!(transfer.stands_still_for(seconds * 1_250, now), Duration::ZERO, "10 kbit/s");
        }
        for seconds in 1..=30 {
            now += Duration::from_secs(1);
            assert_eq!(transfer.stands_still_for(600 * 1_250, now), Duration::from_secs(seconds));
        }
        assert_eq!(transfer.stands_still_for(600 * 1_250 + 1_024, now), Duration::ZERO, "it moves again");
    }

    #[test]
    fn signs_of_life_are_no_progress() {
        let mut transfer = Transfer::begin("n2:8088", 7, Some(5), 1_000, 0);
        let mut now = Instant::now();
        let mut sent = 100_000;
        assert_eq!(transfer.stands_still_for(sent, now), Duration::ZERO);
        // An answer to a ping each second.
        for seconds in 1..=600 {
            now += Duration::from_secs(1);
            sent += 17;
            assert_eq!(transfer.stands_still_for(sent, now), Duration::from_secs(seconds));
        }
        // A link of 2 kbit/s moves, however seldom it is looked at.
        for step in [1, 3, 5] {
            for _ in 0..10 {
                now += Duration::from_secs(step);
                sent += 250 * step;
                let still = transfer.stands_still_for(sent, now);
                assert!(still <= Duration::from_secs(605), "{still:?}");
            }
            assert!(transfer.stands_still_for(sent, now) <= Duration::from_secs(5 * step));
        }
    }

    #[test]
    fn failures_that_repeat_are_told_less_and_less() {
        let told = |failed| Transfer::begin("n2:8088", 7, None, 0, failed).is_told();
        let told: Vec<u32> = (0..=20).filter(|failed| told(*failed)).collect();
        assert_eq!(told, [0, 1, 2, 4, 8, 16]);
    }
}
