//! [`View`]: the state at one moment, for readers.

use std::sync::Arc;

use fjall::{Readable, Slice, Snapshot};
use raftkv_api::{Entry, ListRequest, Page};
use raftkv_kv::{Key, Ownership, SlotSet, Value, slot_of};

use super::generation::{Generation, read_error};
use super::meta::Meta;
use super::record::{self, DataRecord, IdempotencyRecord, SessionRecord, SystemRecord, Trace};
use super::shards;
use super::{StoreError, layout};

/// Keys of slots that are not served which one page passes over: some milliseconds of work. The page then ends early.
const MAX_LEFT_OUT: usize = 64 * 1024;

/// The state between two batches. What is applied later does not show; the generation stays as long as the view.
///
/// Reads go through a snapshot and never through the keyspace, where half a batch shows.
pub(super) struct View {
    snapshot: Snapshot,
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
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        Self { snapshot: generation.db.snapshot(), generation }
    }

    /// The meta record of this very moment.
    pub(super) fn meta(&self) -> Result<Meta, StoreError> {
        let record = self.snapshot.get(&self.generation.keyspace, layout::META_KEY).map_err(read_error)?;
        let missing = || StoreError::Corrupt("the meta record is missing".to_owned());
        Meta::open(&record.ok_or_else(missing)?)
    }

    /// What the group owned at this very moment.
    pub(super) fn ownership(&self) -> Result<Ownership, StoreError> {
        shards::ownership_of(self.record(&layout::OWNERSHIP_KEY)?)
    }

    /// A system key: its version and document.
    pub(super) fn system_key(&self, name: &[u8]) -> Result<Option<(u64, bytes::Bytes)>, StoreError> {
        let key = layout::system(name);
        let Some(record) = self.record(&key)? else { return Ok(None) };
        record::check(&key, &record)?;
        SystemRecord::parse(&key, &record).map(|record| Some((record.version, record.value)))
    }

    /// A record as it is stored, its checksum not verified yet.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.snapshot.get(&self.generation.keyspace, key).map_err(read_error)
    }

    /// Records as they are stored, in key order.
    pub(super) fn range(&self, keys: std::ops::Range<Slice>) -> fjall::Iter {
        self.snapshot.range(&self.generation.keyspace, keys)
    }

    /// One key.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let stored_key = layout::data(key.as_bytes());
        let record = self.snapshot.get(&self.generation.keyspace, &*stored_key).map_err(read_error)?;
        let Some(record) = record else { return Ok(None) };
        let record = checked(&stored_key, record)?;
        // The clock must be the snapshot's: with a later one a value could expire that was replaced in time.
        if record.expires_at_ms != 0 && !record.is_live(self.meta()?.clock_ms) {
            return Ok(None);
        }
        Ok(Some(entry(key.clone(), record, false)))
    }

    /// A page of keys in order; of the slots in `served`, where that is given.
    pub(super) fn list(&self, request: &ListRequest, served: Option<&SlotSet>) -> Result<Page, StoreError> {
        let start = layout::data(&request.start);
        let end = match &request.end {
            Some(end) => layout::data(end),
            None => Slice::from([layout::DATA + 1]),
        };
        let mut page = Page { entries: Vec::new(), next: None };
        if start >= end {
            return Ok(page);
        }
        let mut bytes = 0usize;
        let mut clock_ms = None;
        let mut left_out = 0usize;
        for item in self.snapshot.range(&self.generation.keyspace, start..end) {
            let (stored_key, record) = item.into_inner().map_err(read_error)?;
            if served.is_some_and(|served| !served.contains(slot_of(&stored_key[1..]))) {
                left_out += 1;
                if left_out > MAX_LEFT_OUT {
                    page.next = Some(bytes::Bytes::copy_from_slice(&stored_key[1..]));
                    break;
                }
                continue;
            }
            let record = checked(&stored_key, record)?;
            if record.expires_at_ms != 0 {
                let now = match clock_ms {
                    Some(now) => now,
                    None => *clock_ms.insert(self.meta()?.clock_ms),
                };
                if !record.is_live(now) {
                    continue;
                }
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
        Ok(page)
    }

    /// All records of the replicated state but the meta record, in key order. Their checksums are not verified yet.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        self.snapshot
            .range(&self.generation.keyspace, [layout::STATE]..)
            .map(|item| item.into_inner().map_err(read_error))
    }

    /// Reads everything and compares it with what the meta record says.
    pub(super) fn verify(&self) -> Result<Verified, StoreError> {
        let meta = self.meta()?;
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

fn checked(key: &[u8], record: Slice) -> Result<DataRecord, StoreError> {
    record::check(key, &record)?;
    DataRecord::parse(key, record)
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
