//! [`SlotSet`]: a set of slots.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::SLOTS;

/// A set of slots, stored as ranges. Ranges are few because groups own long runs of slots.
///
/// Written as `0-5460,6000`: inclusive ranges and single slots in ascending order.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct SlotSet {
    /// Inclusive and ascending, with a gap between adjacent ranges.
    ranges: Vec<(u16, u16)>,
}

/// The reason a text is rejected as a [`SlotSet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotSetError {
    /// Not a number, or a range with the end before the start.
    #[error("{0:?} is neither a slot nor a range of slots such as 0-5460")]
    Malformed(String),
    /// The slot does not exist.
    #[error("slot {0} does not exist; the last is {last}", last = SLOTS - 1)]
    OutOfRange(u32),
}

impl SlotSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The set of all slots.
    pub fn all() -> Self {
        Self { ranges: vec![(0, SLOTS - 1)] }
    }

    /// The slots from `first` to `last`, both inclusive, clipped to the last existing slot.
    pub fn range(first: u16, last: u16) -> Self {
        let last = last.min(SLOTS - 1);
        Self { ranges: if first <= last { vec![(first, last)] } else { Vec::new() } }
    }

    /// Whether the set contains `slot`.
    pub fn contains(&self, slot: u16) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= slot);
        after > 0 && self.ranges[after - 1].1 >= slot
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The inclusive ranges, ascending, with a gap between adjacent ranges.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.ranges
    }

    /// Iterates over the slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Slots in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    /// Slots in `self` but not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// Slots in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut mine, mut theirs) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(&&(a, b)), Some(&&(c, d))) = (mine.peek(), theirs.peek()) {
            let (first, last) = (a.max(c), b.min(d));
            if first <= last {
                ranges.push((first, last));
            }
            if b < d {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self { ranges }
    }

    /// All slots not in the set.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.ranges {
            if next < first {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next < SLOTS {
            ranges.push((next, SLOTS - 1));
        }
        Self { ranges }
    }

    /// Whether the set contains every slot of `other`.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    /// Whether the two sets share a slot.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The lowest `count` slots.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        self.iter().take(count).collect()
    }

    fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

impl FromIterator<u16> for SlotSet {
    /// Ignores slots beyond the last existing slot.
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        Self::of(slots.into_iter().filter(|slot| *slot < SLOTS).map(|slot| (slot, slot)).collect())
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

impl FromStr for SlotSet {
    type Err = SlotSetError;

    fn from_str(text: &str) -> Result<Self, SlotSetError> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let malformed = || SlotSetError::Malformed(part.to_owned());
            let slot = |text: &str| match text.trim().parse::<u32>() {
                Ok(slot) if slot < u32::from(SLOTS) => Ok(slot as u16),
                Ok(slot) => Err(SlotSetError::OutOfRange(slot)),
                Err(_) => Err(malformed()),
            };
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (slot(first)?, slot(last)?);
            if first > last {
                return Err(malformed());
            }
            ranges.push((first, last));
        }
        Ok(Self::of(ranges))
    }
}

impl<'de> Deserialize<'de> for SlotSet {
    /// Rejects ranges not in the form produced by the serializer.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<(u16, u16)>::deserialize(deserializer)?;
        let mut next = 0u32;
        for &(first, last) in &ranges {
            if u32::from(first) < next || first > last || last >= SLOTS {
                return Err(serde::de::Error::custom("the ranges of slots are not in order"));
            }
            next = u32::from(last) + 2;
        }
        Ok(Self { ranges })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model(set: &SlotSet) -> BTreeSet<u16> {
        set.iter().collect()
    }

    fn set() -> impl Strategy<Value = SlotSet> {
        let edge = prop_oneof![0..SLOTS, Just(0), Just(SLOTS - 1)];
        proptest::collection::vec((edge, 0u16..600), 0..6).prop_map(|ranges| {
            ranges.into_iter().fold(SlotSet::new(), |set, (first, len)| {
                set.union(&SlotSet::range(first, first.saturating_add(len).min(SLOTS - 1)))
            })
        })
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(a in set(), b in set(), slot in 0..SLOTS) {
            let (x, y) = (model(&a), model(&b));
            prop_assert_eq!(model(&a.union(&b)), &x | &y);
            prop_assert_eq!(model(&a.intersection(&b)), &x & &y);
            prop_assert_eq!(model(&a.difference(&b)), &x - &y);
            prop_assert_eq!(a.contains(slot), x.contains(&slot));
            prop_assert_eq!(a.len(), x.len());
            prop_assert_eq!(a.overlaps(&b), !x.is_disjoint(&y));
            prop_assert_eq!(a.contains_all(&b), y.is_subset(&x));
            prop_assert_eq!(a.to_string().parse::<SlotSet>().unwrap(), a.clone());
            prop_assert_eq!(rmp_serde::from_slice::<SlotSet>(&rmp_serde::to_vec(&a).unwrap()).unwrap(), a);
        }
    }

    #[test]
    fn bad_texts_and_bytes_are_refused() {
        for text in ["x", "5-1", "1-2-3", "-", "1-"] {
            assert!(matches!(text.parse::<SlotSet>(), Err(SlotSetError::Malformed(_))), "{text}");
        }
        assert_eq!("16384".parse::<SlotSet>(), Err(SlotSetError::OutOfRange(16384)));
        for ranges in [vec![(5u16, 1u16)], vec![(0, 3), (4, 5)], vec![(9, 10), (1, 2)], vec![(0, SLOTS)]] {
            assert!(rmp_serde::from_slice::<SlotSet>(&rmp_serde::to_vec(&ranges).unwrap()).is_err(), "{ranges:?}");
        }
    }
}
