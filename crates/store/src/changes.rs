//! [`Changes`]: what a batch changes.

use std::ops::Range;

use fjall::Slice;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::hashed::{Hashed, Hashing};

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

/// A key, its hash, and what is done to it.
#[derive(Debug)]
pub(super) struct KeyChange {
    pub(super) hash: u64,
    pub(super) key: Slice,
    pub(super) change: Change,
}

/// Changes by key.
///
/// Found by hash: nearly all that is asked is what one key holds. Ranges are asked for by sweeps and purges, once or twice an
/// entry, and a batch is small: what is in a range is looked for among all of it.
#[derive(Debug)]
pub(super) struct Changes {
    table: HashTable<KeyChange>,
    hashing: Hashing,
}

impl Changes {
    /// None yet. Keys are hashed as where the batch will be added.
    pub(super) fn new(hashing: Hashing) -> Self {
        Self { table: HashTable::new(), hashing }
    }

    /// The key with its hash.
    pub(super) fn hashed<'a>(&self, key: &'a [u8]) -> Hashed<'a> {
        self.hashing.of(key)
    }

    /// Makes room for so many more keys.
    pub(super) fn reserve(&mut self, keys: usize) {
        self.table.reserve(keys, |known| known.hash);
    }

    /// Number of keys that they say something of.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// What they say of a key; `None` = nothing.
    pub(super) fn get(&self, key: Hashed<'_>) -> Option<Option<&Slice>> {
        let found = self.table.find(key.hash, |changed| *changed.key == *key)?;
        Some(found.change.record.as_ref())
    }

    /// Records of a range in key order; `None` = removed.
    pub(super) fn range(&self, range: Range<Slice>) -> impl Iterator<Item = (&Slice, Option<&Slice>)> {
        let mut found: Vec<_> = self.table.iter().filter(|changed| range.contains(&changed.key)).collect();
        found.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        found.into_iter().map(|changed| (&changed.key, changed.change.record.as_ref()))
    }

    /// Adds a change to those before it.
    pub(super) fn apply(&mut self, key: Slice, change: Change) {
        let hash = self.hashing.of(&key).hash;
        match self.table.entry(hash, |changed| changed.key == key, |changed| changed.hash) {
            Entry::Vacant(vacant) => _ = vacant.insert(KeyChange { hash, key, change }),
            Entry::Occupied(mut known) => {
                if !known.get_mut().change.follow(change) {
                    known.remove();
                }
            }
        }
    }
}

impl IntoIterator for Changes {
    type Item = KeyChange;
    type IntoIter = hashbrown::hash_table::IntoIter<KeyChange>;

    fn into_iter(self) -> Self::IntoIter {
        self.table.into_iter()
    }
}
