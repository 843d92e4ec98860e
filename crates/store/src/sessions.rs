//! [`Sessions`]: what the apply thread remembers of the sessions, so that it need not read them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fjall::Keyspace;

use super::generation::read_error;
use super::record::{self, SessionRecord, Trace};
use super::{StoreError, layout};

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    /// As stored.
    pub(super) record: SessionRecord,
    /// Of the stored record.
    pub(super) trace: Trace,
    /// The answers kept, by sequence; the answers themselves stay in the store.
    pub(super) answers: BTreeMap<u64, Trace>,
}

/// All sessions, by id and by last use. A cache of the records in the store, never ahead of them by more than the
/// batch that is being made.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<u64, Session>,
    /// (last use, id): the first is the least recently used one, on every replica the same.
    by_use: BTreeSet<(u64, u64)>,
}

impl Sessions {
    /// Reads them all.
    pub(super) fn load(keyspace: &Keyspace) -> Result<Self, StoreError> {
        let mut sessions = Self::default();
        let stray = |key: &[u8]| StoreError::Corrupt(format!("stray session record {}", key.escape_ascii()));
        for item in keyspace.range([layout::SESSION]..[layout::ANSWER + 1]) {
            let (key, record) = item.into_inner().map_err(read_error)?;
            record::check(&key, &record)?;
            let trace = Trace::of(&record);
            if key[0] == layout::SESSION {
                let id = layout::number_of(&key).ok_or_else(|| stray(&key))?;
                sessions.insert(id, SessionRecord::parse(&key, &record)?, trace);
            } else {
                let (id, sequence) = layout::answer_of(&key).ok_or_else(|| stray(&key))?;
                let session = sessions.by_id.get_mut(&id).ok_or_else(|| stray(&key))?;
                session.answers.insert(sequence, trace);
            }
        }
        Ok(sessions)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn insert(&mut self, id: u64, record: SessionRecord, trace: Trace) {
        self.by_use.insert((record.used_ms, id));
        self.by_id.insert(id, Session { record, trace, answers: BTreeMap::new() });
    }

    pub(super) fn get(&self, id: u64) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// Notes the use of a session and gives it for changing; its record's `used_ms` is already the new one.
    pub(super) fn touch(&mut self, id: u64, clock_ms: u64) -> Option<&mut Session> {
        let session = self.by_id.get_mut(&id)?;
        if session.record.used_ms != clock_ms {
            self.by_use.remove(&(session.record.used_ms, id));
            self.by_use.insert((clock_ms, id));
            session.record.used_ms = clock_ms;
        }
        Some(session)
    }

    /// The least recently used one and when that was.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        self.by_use.first().map(|&(used_ms, id)| (id, used_ms))
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Session> {
        let session = self.by_id.remove(&id)?;
        self.by_use.remove(&(session.record.used_ms, id));
        Some(session)
    }
}
