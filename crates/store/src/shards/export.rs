//! [`Export`]: pages of what a move takes away.
//!
//! A page can be read on any replica. First come all values and kept outcomes of the move's slots, in key order, then what has
//! changed since the export began, in the order in which it changed, as it is now. A page need not be of one moment: what
//! changes while it is read is noted as a change of its own, and comes again.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use fjall::Slice;
use raftkv_kv::{ImportPage, ImportRecord, MoveId, SLOT_TIME_VERSION, SlotSet};

use crate::generation::Generation;
use crate::record::{self, DataRecord, IdempotencyRecord};
use crate::{StoreError, layout};

/// Most records looked at for a page: some milliseconds of work. A page may so hold nothing while there is more.
const MAX_LOOKED_AT: usize = 16 * 1024;
/// What a record costs in a page besides its key and value, about.
const RECORD_OVERHEAD: usize = 48;
/// First byte of a cursor.
const CURSOR_VERSION: u8 = 1;

/// Which page.
#[derive(Debug, Clone)]
pub struct Export {
    /// Of which move.
    pub move_id: MoveId,
    /// Where it begins: empty = at the beginning, else what the page before said.
    pub cursor: Bytes,
    /// About how large it may be; one record comes even when it alone is larger.
    pub max_bytes: usize,
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedPage {
    /// Its records.
    pub page: ImportPage,
    /// Where the next one begins. Opaque; only good for the same move.
    pub cursor: Bytes,
    /// Keys with a value in it.
    pub keys: u64,
    /// Only changes come from here on.
    pub base_done: bool,
    /// Changes passed.
    pub changes_done: u64,
    /// Changes recorded when the page was read.
    pub changes_total: u64,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The move is not under way from here, not any more, or not yet.
    #[error("move {0} does not export from this group now")]
    NotExporting(MoveId),
    /// The cursor is of another move, another version, or no cursor.
    #[error("the cursor is not one of this move")]
    BadCursor,
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where an export stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// The first stored key not looked at yet.
    Base(Vec<u8>),
    /// The number of the first change not passed yet.
    Changes(u64),
}

impl Stage {
    fn decode(cursor: &[u8], move_id: MoveId) -> Result<Self, ExportError> {
        if cursor.is_empty() {
            return Ok(Self::Base(vec![layout::DATA]));
        }
        let mut rest = cursor;
        if rest.len() < 10 || rest.get_u8() != CURSOR_VERSION || rest.get_u64() != move_id {
            return Err(ExportError::BadCursor);
        }
        match (rest.get_u8(), rest) {
            (0, key) if matches!(key.first(), Some(&(layout::DATA | layout::IDEMPOTENCY))) => {
                Ok(Self::Base(key.to_vec()))
            }
            (1, number) => number
                .try_into()
                .map(|number| Self::Changes(u64::from_be_bytes(number)))
                .map_err(|_| ExportError::BadCursor),
            _ => Err(ExportError::BadCursor),
        }
    }

    fn encode(&self, move_id: MoveId) -> Bytes {
        let mut cursor = vec![CURSOR_VERSION];
        cursor.extend_from_slice(&move_id.to_be_bytes());
        match self {
            Self::Base(key) => {
                cursor.push(0);
                cursor.extend_from_slice(key);
            }
            Self::Changes(number) => {
                cursor.push(1);
                cursor.extend_from_slice(&number.to_be_bytes());
            }
        }
        cursor.into()
    }
}

/// A page that is being filled.
struct Filling<'a> {
    generation: &'a Generation,
    slots: &'a SlotSet,
    /// What has ended by then is left out; `None` = nothing is: the target sees by the slot's time what has ended.
    ended_by_ms: Option<u64>,
    records: Vec<ImportRecord>,
    keys: u64,
    bytes: usize,
    max_bytes: usize,
    /// Records that may still be looked at.
    budget: usize,
}

impl Generation {
    /// A page of the export that is under way.
    pub(crate) fn export(&self, export: &Export) -> Result<ExportedPage, ExportError> {
        let Export { move_id, ref cursor, max_bytes } = *export;
        let not_exporting = || ExportError::NotExporting(move_id);
        let (ownership, ended_by_ms) = {
            let now = self.now();
            (Arc::clone(&now.ownership), (now.meta.version < SLOT_TIME_VERSION).then_some(now.meta.clock_ms))
        };
        let out = ownership.outgoing.as_ref().filter(|out| out.id == move_id).ok_or_else(not_exporting)?;
        let mut stage = Stage::decode(cursor, move_id)?;
        if matches!(stage, Stage::Changes(number) if number > out.changes) {
            return Err(ExportError::BadCursor);
        }
        let mut filling = Filling {
            generation: self,
            slots: &out.slots,
            ended_by_ms,
            records: Vec::new(),
            keys: 0,
            bytes: 0,
            max_bytes,
            budget: MAX_LOOKED_AT,
        };
        if let Stage::Base(from) = stage {
            stage = match filling.base(from)? {
                Some(key) => Stage::Base(key),
                None => Stage::Changes(0),
            };
        }
        if let Stage::Changes(number) = &mut stage {
            *number = filling.changes(move_id, *number, out.changes)?;
        }
        let Filling { records, keys, .. } = filling;
        // Once it is over, what it takes away may be deleted while it is read.
        if self.ownership().outgoing.as_ref().is_none_or(|out| out.id != move_id) {
            return Err(not_exporting());
        }
        Ok(ExportedPage {
            page: ImportPage { records },
            keys,
            base_done: matches!(stage, Stage::Changes(_)),
            changes_done: if let Stage::Changes(number) = stage { number } else { 0 },
            changes_total: out.changes,
            cursor: stage.encode(move_id),
        })
    }
}

impl Filling<'_> {
    /// Adds values and kept outcomes from a stored key on; returns where to go on, `None` = that was all.
    fn base(&mut self, from: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        let mut from = from;
        if from[0] == layout::DATA {
            if let Some(next) = self.class(from, layout::DATA)? {
                return Ok(Some(next));
            }
            from = vec![layout::IDEMPOTENCY];
        }
        self.class(from, layout::IDEMPOTENCY)
    }

    fn class(&mut self, from: Vec<u8>, tag: u8) -> Result<Option<Vec<u8>>, StoreError> {
        let end = Slice::from([tag + 1]);
        let from = layout::bound(Slice::from(from));
        if from >= end {
            return Ok(None);
        }
        let mut piece = self.generation.piece(from..end, self.budget);
        for item in piece.by_ref() {
            let (key, stored) = item?;
            if self.budget == 0 {
                return Ok(Some(key.to_vec()));
            }
            self.budget -= 1;
            if !layout::slot_of_record(&key).is_some_and(|slot| self.slots.contains(slot)) {
                continue;
            }
            record::check(&key, &stored)?;
            if let Some(found) = self.exported(&key, Some(stored))?
                // Nothing is there yet that it could be missing from.
                && !matches!(found, ImportRecord::Absent { .. })
                && !self.add(found)
            {
                return Ok(Some(key.to_vec()));
            }
        }
        Ok(piece.end().map(|end| end.to_vec()))
    }

    /// Adds what has changed, from a number on; returns the number of the first change that is not in the page.
    fn changes(&mut self, move_id: MoveId, from: u64, total: u64) -> Result<u64, StoreError> {
        let mut seen: HashSet<Bytes> = HashSet::new();
        for number in from..total {
            if self.budget == 0 {
                return Ok(number);
            }
            self.budget -= 1;
            let change_key = layout::change(move_id, number);
            let missing = || StoreError::Inconsistent(format!("change {number} of move {move_id} is missing"));
            let change = self.generation.record(&change_key)?.ok_or_else(missing)?;
            let key = Bytes::copy_from_slice(record::body(&change));
            if seen.contains(&key) {
                continue;
            }
            let stored = self.generation.record(&key)?;
            if let Some(found) = self.exported(&key, stored)?
                && !self.add(found)
            {
                return Ok(number);
            }
            seen.insert(key);
        }
        Ok(total)
    }

    /// What is to be said of the record under a stored key, whose checksum holds. A value that has ended is none, though it is still there;
    /// of an outcome that has ended there is nothing to be said: it is as good as gone wherever it is.
    fn exported(&self, key: &[u8], stored: Option<Slice>) -> Result<Option<ImportRecord>, StoreError> {
        if key[0] == layout::DATA {
            let name = Bytes::copy_from_slice(&key[1..]);
            let value = stored.map(|stored| DataRecord::parse(key, stored)).transpose()?;
            return Ok(Some(match value.filter(|value| self.ended_by_ms.is_none_or(|by_ms| value.is_live(by_ms))) {
                None => ImportRecord::Absent { key: name },
                Some(value) => ImportRecord::Value {
                    key: name,
                    revision: value.revision,
                    create_revision: value.create_revision,
                    expires_at_ms: value.expires_at_ms,
                    value: value.into_value(),
                },
            }));
        }
        let (Some(stored), Some(slot)) = (stored, layout::slot_of_record(key)) else { return Ok(None) };
        let kept = IdempotencyRecord::parse(key, &stored)?;
        let is_live = self.ended_by_ms.is_none_or(|by_ms| kept.expires_at_ms > by_ms);
        Ok(is_live.then(|| ImportRecord::Idempotency {
            slot,
            key: Bytes::copy_from_slice(&key[3..]),
            fingerprint: kept.fingerprint,
            expires_at_ms: kept.expires_at_ms,
            outcome: kept.outcome,
        }))
    }

    /// Adds a record, unless the page is full.
    fn add(&mut self, record: ImportRecord) -> bool {
        let size = RECORD_OVERHEAD
            + match &record {
                ImportRecord::Value { key, value, .. } => key.len() + value.len(),
                ImportRecord::Absent { key } => key.len(),
                ImportRecord::Idempotency { key, .. } => key.len() + RECORD_OVERHEAD,
            };
        if !self.records.is_empty() && self.bytes + size > self.max_bytes {
            return false;
        }
        self.bytes += size;
        self.keys += u64::from(matches!(record, ImportRecord::Value { .. }));
        self.records.push(record);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_is_good_for_its_move_only() {
        for stage in [Stage::Base(b"\x40key".to_vec()), Stage::Base(vec![layout::IDEMPOTENCY]), Stage::Changes(300)] {
            let cursor = stage.encode(7);
            assert_eq!(Stage::decode(&cursor, 7).unwrap(), stage);
            assert!(matches!(Stage::decode(&cursor, 8), Err(ExportError::BadCursor)));
            let mut newer = cursor.to_vec();
            newer[0] += 1;
            assert!(Stage::decode(&newer, 7).is_err());
            assert!((1..10).all(|len| Stage::decode(&cursor[..len], 7).is_err()));
        }
        assert!(Stage::decode(b"\x01\0\0\0\0\0\0\0\x07\0\x10session", 7).is_err(), "no class that travels");
    }
}
