//! The group's side of sharding: which slots it serves, and the moves to and from it.
//!
//! The rules are in [`raftkv_kv`] and pure. Here is what they do to the records: [`system`] applies the commands,
//! [`import`] writes what comes, [`purge`] deletes what has gone, [`changes`] notes what changes meanwhile. [`export`] is for
//! readers, who see the ownership of the very state that they read.

mod changes;
mod export;
mod import;
mod purge;
mod system;

use std::sync::Arc;

use fjall::{Keyspace, Slice};
use raftkv_kv::{Effect, GroupFacts, Ownership, Refusal, SystemCommand};

use super::generation::read_error;
use super::meta::Meta;
use super::record::{self, Trace};
use super::txn::Txn;
use super::{StoreError, layout};

pub use export::{Export, ExportError, ExportedPage};

/// What the apply thread knows of the ownership, without reading it.
#[derive(Debug, Default)]
pub(super) struct Shards {
    ownership: Arc<Ownership>,
    /// Of the stored record; `None` = there is none: the group is in no sharded store.
    trace: Option<Trace>,
    /// It is ahead of its record.
    is_dirty: bool,
}

impl Shards {
    /// Reads the record.
    pub(super) fn load(keyspace: &Keyspace) -> Result<Self, StoreError> {
        let record = keyspace.get(layout::OWNERSHIP_KEY).map_err(read_error)?;
        let trace = record.as_ref().map(|record| Trace::of(record));
        Ok(Self { ownership: Arc::new(ownership_of(record)?), trace, is_dirty: false })
    }

    /// As of the last entry applied.
    pub(super) fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// To be called before a batch is committed: brings the record up to date. One record a batch, however many entries
    /// have changed it: between batches it is never read.
    pub(super) fn store(&mut self, txn: &mut Txn<'_>) -> Changed {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let record = record::seal(&layout::OWNERSHIP_KEY, &[&self.ownership.encode()]);
        self.trace = Some(txn.put(layout::OWNERSHIP_KEY, record, self.trace));
        Some(Arc::clone(&self.ownership))
    }

    fn decide(&mut self, command: SystemCommand, meta: &Meta) -> Result<Effect, Refusal> {
        let facts = facts_of(meta);
        let mut next = Ownership::clone(&self.ownership);
        let effect = next.apply(command, &facts)?;
        if next != *self.ownership {
            self.change(|now| *now = next);
        }
        Ok(effect)
    }

    fn change(&mut self, change: impl FnOnce(&mut Ownership)) {
        change(Arc::make_mut(&mut self.ownership));
        self.is_dirty = true;
    }
}

/// What decisions about system commands are made of.
fn facts_of(meta: &Meta) -> GroupFacts {
    GroupFacts {
        version: meta.version,
        revision: meta.revision,
        clock_ms: meta.clock_ms,
        keys: meta.keys,
        outcomes: meta.idempotency,
    }
}

/// The new ownership, if a batch changes it.
pub(super) type Changed = Option<Arc<Ownership>>;

/// The ownership in a record, or of a group without one.
pub(super) fn ownership_of(record: Option<Slice>) -> Result<Ownership, StoreError> {
    let Some(record) = record else { return Ok(Ownership::default()) };
    let body = record::check(&layout::OWNERSHIP_KEY, &record)?;
    Ownership::decode(body).map_err(|error| StoreError::Corrupt(format!("the ownership record: {error}")))
}
