//! [`Tally`]: what was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::operation::Trouble;
use crate::failure::Failure;

/// Longest latency that is told apart; anything longer counts as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);
/// Significant digits: errors stay under a tenth of a percent.
const DIGITS: u8 = 3;

/// Counts and latencies of one client, or of all.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Of requests that succeeded, in microseconds.
    latency: Histogram<u64>,
    operations: u64,
    troubles: BTreeMap<Trouble, u64>,
    /// What the measurement took.
    pub(super) duration: Duration,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Failure> {
        let latency = Histogram::new_with_bounds(1, micros(MAX_LATENCY), DIGITS).map_err(Failure::failed)?;
        Ok(Self { latency, operations: 0, troubles: BTreeMap::new(), duration: Duration::ZERO })
    }

    /// A request succeeded that counts for `operations`.
    pub(super) fn succeeded(&mut self, latency: Duration, operations: u64) {
        self.latency.saturating_record(micros(latency));
        self.operations += operations;
    }

    /// A request failed.
    pub(super) fn failed(&mut self, trouble: Trouble) {
        *self.troubles.entry(trouble).or_default() += 1;
    }

    /// Takes another client's in.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), Failure> {
        self.latency.add(&other.latency).map_err(Failure::failed)?;
        self.operations += other.operations;
        for (trouble, count) in &other.troubles {
            *self.troubles.entry(trouble.clone()).or_default() += count;
        }
        Ok(())
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Operations a second.
    pub(super) fn throughput(&self) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 { self.operations as f64 / seconds } else { 0.0 }
    }

    /// The latency that this share of the requests stayed within, in microseconds.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        self.latency.value_at_quantile(share)
    }

    /// In microseconds.
    pub(super) fn mean(&self) -> f64 {
        self.latency.mean()
    }

    /// In microseconds.
    pub(super) fn max(&self) -> u64 {
        self.latency.max()
    }

    pub(super) fn troubles(&self) -> &BTreeMap<Trouble, u64> {
        &self.troubles
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_clients_together() {
        let mut all = Tally::new().expect("tally");
        for client in 0..10u64 {
            let mut tally = Tally::new().expect("tally");
            for latency in 1..=100 {
                tally.succeeded(Duration::from_micros(client * 100 + latency), 2);
            }
            tally.failed(Trouble::Timeout);
            all.add(&tally).expect("add");
        }
        all.duration = Duration::from_secs(4);
        for (share, expected) in [(0.5, 500), (0.99, 990), (0.999, 999)] {
            let found = all.quantile(share);
            assert!(found.abs_diff(expected) <= 1, "{share}: {found}");
        }
        assert_eq!((all.operations(), all.throughput()), (2_000, 500.0));
        assert_eq!(all.troubles().get(&Trouble::Timeout), Some(&10));
    }

    #[test]
    fn latencies_beyond_the_histogram_count_as_its_end() {
        let mut tally = Tally::new().expect("tally");
        tally.succeeded(Duration::from_secs(3600), 1);
        tally.succeeded(Duration::ZERO, 1);
        assert!(tally.max() >= 60_000_000 && tally.max() < 61_000_000, "{}", tally.max());
        assert_eq!(tally.operations(), 2);
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let tally = Tally::new().expect("tally");
        assert_eq!((tally.throughput(), tally.quantile(0.99)), (0.0, 0));
    }
}
