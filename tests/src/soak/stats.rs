//! [`Stats`]: counters of a soak.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kind::Kind;

/// Counters shared by all tasks of a soak.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) start: Instant,
    /// Number of answered HTTP requests.
    pub(super) requests: AtomicU64,
    /// Operations with known outcome: a batch counts its operations, a list of registers the keys of the family, a list of a set counts 1.
    pub(super) succeeded: AtomicU64,
    /// Changes with unknown outcome.
    pub(super) unknown: AtomicU64,
    /// Requests refused without effect.
    pub(super) refused: AtomicU64,
    /// Operations in checked histories.
    pub(super) checked: AtomicU64,
    /// Acknowledged counter increments, each applied exactly once.
    pub(super) adds: AtomicU64,
    /// Acknowledged elements of append lists, each found exactly once.
    pub(super) appended: AtomicU64,
    /// Lists compared with the knowledge of the only writer.
    pub(super) lists: AtomicU64,
    /// Pairs of replicas with compared hashes.
    pub(super) hashes: AtomicU64,
    /// Number of checks without a slot with two owners.
    pub(super) owners: AtomicU64,
    /// Time spent in checks, in microseconds.
    pub(super) checking_us: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    fired: BTreeMap<Kind, u64>,
    planned: BTreeMap<Kind, u64>,
    gap: (Duration, String),
    recovery: (Duration, String),
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            requests: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            adds: AtomicU64::new(0),
            appended: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            hashes: AtomicU64::new(0),
            owners: AtomicU64::new(0),
            checking_us: AtomicU64::new(0),
            rest: Mutex::default(),
        }
    }

    pub(super) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }

    pub(super) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub(super) fn planned(&self, kind: Kind) {
        *self.rest().planned.entry(kind).or_default() += 1;
    }

    pub(super) fn fired(&self, kind: Kind) {
        *self.rest().fired.entry(kind).or_default() += 1;
    }

    /// Records a write gap during these faults.
    pub(super) fn gap(&self, gap: Duration, faults: &str) {
        let mut rest = self.rest();
        if gap > rest.gap.0 {
            rest.gap = (gap, faults.to_owned());
        }
    }

    /// Records the recovery time after these faults: the time until every group accepted writes from every client.
    pub(super) fn recovery(&self, recovery: Duration, faults: &str) {
        let mut rest = self.rest();
        if recovery > rest.recovery.0 {
            rest.recovery = (recovery, faults.to_owned());
        }
    }

    /// Planned and fired counts of each kind.
    pub(super) fn kinds(&self) -> Vec<(Kind, u64, u64)> {
        let rest = self.rest();
        let fired = |kind| rest.fired.get(kind).copied().unwrap_or_default();
        rest.planned.iter().map(|(kind, planned)| (*kind, *planned, fired(kind))).collect()
    }

    /// The longest write gap and the longest recovery, each with the faults.
    pub(super) fn longest(&self) -> [(Duration, String); 2] {
        let rest = self.rest();
        [rest.gap.clone(), rest.recovery.clone()]
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
