//! [`CatchUp`]: when so little is left to copy that the source should be fenced. Pure.

use std::time::Duration;

/// A pause is to be shorter than 100 ms. The fence, the commit and the routers' finding out need some; this much is for
/// the copy of the last changes.
const LAST_COPY: Duration = Duration::from_millis(40);
/// As long as it is not known what a change costs, so few are copied in one page at once.
const FEW_CHANGES: u64 = 16;
/// Pages that take longer than [`LAST_COPY`] each are not going to be faster after this long.
const SLOW_PATIENCE: Duration = Duration::from_secs(1);
/// What is left gets less by a tenth within this, and thrice the time that copying it takes, or it does not get less: keys
/// change as fast as they are copied.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a page said about changes, and how long it took to bring it over.
#[derive(Debug, Clone, Copy)]
pub(in crate::control) struct PageFacts {
    /// Changes that this page brought.
    pub(in crate::control) changes: u64,
    /// Changes that have been brought in all.
    pub(in crate::control) done: u64,
    /// Changes recorded when the page was read.
    pub(in crate::control) total: u64,
    /// For the page: read, and imported.
    pub(in crate::control) took: Duration,
}

/// Watches the copy of changes behind the base.
///
/// It always ends: by little being left, or by seeing that waiting does not help.
#[derive(Debug, Default)]
pub(in crate::control) struct CatchUp {
    /// The least that was left so far.
    least_left: Option<u64>,
    /// The time spent since.
    since_least: Duration,
    per_change: Option<Duration>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Verdict {
    /// Go on copying.
    GoOn,
    /// What is left is copied in no time.
    Little,
    /// It does not get less: the pause will be as long as the copy of what is left takes.
    NoLess,
}

impl CatchUp {
    /// Takes note of a page behind the base.
    pub(in crate::control) fn page(&mut self, facts: PageFacts) -> Verdict {
        if facts.changes > 0 {
            let changes = u32::try_from(facts.changes).unwrap_or(u32::MAX);
            self.per_change = Some(facts.took / changes);
        }
        let left = facts.total.saturating_sub(facts.done);
        let is_little = match self.per_change {
            Some(each) => each.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX)) <= LAST_COPY,
            None => left <= FEW_CHANGES,
        };
        let is_less = self.least_left.is_none_or(|least| left < least - least / 10);
        if is_less {
            self.least_left = Some(left);
            self.since_least = Duration::ZERO;
        } else {
            self.since_least += facts.took;
        }
        if is_little && (facts.took <= LAST_COPY || self.since_least >= SLOW_PATIENCE) {
            Verdict::Little
        } else if self.since_least
            >= self.estimate(self.least_left.unwrap_or(left)).saturating_mul(3).saturating_add(PATIENCE)
        {
            Verdict::NoLess
        } else {
            Verdict::GoOn
        }
    }

    /// How long the copy of what is left will take, about.
    pub(in crate::control) fn estimate(&self, left: u64) -> Duration {
        self.per_change.unwrap_or_default().saturating_mul(u32::try_from(left).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Copies pages of `most` changes, `fixed` and `each` for a page and a change, while `rate` changes a second come.
    /// Returns the verdict, what was left, and after how many pages.
    fn run(backlog: u64, rate: f64, most: u64, fixed: f64, each: f64) -> (Verdict, u64, u32) {
        let mut catch_up = CatchUp::default();
        let (mut done, mut total) = (0u64, backlog as f64);
        for pages in 1..1_000_000 {
            let read_at = total;
            let changes = most.min(read_at as u64 - done);
            let took = fixed + each * changes as f64;
            done += changes;
            total += rate * took;
            let facts = PageFacts { changes, done, total: total as u64, took: Duration::from_secs_f64(took) };
            let verdict = catch_up.page(facts);
            if verdict != Verdict::GoOn {
                return (verdict, total as u64 - done, pages);
            }
        }
        panic!("it goes on for ever");
    }

    proptest! {
        #[test]
        fn it_ends_however_fast_writes_come(
            backlog in 0u64..20_000,
            rate in 0.0f64..30_000.0,
            most in 1u64..500,
            fixed in 0.004f64..0.2,
            each in 0.000_01f64..0.005,
        ) {
            let (verdict, left, _) = run(backlog, rate, most, fixed, each);
            if verdict == Verdict::Little {
                prop_assert!(left as f64 * each <= 0.1, "{left} changes at {each} s");
            }
        }
    }

    #[test]
    fn quiet_slots_are_fenced_at_once() {
        assert_eq!(run(0, 0.0, 200, 0.004, 0.000_1), (Verdict::Little, 0, 1));
    }

    #[test]
    fn a_backlog_is_copied_first() {
        let (verdict, left, pages) = run(10_000, 1_000.0, 200, 0.004, 0.000_1);
        assert_eq!(verdict, Verdict::Little);
        assert!(left < 410 && pages >= 45, "{left} left after {pages} pages");
    }

    #[test]
    fn writes_faster_than_the_copy_do_not_keep_it_for_ever() {
        let (verdict, _, pages) = run(1_000, 20_000.0, 100, 0.01, 0.000_1);
        assert_eq!(verdict, Verdict::NoLess);
        assert!(pages < 500, "{pages}");
    }
}
