//! Reading: one key or a page as of this moment, or the whole state as of a flush.

use std::sync::Arc;

use fjall::{Readable, Slice, Snapshot};
use raftkv_backend::{Entry, ListRequest, Page};
use raftkv_kv::{Key, Ownership, SLOT_TIME_VERSION, SlotSet, Value, slot_of};

use super::generation::{Generation, Published, read_error};
use super::handle::{Many, NotServed};
use super::meta::Meta;
use super::record::{self, DataRecord, IdempotencyRecord, SessionRecord, SystemRecord, Trace};
use super::shards;
use super::{StoreError, layout};

/// Keys of slots that are not served which one page passes over: some milliseconds of work. The page then ends early.
const MAX_LEFT_OUT: usize = 64 * 1024;

/// The place of a key's record at the moment of a read.
enum Found {
    /// The group does not serve the slot of the key.
    NotServed,
    /// A memtable has this record.
    Record(Slice),
    /// A memtable says that the key does not exist.
    Removed,
    /// No memtable has the key: the tables on disk decide.
    InTables,
}

impl Published {
    /// Whether a slot is served.
    fn serves(&self, slot: u16) -> bool {
        !self.ownership.is_sharded() || self.ownership.serves(slot)
    }

    /// The time by which a value of this slot ends.
    fn time_of(&self, slot: u16) -> u64 {
        time_of(&self.meta, &self.ownership, slot)
    }

    /// The slots that are served; `None` = all of them, the group being in no sharded store.
    fn served(&self) -> Option<SlotSet> {
        self.ownership.is_sharded().then(|| self.ownership.served())
    }
}

impl Generation {
    /// One key.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let stored_key = layout::data(key.as_bytes());
        let now = self.now();
        let slot = slot_of(key.as_bytes());
        if !now.serves(slot) {
            return Err(StoreError::WrongGroup);
        }
        // The time must be the moment's: with a later one a value could expire that was replaced in time.
        let time_ms = now.time_of(slot);
        let hashed = now.memtables.hashed(&stored_key);
        let Some(record) = self.record_at(now, hashed)? else { return Ok(None) };
        live(key, &stored_key, record, time_ms)
    }

    /// Several keys, all as of one moment. `None` where the values have more than `max_bytes` together: the rest is not read then.
    pub(super) fn get_many(&self, keys: &[Key], max_bytes: usize) -> Result<Option<Many>, StoreError> {
        let stored_keys: Vec<Slice> = keys.iter().map(|key| layout::data(key.as_bytes())).collect();
        let now = self.now();
        let times: Vec<u64> = keys.iter().map(|key| now.time_of(slot_of(key.as_bytes()))).collect();
        let found: Vec<_> = keys
            .iter()
            .zip(&stored_keys)
            .map(|(key, stored_key)| {
                if !now.serves(slot_of(key.as_bytes())) {
                    return Found::NotServed;
                }
                match now.memtables.get(now.memtables.hashed(stored_key)) {
                    None => Found::InTables,
                    Some(None) => Found::Removed,
                    Some(Some(record)) => Found::Record(record.clone()),
                }
            })
            .collect();
        let snapshot = self.db.snapshot();
        drop(now);
        let read = |key: &Key, stored_key: &Slice, time_ms: u64, found: Found| {
            let record = match found {
                Found::NotServed => return Ok(Err(NotServed)),
                Found::Removed => None,
                Found::Record(record) => {
                    record::check(stored_key, &record)?;
                    Some(record)
                }
                Found::InTables => self.in_tables(&snapshot, stored_key)?,
            };
            let Some(record) = record else { return Ok(Ok(None)) };
            live(key, stored_key, record, time_ms).map(Ok)
        };
        let all = keys.iter().zip(&stored_keys).zip(times).zip(found);
        let (mut many, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for (((key, stored_key), time_ms), found) in all {
            let value = read(key, stored_key, time_ms, found)?;
            bytes += value.as_ref().ok().and_then(Option::as_ref).map_or(0, Entry::bytes);
            if bytes > max_bytes {
                return Ok(None);
            }
            many.push(value);
        }
        Ok(Some(many))
    }

    /// A system key: its version and document.
    pub(super) fn system_key(&self, name: &[u8]) -> Result<Option<(u64, bytes::Bytes)>, StoreError> {
        let key = layout::system(name);
        let Some(record) = self.record(&key)? else { return Ok(None) };
        SystemRecord::parse(&key, &record).map(|record| Some((record.version, record.value)))
    }

    /// A page of keys in order, of those slots that are served, which are given with it; `None` = of all of them.
    pub(super) fn list(&self, request: &ListRequest) -> Result<(Page, Option<SlotSet>), StoreError> {
        let start = layout::bound(layout::data(&request.start));
        let end = match &request.end {
            Some(end) => layout::bound(layout::data(end)),
            None => Slice::from([layout::DATA + 1]),
        };
        let mut page = Page { entries: Vec::new(), next: None };
        let now = self.now();
        let served = now.served();
        if start >= end {
            return Ok((page, served));
        }
        let (meta, ownership) = (now.meta.clone(), Arc::clone(&now.ownership));
        // One more than may be in it: it says where the next page begins.
        let mut piece = self.piece_at(now, start..end, request.limit.saturating_add(1));
        let mut bytes = 0usize;
        let mut left_out = 0usize;
        for item in piece.by_ref() {
            let (stored_key, record) = item?;
            if served.as_ref().is_some_and(|served| !served.contains(slot_of(&stored_key[1..]))) {
                left_out += 1;
                if left_out > MAX_LEFT_OUT {
                    page.next = Some(bytes::Bytes::copy_from_slice(&stored_key[1..]));
                    break;
                }
                continue;
            }
            record::check(&stored_key, &record)?;
            let record = DataRecord::parse(&stored_key, record)?;
            // Most have no end: the slot is worked out for those that have one.
            if record.expires_at_ms != 0 && !record.is_live(time_of(&meta, &ownership, slot_of(&stored_key[1..]))) {
                continue;
            }
            let key = Key::from_stored(bytes::Bytes::copy_from_slice(&stored_key[1..]));
            bytes += key.as_bytes().len() + if request.keys_only { 0 } else { record.value_len() };
            let is_full =
                page.entries.len() >= request.limit.max(1) || (bytes > request.max_bytes && !page.entries.is_empty());
            if is_full {
                page.next = Some(key.into_bytes());
                break;
            }
            page.entries.push(entry(key, record, request.keys_only));
        }
        if page.next.is_none() {
            page.next = piece.end().map(|end| bytes::Bytes::copy_from_slice(&end[1..]));
        }
        Ok((page, served))
    }
}

/// The time by which what is in a slot ends: the slot's own, or below the cluster version that knows it the clock of the group.
pub(super) fn time_of(meta: &Meta, ownership: &Ownership, slot: u16) -> u64 {
    if meta.version < SLOT_TIME_VERSION { meta.clock_ms } else { ownership.time_of(slot, meta.clock_ms) }
}

/// The value in a record whose checksum holds, if it is there when the time of its slot is that.
fn live(key: &Key, stored_key: &[u8], record: Slice, time_ms: u64) -> Result<Option<Entry>, StoreError> {
    let record = DataRecord::parse(stored_key, record)?;
    Ok(record.is_live(time_ms).then(|| entry(key.clone(), record, false)))
}

/// The whole state as it was flushed. What is applied later does not show; the generation stays as long as the view.
pub(super) struct View {
    snapshot: Snapshot,
    meta: Meta,
    // After the snapshot: dropped last.
    generation: Arc<Generation>,
}

/// What a full check of the state has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Records of all classes.
    pub records: u64,
    /// Records of values.
    pub keys: u64,
    /// The state's hash, recomputed.
    pub state_hash: u64,
}

impl View {
    /// Of the tables of a moment in which nothing was in memory only, and the meta record that goes with them.
    pub(super) fn new(snapshot: Snapshot, meta: Meta, generation: Arc<Generation>) -> Self {
        Self { snapshot, meta, generation }
    }

    /// Where the state stands.
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// All records of the replicated state but the meta record, in key order. Their checksums are not verified yet.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        self.snapshot
            .range(&self.generation.keyspace, [layout::STATE]..)
            .map(|item| item.into_inner().map_err(read_error))
    }

    /// Reads everything and compares it with what the meta record says.
    pub(super) fn verify(&self) -> Result<Verified, StoreError> {
        let stored = self.generation.in_tables(&self.snapshot, &layout::META_KEY)?;
        let meta = Meta::open(&stored.ok_or_else(|| StoreError::Corrupt("the meta record is missing".to_owned()))?)?;
        let mut tally = Tally::default();
        for item in self.records() {
            let (key, record) = item?;
            tally.add(&key, &record)?;
        }
        tally.compare(&meta)?;
        Ok(Verified { records: tally.records, keys: tally.keys, state_hash: meta.state_hash() })
    }
}

/// Recounts what a [`Meta`] counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    keys: u64,
    sessions: u64,
    idempotency: u64,
    sum: u64,
}

impl Tally {
    /// Checks one record of the replicated state and counts it.
    pub(super) fn add(&mut self, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        record::check(key, record)?;
        self.records += 1;
        self.sum = self.sum.wrapping_add(Trace::of(record).0);
        match key.first() {
            Some(&layout::DATA) => {
                DataRecord::parse(key, Slice::from(record))?;
                self.keys += 1;
            }
            Some(&layout::SESSION) => {
                SessionRecord::parse(key, record)?;
                self.sessions += 1;
            }
            Some(&layout::IDEMPOTENCY) => {
                IdempotencyRecord::expiry_of(key, record)?;
                self.idempotency += 1;
            }
            Some(&layout::OWNERSHIP) => {
                shards::ownership_of(Some(Slice::from(record)))?;
            }
            Some(&layout::SYSTEM) => {
                SystemRecord::parse(key, record)?;
            }
            Some(&(layout::ANSWER | layout::CHANGE | layout::IDEMPOTENCY_EXPIRY | layout::VALUE_EXPIRY)) => {}
            Some(&(layout::OUTCOME_DUE | layout::VALUE_DUE)) => {
                let stray = || StoreError::Corrupt(format!("stray record {} in an index", key.escape_ascii()));
                layout::due_of(key).ok_or_else(stray)?;
            }
            _ => {
                return Err(StoreError::Corrupt(format!("record {} is of no known class", key.escape_ascii())));
            }
        }
        Ok(())
    }

    /// Whether everything that should be there was counted, and nothing else.
    pub(super) fn compare(&self, meta: &Meta) -> Result<(), StoreError> {
        let found = (self.keys, self.sessions, self.idempotency, self.sum);
        let expected = (meta.keys, meta.sessions, meta.idempotency, meta.sum);
        if found == expected {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!(
            "the records do not add up: (keys, sessions, idempotency keys, hash) are {found:?}, not {expected:?}"
        )))
    }
}

fn entry(key: Key, record: DataRecord, key_only: bool) -> Entry {
    Entry {
        key,
        revision: record.revision,
        create_revision: record.create_revision,
        expires_at_ms: record.expires_at_ms,
        value: (!key_only).then(|| Value::from_stored(record.into_value())),
    }
}
