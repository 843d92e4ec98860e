//! [`Txn`]: changes that become visible together.

use fjall::Slice;

use super::changes::{Change, Changes};
use super::generation::Generation;
use super::meta::Meta;
use super::piece::Piece;
use super::record::{self, DataRecord, Stored, Trace};
use super::shards::Changed;
use super::{StoreError, layout};

/// Changes on top of a generation. Reads see them; nobody else does before [`commit`](Self::commit).
///
/// It does the accounting of the state's hash: whoever replaces a record says what it replaces.
pub(super) struct Txn<'a> {
    generation: &'a Generation,
    overlay: Changes,
    /// As of the last change.
    pub(super) meta: Meta,
}

impl<'a> Txn<'a> {
    pub(super) fn new(generation: &'a Generation) -> Self {
        let now = generation.now();
        Self { generation, overlay: now.memtables.batch(), meta: now.meta.clone() }
    }

    /// A record, its checksum verified.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        let key = self.overlay.hashed(key);
        match self.overlay.get(key) {
            Some(found) => Ok(found.cloned()),
            None => self.generation.record_at(self.generation.now(), key),
        }
    }

    /// What is stored under the key of a value.
    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let key = self.overlay.hashed(key);
        match self.overlay.get(key) {
            Some(found) => found.map(|record| Stored::parse(&key, record)).transpose(),
            None => self.generation.stored(key),
        }
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
        self.put(key, record, old);
    }

    /// Stores a record in place of `old`; returns its trace.
    pub(super) fn put(&mut self, key: impl Into<Slice>, record: Slice, old: Option<Trace>) -> Trace {
        let new = Trace::of(&record);
        self.account(Some(new), old);
        self.overlay.apply(key.into(), Change { record: Some(record), is_fresh: old.is_none() });
        new
    }

    /// Removes the record `old`.
    pub(super) fn remove(&mut self, key: impl Into<Slice>, old: Trace) {
        self.account(None, Some(old));
        self.overlay.apply(key.into(), Change { record: None, is_fresh: false });
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

    /// The first keys of a slot in an index by slot, at most `limit`.
    pub(super) fn due_keys(&self, tag: u8, slot: u16, limit: usize) -> Result<Vec<Slice>, StoreError> {
        let end = match slot.checked_add(1) {
            Some(next) => Slice::from(layout::due_slot(tag, next)),
            None => Slice::from([tag + 1]),
        };
        self.keys(Slice::from(layout::due_slot(tag, slot)), end, limit)
    }

    /// The first keys from `start` to before `end`, at most `limit`.
    pub(super) fn keys(&self, start: Slice, end: Slice, limit: usize) -> Result<Vec<Slice>, StoreError> {
        let mut keys = Vec::new();
        let mut from = start;
        while from < end && keys.len() < limit {
            // Several moments would do as well: only this thread changes anything.
            let piece = self.generation.piece(from..end.clone(), limit);
            let until = piece.end().cloned().unwrap_or_else(|| end.clone());
            self.merge(piece, &until, limit, &mut keys)?;
            from = until;
        }
        Ok(keys)
    }

    /// Adds the keys of a piece, which ends before `until`, and those of the overlay up to there.
    fn merge(&self, piece: Piece, until: &Slice, limit: usize, keys: &mut Vec<Slice>) -> Result<(), StoreError> {
        let mut added = self
            .overlay
            .range(piece.start().clone()..until.clone())
            .filter(|(_, record)| record.is_some())
            .map(|(key, _)| key)
            .peekable();
        for item in piece {
            let (key, _) = item?;
            while keys.len() < limit
                && let Some(earlier) = added.next_if(|added| **added < key)
            {
                keys.push(earlier.clone());
            }
            if keys.len() >= limit {
                return Ok(());
            }
            // What the overlay knows, it has said itself.
            if self.overlay.get(self.overlay.hashed(&key)).is_none() {
                keys.push(key);
            }
        }
        let room = limit.saturating_sub(keys.len());
        keys.extend(added.take(room).cloned());
        Ok(())
    }

    /// Makes room for so many more records: a hint.
    pub(super) fn reserve(&mut self, records: usize) {
        self.overlay.reserve(records);
    }

    /// Number of records changed.
    pub(super) fn len(&self) -> usize {
        self.overlay.len()
    }

    /// Makes all of it visible at once, and `changed` with it. Survives a crash of any kind only once the generation was
    /// flushed after that.
    pub(super) fn commit(self, changed: Changed) {
        self.generation.publish(self.overlay, self.meta, changed);
    }

    fn account(&mut self, new: Option<Trace>, old: Option<Trace>) {
        let sum = &mut self.meta.sum;
        *sum = sum.wrapping_add(new.map_or(0, |trace| trace.0)).wrapping_sub(old.map_or(0, |trace| trace.0));
    }
}
