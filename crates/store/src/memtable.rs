//! [`Memtables`]: what is applied and in no table yet.
//!
//! The replicated log is the write-ahead log of the store: what is applied is kept in memory until it is written into a
//! table of the LSM tree, and after a crash it comes again from the log. So a change is written to the disk twice in all,
//! once by the log and once into a table, and a key that changes often reaches a table once for many changes.
//!
//! One memtable is active and changes with every batch. When it is sealed it changes no more and is flushed into a table;
//! it stays in memory until the next one is sealed, so that what changed lately need not be read from the disk.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use fjall::Slice;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::changes::{Change, Changes, KeyChange};
use super::hashed::{Hashed, Hashing};

/// What an entry costs in memory besides its key and record, about: its places in the table and in the order, and two
/// allocations.
const ENTRY_OVERHEAD: usize = 136;

/// Changes by key, on top of the tables.
///
/// Nearly all that is asked is what one key holds: that is found by hash, without a walk through a sorted map. The order is
/// kept beside it for listings and for the flush; it changes with new keys only.
#[derive(Debug)]
pub(super) struct Memtable {
    changes: HashTable<(Slice, Change)>,
    order: BTreeSet<Slice>,
    hashing: Hashing,
    bytes: usize,
}

impl Memtable {
    /// With room for so many keys: to make room later means to move all that is there, while readers wait.
    fn with_capacity(keys: usize, hashing: Hashing) -> Self {
        Self { changes: HashTable::with_capacity(keys), order: BTreeSet::new(), hashing, bytes: 0 }
    }

    /// One that says nothing.
    pub(super) fn empty() -> Self {
        Self::with_capacity(0, Hashing::default())
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its records in key order; `None` = removed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Slice, Option<&Slice>)> {
        self.order.iter().map(|key| self.ordered(key))
    }

    /// Its records of a range in key order; `None` = removed.
    fn range(&self, range: Range<Slice>) -> impl Iterator<Item = (&Slice, Option<&Slice>)> {
        self.order.range(range).map(|key| self.ordered(key))
    }

    /// A key of the order, which is in the table, too: were it not, a record would be lost without a word.
    #[allow(clippy::expect_used)]
    fn ordered<'a>(&'a self, key: &'a Slice) -> (&'a Slice, Option<&'a Slice>) {
        (key, self.get(self.hashing.of(key)).expect("a key of the order is in the table"))
    }

    /// What it says of a key; `None` = nothing.
    fn get(&self, key: Hashed<'_>) -> Option<Option<&Slice>> {
        let (_, change) = self.changes.find(key.hash, |(known, _)| **known == *key)?;
        Some(change.record.as_ref())
    }

    /// Adds a change to those before it.
    fn apply(&mut self, KeyChange { hash, key, change }: KeyChange) {
        let hash_of = |(key, _): &(Slice, Change)| self.hashing.of(key).hash;
        match self.changes.entry(hash, |(known, _)| *known == key, hash_of) {
            Entry::Vacant(vacant) => {
                self.bytes += size(&key, &change) + ENTRY_OVERHEAD;
                self.order.insert(key.clone());
                vacant.insert((key, change));
            }
            Entry::Occupied(mut known) => {
                let (key, before) = known.get_mut();
                self.bytes -= size(key, before);
                if before.follow(change) {
                    self.bytes += size(key, before);
                } else {
                    self.order.remove(key);
                    known.remove();
                    self.bytes -= ENTRY_OVERHEAD;
                }
            }
        }
    }
}

fn size(key: &Slice, change: &Change) -> usize {
    key.len() + change.record.as_ref().map_or(0, |record| record.len())
}

/// The active memtable over the sealed one.
#[derive(Debug)]
pub(super) struct Memtables {
    active: Memtable,
    sealed: Arc<Memtable>,
    /// Bytes of all changes since the active one began, those that others have replaced included.
    written: usize,
}

/// Records of a range in key order, `None` = removed; a removed one hides what the tables have.
pub(super) struct Part {
    pub(super) records: Vec<(Slice, Option<Slice>)>,
    /// The first key of the range that was left out, if any was.
    pub(super) end: Option<Slice>,
}

impl Default for Memtables {
    fn default() -> Self {
        let hashing = Hashing::default();
        let sealed = Arc::new(Memtable::with_capacity(0, hashing.clone()));
        Self { active: Memtable::with_capacity(0, hashing), sealed, written: 0 }
    }
}

impl Memtables {
    /// A key with its hash, as [`get`](Self::get) wants it.
    pub(super) fn hashed<'a>(&self, key: &'a [u8]) -> Hashed<'a> {
        self.active.hashing.of(key)
    }

    /// What a key holds; `None` = the tables know.
    pub(super) fn get(&self, key: Hashed<'_>) -> Option<Option<&Slice>> {
        self.active.get(key).or_else(|| self.sealed.get(key))
    }

    /// No changes yet, for [`apply`](Self::apply).
    pub(super) fn batch(&self) -> Changes {
        Changes::new(self.active.hashing.clone())
    }

    /// Adds what a batch of this store's has changed.
    pub(super) fn apply(&mut self, batch: Changes) {
        for change in batch {
            self.written += size(&change.key, &change.change);
            self.active.apply(change);
        }
    }

    /// About how much memory the active one takes.
    pub(super) fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// How much has come since the active one began.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Begins a new active memtable. Only once the one sealed before is in a table: it is given back, to be dropped where
    /// nobody waits for it.
    pub(super) fn seal(&mut self) -> (Arc<Memtable>, Arc<Memtable>) {
        self.written = 0;
        // The next one is likely to be as large.
        let next = Memtable::with_capacity(self.active.changes.len(), self.active.hashing.clone());
        let sealed = Arc::new(std::mem::replace(&mut self.active, next));
        let replaced = std::mem::replace(&mut self.sealed, Arc::clone(&sealed));
        (sealed, replaced)
    }

    /// The records of a range: at most `most` that are there, and at most `most_removed` that are not.
    pub(super) fn range(&self, range: Range<Slice>, most: usize, most_removed: usize) -> Part {
        let mut merged =
            Merged { newer: self.active.range(range.clone()).peekable(), older: self.sealed.range(range).peekable() };
        let mut part = Part { records: Vec::new(), end: None };
        let (mut live, mut removed) = (0, 0);
        while let Some((key, record)) = merged.next() {
            let count = if record.is_some() { &mut live } else { &mut removed };
            *count += 1;
            if live > most || removed > most_removed {
                part.end = Some(key.clone());
                break;
            }
            part.records.push((key.clone(), record.cloned()));
        }
        part
    }
}

/// Two memtables in key order; where both have a key, the newer one says what it holds.
struct Merged<'a, I: Iterator<Item = (&'a Slice, Option<&'a Slice>)>> {
    newer: Peekable<I>,
    older: Peekable<I>,
}

impl<'a, I: Iterator<Item = (&'a Slice, Option<&'a Slice>)>> Merged<'a, I> {
    fn next(&mut self) -> Option<(&'a Slice, Option<&'a Slice>)> {
        match (self.newer.peek(), self.older.peek()) {
            (Some((newer, _)), Some((older, _))) if older < newer => self.older.next(),
            (Some((newer, _)), Some((older, _))) if older == newer => {
                self.older.next();
                self.newer.next()
            }
            (None, _) => self.older.next(),
            _ => self.newer.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn put(record: u8, is_fresh: bool) -> Change {
        Change { record: Some(Slice::from([record])), is_fresh }
    }

    const REMOVED: Change = Change { record: None, is_fresh: false };

    fn key(n: u8) -> Slice {
        Slice::from([n])
    }

    fn change(tables: &mut Memtables, key: Slice, change: Change) {
        let mut batch = tables.batch();
        batch.apply(key, change);
        tables.apply(batch);
    }

    fn get(tables: &Memtables, n: u8) -> Option<Option<u8>> {
        tables.get(tables.hashed(&key(n))).map(|record| record.map(|record| record[0]))
    }

    fn all(tables: &Memtables) -> Vec<(u8, Option<u8>)> {
        let part = tables.range(key(0)..key(255), usize::MAX, usize::MAX);
        assert_eq!(part.end, None);
        part.records.iter().map(|(key, record)| (key[0], record.as_ref().map(|record| record[0]))).collect()
    }

    #[test]
    fn what_was_never_stored_leaves_nothing_behind_when_it_is_removed() {
        let mut tables = Memtables::default();
        change(&mut tables, key(1), put(1, true));
        change(&mut tables, key(1), put(2, false));
        change(&mut tables, key(2), put(1, false));
        change(&mut tables, key(1), REMOVED);
        change(&mut tables, key(2), REMOVED);
        change(&mut tables, key(3), REMOVED);
        assert_eq!(all(&tables), [(2, None), (3, None)]);
        change(&mut tables, key(2), put(3, true));
        change(&mut tables, key(2), REMOVED);
        assert_eq!(all(&tables), [(2, None), (3, None)], "what the tables have stays hidden");
        assert_eq!(tables.active_bytes(), 2 * (1 + ENTRY_OVERHEAD));
    }

    #[test]
    fn a_removal_in_the_sealed_one_shows_through_where_the_active_one_says_nothing() {
        let mut tables = Memtables::default();
        change(&mut tables, key(1), REMOVED);
        let (sealed, _) = tables.seal();
        assert_eq!(sealed.iter().collect::<Vec<_>>(), [(&key(1), None)]);
        change(&mut tables, key(1), put(1, true));
        assert_eq!(all(&tables), [(1, Some(1))]);
        change(&mut tables, key(1), REMOVED);
        assert_eq!(get(&tables, 1), Some(None));
        assert_eq!(get(&tables, 2), None);
    }

    #[test]
    fn a_part_ends_where_it_is_full() {
        let mut tables = Memtables::default();
        for n in 0..10 {
            change(&mut tables, key(n), if n % 2 == 0 { put(n, false) } else { REMOVED });
            if n == 4 {
                tables.seal();
            }
        }
        let part = tables.range(key(0)..key(9), 3, 9);
        assert_eq!((part.records.len(), part.end), (6, Some(key(6))));
        let part = tables.range(key(0)..key(9), 9, 1);
        assert_eq!((part.records.len(), part.end), (3, Some(key(3))));
        let part = tables.range(key(0)..key(9), 9, 9);
        assert_eq!((part.records.len(), part.end), (9, None));
    }

    /// Whatever comes, and whenever it is sealed, the two show what a map would.
    #[test]
    fn two_memtables_are_one_map() {
        let mut rng = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |below: u64| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33) % below
        };
        for _ in 0..200 {
            let mut tables = Memtables::default();
            let mut below: BTreeMap<u8, u8> = BTreeMap::new();
            let mut model = below.clone();
            for _ in 0..100 {
                let n = next(12) as u8;
                match next(8) {
                    0 => {
                        let (_, replaced) = tables.seal();
                        for (key, record) in replaced.iter() {
                            match record {
                                Some(record) => _ = below.insert(key[0], record[0]),
                                None => _ = below.remove(&key[0]),
                            }
                        }
                    }
                    1..4 => {
                        if model.remove(&n).is_some() {
                            change(&mut tables, key(n), REMOVED);
                        }
                    }
                    _ => {
                        let record = next(256) as u8;
                        change(&mut tables, key(n), put(record, !model.contains_key(&n)));
                        model.insert(n, record);
                    }
                }
                let mut shown = below.clone();
                for (key, record) in all(&tables) {
                    match record {
                        Some(record) => _ = shown.insert(key, record),
                        None => _ = shown.remove(&key),
                    }
                }
                assert_eq!(shown, model);
                for n in 0..12 {
                    let found = get(&tables, n).unwrap_or_else(|| below.get(&n).copied());
                    assert_eq!(found, model.get(&n).copied());
                }
            }
        }
    }
}
