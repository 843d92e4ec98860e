//! How fast a move may be: the rate of the copy, and the size of purges.

use std::time::{Duration, Instant};

/// A rate may be exceeded for so long at a stretch: a page should not wait for its own length.
const BURST: Duration = Duration::from_millis(250);

/// Bytes a second, on average. Pure: the time is given.
#[derive(Debug)]
pub(in crate::control) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was spent so far is paid for.
    paid_at: Option<Instant>,
}

impl Pace {
    /// `None` = as fast as it goes.
    pub(in crate::control) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_at: None }
    }

    /// Spends `bytes` at `now`; says how long to wait before the next.
    pub(in crate::control) fn spend(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let paid_at = self.paid_at.filter(|at| *at > now).unwrap_or(now) + cost;
        self.paid_at = Some(paid_at);
        paid_at.saturating_duration_since(now).saturating_sub(BURST)
    }
}

/// Records that a purge looks at: so many that applying it holds up clients' writes for no longer than this.
const PURGE_TIME: Duration = Duration::from_millis(20);
/// The least and the most that one purge looks at.
const PURGE_RECORDS: std::ops::RangeInclusive<u32> = 100..=20_000;

/// How many records the next purge looks at.
#[derive(Debug, Clone, Copy)]
pub(in crate::control) struct PurgeSize(u32);

impl Default for PurgeSize {
    fn default() -> Self {
        Self(1_000)
    }
}

impl PurgeSize {
    /// For the next purge.
    pub(in crate::control) fn records(self) -> u32 {
        self.0
    }

    /// A purge took so long; says how long to wait before the next, so that purges use no more than half of the time.
    pub(in crate::control) fn took(&mut self, took: Duration) -> Duration {
        let next = if took > PURGE_TIME { self.0 / 2 } else { self.0.saturating_mul(3) / 2 };
        self.0 = next.clamp(*PURGE_RECORDS.start(), *PURGE_RECORDS.end());
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average() {
        let start = Instant::now();
        let (mut pace, mut now) = (Pace::new(Some(1_000_000)), start);
        for _ in 0..40 {
            now += pace.spend(100_000, now);
        }
        let took = now - start;
        assert!(took > Duration::from_millis(3_500) && took < Duration::from_millis(4_100), "{took:?}");
        assert_eq!(Pace::new(None).spend(u64::MAX, start), Duration::ZERO);
    }

    #[test]
    fn purges_get_smaller_when_they_take_long() {
        let mut size = PurgeSize::default();
        for _ in 0..20 {
            size.took(Duration::from_millis(1));
        }
        assert_eq!(size.records(), *PURGE_RECORDS.end());
        for _ in 0..20 {
            size.took(Duration::from_secs(1));
        }
        assert_eq!(size.records(), *PURGE_RECORDS.start());
    }
}
