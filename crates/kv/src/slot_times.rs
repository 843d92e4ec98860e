//! [`SlotTimes`]: the time of each slot.
//!
//! The time of a slot is the clock of the group plus an offset. All expiry times are in slot time, and deadlines are
//! never converted. After a move the new group gets an offset to continue the slot time from the last value. While no
//! group serves the slot, slot time stands still, so a move does not shorten any retention time.

use serde::{Deserialize, Serialize};

use crate::SlotSet;

/// The cluster version with deadlines in slot time. Below this version the clock of the group counts, and a move raises
/// the clock.
pub const SLOT_TIME_VERSION: u32 = 2;

/// Non-zero slot offsets in milliseconds. All other slots have offset 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotTimes(Vec<Run>);

/// Slots with the same offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    offset_ms: i64,
    slots: SlotSet,
}

/// The time of a set of slots at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTime {
    /// The slots.
    pub slots: SlotSet,
    /// Slot time in milliseconds.
    pub time_ms: u64,
}

/// Returns the slot time at the given group clock and offset.
pub fn slot_time(clock_ms: u64, offset_ms: i64) -> u64 {
    clock_ms.saturating_add_signed(offset_ms)
}

/// Returns the offset between a slot time and the group clock, clamped to the range of the type.
pub fn offset_of(time_ms: u64, clock_ms: u64) -> i64 {
    let difference = i128::from(time_ms) - i128::from(clock_ms);
    difference.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl SlotTimes {
    /// Whether no slot has an offset.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the offset of a slot.
    pub fn offset(&self, slot: u16) -> i64 {
        self.0.iter().find(|run| run.slots.contains(slot)).map_or(0, |run| run.offset_ms)
    }

    /// Sets the offset of `slots`.
    pub fn set(&mut self, slots: &SlotSet, offset_ms: i64) {
        for run in &mut self.0 {
            run.slots = run.slots.difference(slots);
        }
        if offset_ms != 0 && !slots.is_empty() {
            match self.0.iter_mut().find(|run| run.offset_ms == offset_ms) {
                Some(run) => run.slots = run.slots.union(slots),
                None => self.0.push(Run { offset_ms, slots: slots.clone() }),
            }
        }
        self.0.retain(|run| !run.slots.is_empty());
        // Canonical form: the state hash includes the offsets.
        self.0.sort_by_key(|run| run.offset_ms);
    }

    /// Advances the time of `slots` by `by_ms` milliseconds.
    pub fn shift(&mut self, slots: &SlotSet, by_ms: i64) {
        for (offset_ms, slots) in self.runs(slots) {
            self.set(&slots, offset_ms.saturating_add(by_ms));
        }
    }

    /// Groups `slots` by offset.
    pub fn runs(&self, slots: &SlotSet) -> Vec<(i64, SlotSet)> {
        let mut rest = slots.clone();
        let mut runs = Vec::new();
        for run in &self.0 {
            let part = run.slots.intersection(slots);
            if !part.is_empty() {
                rest = rest.difference(&part);
                runs.push((run.offset_ms, part));
            }
        }
        if !rest.is_empty() {
            runs.push((0, rest));
        }
        runs
    }

    /// Returns the slot times of `slots` at the given group clock.
    pub fn at(&self, slots: &SlotSet, clock_ms: u64) -> Vec<SlotTime> {
        let time = |(offset_ms, slots)| SlotTime { slots, time_ms: slot_time(clock_ms, offset_ms) };
        self.runs(slots).into_iter().map(time).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_offset_and_one_form() {
        let mut times = SlotTimes::default();
        times.set(&SlotSet::range(0, 9), 5);
        times.set(&SlotSet::range(5, 20), -3);
        times.set(&SlotSet::range(30, 31), 5);
        assert_eq!([0, 4, 5, 20, 21, 30].map(|slot| times.offset(slot)), [5, 5, -3, -3, 0, 5]);
        let mut other = SlotTimes::default();
        other.set(&SlotSet::range(5, 20), -3);
        other.set(&SlotSet::range(30, 31), 5);
        other.set(&SlotSet::range(0, 4), 5);
        assert_eq!(times, other);
        times.set(&SlotSet::all(), 0);
        assert!(times.is_empty());
    }

    #[test]
    fn runs_cover_what_is_asked_for_once() {
        let mut times = SlotTimes::default();
        times.set(&SlotSet::range(0, 9), 5);
        times.set(&SlotSet::range(20, 29), 7);
        let runs = times.runs(&SlotSet::range(5, 22));
        assert_eq!(runs, [(5, SlotSet::range(5, 9)), (7, SlotSet::range(20, 22)), (0, SlotSet::range(10, 19))]);
        times.shift(&SlotSet::range(5, 22), -7);
        assert_eq!([4, 5, 10, 20, 23].map(|slot| times.offset(slot)), [5, -2, -7, 0, 7]);
    }

    #[test]
    fn time_goes_on_over_a_move() {
        let mut source = SlotTimes::default();
        let slots = SlotSet::range(1, 3);
        source.set(&slots, 40);
        let at_the_fence = source.at(&slots, 1_000);
        assert_eq!(at_the_fence, [SlotTime { slots: slots.clone(), time_ms: 1_040 }]);
        let mut target = SlotTimes::default();
        target.set(&slots, offset_of(at_the_fence[0].time_ms, 90_000));
        assert_eq!(slot_time(90_000, target.offset(2)), 1_040);
        assert_eq!(slot_time(90_007, target.offset(2)), 1_047);
        assert_eq!((slot_time(5, i64::MIN), slot_time(u64::MAX, 1)), (0, u64::MAX), "held to what fits");
        assert_eq!((offset_of(u64::MAX, 0), offset_of(0, u64::MAX)), (i64::MAX, i64::MIN));
    }
}
