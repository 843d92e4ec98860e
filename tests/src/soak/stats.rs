//! [`Stats`]: what a soak has done so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kind::Kind;

/// Counted by everybody who has a part in it.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) start: Instant,
    /// HTTP requests that were answered.
    pub(super) requests: AtomicU64,
    /// Operations with a known outcome: a batch is as many as it has, a list as many as it has keys of registers.
    pub(super) succeeded: AtomicU64,
    /// Changes of unknown outcome.
    pub(super) unknown: AtomicU64,
    /// Requests that were refused as not applied.
    pub(super) refused: AtomicU64,
    /// Operations in histories that were checked.
    pub(super) checked: AtomicU64,
    /// Adds to counters that were acknowledged, each found to be applied once.
    pub(super) adds: AtomicU64,
    /// Elements of append lists that were acknowledged, each found once.
    pub(super) appended: AtomicU64,
    /// Lists compared with what one client knew.
    pub(super) lists: AtomicU64,
    /// Pairs of replicas whose hashes were compared.
    pub(super) hashes: AtomicU64,
    /// Moments at which no slot had two owners.
    pub(super) owners: AtomicU64,
    /// Spent in checks, in microseconds.
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

    /// A time without a successful write, during these faults.
    pub(super) fn gap(&self, gap: Duration, faults: &str) {
        let mut rest = self.rest();
        if gap > rest.gap.0 {
            rest.gap = (gap, faults.to_owned());
        }
    }

    /// The time from the end of these faults until every group took writes from every client.
    pub(super) fn recovery(&self, recovery: Duration, faults: &str) {
        let mut rest = self.rest();
        if recovery > rest.recovery.0 {
            rest.recovery = (recovery, faults.to_owned());
        }
    }

    /// How often each kind was planned and fired.
    pub(super) fn kinds(&self) -> Vec<(Kind, u64, u64)> {
        let rest = self.rest();
        let fired = |kind| rest.fired.get(kind).copied().unwrap_or_default();
        rest.planned.iter().map(|(kind, planned)| (*kind, *planned, fired(kind))).collect()
    }

    /// The longest gap and the longest recovery, each with the faults around it.
    pub(super) fn longest(&self) -> [(Duration, String); 2] {
        let rest = self.rest();
        [rest.gap.clone(), rest.recovery.clone()]
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
