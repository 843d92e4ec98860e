//! [`Changes`]: what a batch changes.

use std::collections::btree_map::{BTreeMap, Entry, IntoIter};
use std::ops::Range;

use fjall::Slice;

/// What is done to one key.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// `None`: it is removed.
    pub(super) record: Option<Slice>,
    /// Nothing was stored under the key before: when it is removed again, nothing is left to be hidden.
    pub(super) is_fresh: bool,
}

impl Change {
    /// Becomes what it and a later change come to. False: that is nothing at all, and it must be forgotten.
    pub(super) fn follow(&mut self, later: Self) -> bool {
        if later.record.is_none() && self.is_fresh {
            return false;
        }
        // What was there before the first of them does not change with the second.
        self.record = later.record;
        true
    }
}

/// Changes by key, in order: a batch is small, and what it adds has to be found by range.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<Slice, Change>);

impl Changes {
    /// Number of keys that they say something of.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What they say of a key; `None` = nothing.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Slice>> {
        self.0.get(key).map(|change| change.record.as_ref())
    }

    /// Records of a range in key order; `None` = removed.
    pub(super) fn range(&self, range: Range<Slice>) -> impl Iterator<Item = (&Slice, Option<&Slice>)> {
        self.0.range(range).map(|(key, change)| (key, change.record.as_ref()))
    }

    /// Adds a change to those before it.
    pub(super) fn apply(&mut self, key: Slice, change: Change) {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => _ = vacant.insert(change),
            Entry::Occupied(mut known) => {
                if !known.get_mut().follow(change) {
                    known.remove();
                }
            }
        }
    }
}

impl IntoIterator for Changes {
    type Item = (Slice, Change);
    type IntoIter = IntoIter<Slice, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
