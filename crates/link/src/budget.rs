//! [`Budget`]: a limit on waiting work, checked before the work starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limited number of units (requests, bytes) for concurrent use; requests beyond the limit are refused without
/// waiting.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// Units taken from a [`Budget`], returned on drop.
#[derive(Debug)]
pub struct Share {
    taken: Arc<AtomicUsize>,
    units: usize,
}

impl Budget {
    /// Makes a budget with all units available.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// Takes `units`, or `None` if not available. A request above the limit succeeds when nothing else is taken, so
    /// every request within the request limits is possible at some time.
    pub fn take(&self, units: usize) -> Option<Share> {
        let before = self.taken.fetch_add(units, Ordering::Relaxed);
        // Created first, so a refusal returns the units on drop.
        let share = Share { taken: Arc::clone(&self.taken), units };
        (before == 0 || before.saturating_add(units) <= self.limit).then_some(share)
    }

    /// Number of units taken.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_above_the_limit_and_gives_back_on_drop() {
        let budget = Budget::new(10);
        let first = budget.take(6).expect("6 of 10");
        assert!(budget.take(5).is_none(), "11 of 10");
        assert_eq!(budget.taken(), 6, "the refused share was given back");
        let _second = budget.take(4).expect("10 of 10");
        drop(first);
        assert_eq!(budget.taken(), 4);
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_alone() {
        let budget = Budget::new(10);
        let large = budget.take(100).expect("nothing else is there");
        assert!(budget.take(1).is_none());
        drop(large);
        assert!(budget.take(1).is_some());
    }
}
