//! [`Txn`]: changes that become visible together.

use std::collections::BTreeMap;

use fjall::{Keyspace, PersistMode, Slice};
use raftkv_runtime::planted;

use super::generation::{Generation, read_error};
use super::meta::Meta;
use super::recent::{Recent, Stored};
use super::record::{self, DataRecord, Trace};
use super::{StoreError, layout};

/// Changes on top of a generation. Reads see them; nobody else does before [`commit`](Self::commit).
///
/// It does the accounting of the state's hash: whoever replaces a record says what it replaces. And it keeps [`Recent`]
/// exact, which therefore runs ahead of the generation by what is not committed yet: when the commit fails, the process
/// ends.
pub(super) struct Txn<'a> {
    generation: &'a Generation,
    recent: &'a mut Recent,
    /// Sorted, so that index scans merge with it and the memtable is filled in order. `None` = removed.
    overlay: BTreeMap<Slice, Option<Slice>>,
    /// As of the last change.
    pub(super) meta: Meta,
}

impl<'a> Txn<'a> {
    /// `recent` is of this generation.
    pub(super) fn new(generation: &'a Generation, recent: &'a mut Recent) -> Self {
        Self { generation, recent, overlay: BTreeMap::new(), meta: generation.meta() }
    }

    /// A record, its checksum verified.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        if let Some(found) = self.overlay.get(key) {
            return Ok(found.clone());
        }
        // The keyspace and not a snapshot: this thread is the only writer, so there is no half batch to see.
        let Some(record) = self.generation.keyspace.get(key).map_err(read_error)? else { return Ok(None) };
        record::check(key, &record)?;
        Ok(Some(record))
    }

    /// What is stored under the key of a value.
    pub(super) fn value(&mut self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        if let Some(stored) = self.recent.get(key) {
            return Ok(Some(stored));
        }
        let Some(record) = self.get(key)? else { return Ok(None) };
        Ok(Some(Stored::from(&DataRecord::parse(key, record)?)))
    }

    /// Stores a value in place of `old`.
    pub(super) fn put_value(
        &mut self,
        key: Slice,
        revision: u64,
        create_revision: u64,
        expires_at_ms: u64,
        value: &[u8],
        old: Option<Trace>,
    ) {
        let record = DataRecord::seal(&key, revision, create_revision, expires_at_ms, value);
        let trace = self.insert(key.clone(), record, old);
        self.recent.put(&key, Stored { revision, create_revision, expires_at_ms, trace });
    }

    /// Stores a record in place of `old`; returns its trace.
    pub(super) fn put(&mut self, key: impl Into<Slice>, record: Slice, old: Option<Trace>) -> Trace {
        let key = key.into();
        self.forget(&key);
        self.insert(key, record, old)
    }

    /// Removes the record `old`.
    pub(super) fn remove(&mut self, key: impl Into<Slice>, old: Trace) {
        let key = key.into();
        self.forget(&key);
        self.account(None, Some(old));
        self.overlay.insert(key, None);
    }

    /// Adds an index entry that was not there.
    pub(super) fn put_index(&mut self, key: Slice) {
        let record = record::seal(&key, &[]);
        self.put(key, record, None);
    }

    /// Removes an index entry that is there.
    pub(super) fn remove_index(&mut self, key: Slice) {
        let trace = Trace::of(&record::seal(&key, &[]));
        self.remove(key, trace);
    }

    /// The first keys of the expiry index `tag` with a time in `from_ms..=to_ms`, at most `limit`.
    pub(super) fn index_keys(&self, tag: u8, from_ms: u64, to_ms: u64, limit: usize) -> Result<Vec<Slice>, StoreError> {
        let end = match to_ms.checked_add(1) {
            Some(next) => Slice::from(layout::numbered(tag, next)),
            None => Slice::from([tag + 1]),
        };
        self.keys(Slice::from(layout::numbered(tag, from_ms)), end, limit)
    }

    /// The first keys from `start` to before `end`, at most `limit`.
    pub(super) fn keys(&self, start: Slice, end: Slice, limit: usize) -> Result<Vec<Slice>, StoreError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let mut added = self
            .overlay
            .range(start.clone()..end.clone())
            .filter(|(_, record)| record.is_some())
            .map(|(key, _)| key)
            .peekable();
        let mut keys = Vec::new();
        for item in self.generation.keyspace.range(start..end) {
            let key = item.key().map_err(read_error)?;
            while keys.len() < limit
                && let Some(earlier) = added.next_if(|added| **added < key)
            {
                keys.push(earlier.clone());
            }
            if keys.len() >= limit {
                break;
            }
            // What the overlay knows, it has said itself.
            if !self.overlay.contains_key(&key) {
                keys.push(key);
            }
        }
        let room = limit.saturating_sub(keys.len());
        keys.extend(added.take(room).cloned());
        Ok(keys)
    }

    /// Number of records changed.
    pub(super) fn len(&self) -> usize {
        self.overlay.len()
    }

    /// Makes all of it visible at once, together with the meta record. Survives the death of the process when it
    /// returns; survives the machine's only after a persist.
    pub(super) fn commit(mut self) -> Result<Meta, fjall::Error> {
        let Generation { db, keyspace, .. } = self.generation;
        let mut batch = fjall::OwnedWriteBatch::with_capacity(db.clone(), self.overlay.len() + 3)
            .durability(Some(PersistMode::Buffer));
        for (key, record) in self.overlay {
            match record {
                Some(record) => batch.insert(keyspace, key, record),
                None => batch.remove(keyspace, key),
            }
        }
        let last = self.meta.batch;
        self.meta.batch += 1;
        if last > 0 {
            batch.remove(keyspace, layout::numbered(layout::LINK, last));
        }
        let link = layout::numbered(layout::LINK, self.meta.batch);
        batch.insert(keyspace, link, record::seal(&link, &[]));
        let apart = planted!(PositionApart) && !self.meta.batch.is_multiple_of(8);
        let meta = if apart { position_apart(&self.meta, keyspace)? } else { self.meta.seal() };
        batch.insert(keyspace, layout::META_KEY, meta);
        batch.commit()?;
        Ok(self.meta)
    }

    fn insert(&mut self, key: Slice, record: Slice, old: Option<Trace>) -> Trace {
        let new = Trace::of(&record);
        self.account(Some(new), old);
        self.overlay.insert(key, Some(record));
        new
    }

    /// Whatever way the record of a value changes, what is remembered of it goes.
    fn forget(&mut self, key: &[u8]) {
        if key.first() == Some(&layout::DATA) {
            self.recent.remove(key);
        }
    }

    fn account(&mut self, new: Option<Trace>, old: Option<Trace>) {
        let sum = &mut self.meta.sum;
        *sum = sum.wrapping_add(new.map_or(0, |trace| trace.0)).wrapping_sub(old.map_or(0, |trace| trace.0));
    }
}

/// The planted bug: the meta record with the position that is stored, as if the new one were written later.
fn position_apart(meta: &Meta, keyspace: &Keyspace) -> Result<Slice, fjall::Error> {
    let stored = keyspace.get(layout::META_KEY)?.and_then(|record| Meta::open(&record).ok());
    let position = stored.map_or_else(|| meta.position.clone(), |stored| stored.position);
    Ok(Meta { position, ..meta.clone() }.seal())
}
