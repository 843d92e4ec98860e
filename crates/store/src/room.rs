//! Room on the disk: what a flush needs, what is left of a table that found none, and how removed records give theirs back.
//!
//! A removal is a record of its own until a compaction has met what it removes, and compactions begin by themselves only after many
//! flushes. On a disk that is nearly full nothing is written that would bring those about, so [`Generation::reclaim`] compacts at
//! once.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use fjall::{AbstractTree, LsmError};

use super::StoreError;
use super::generation::Generation;
use super::memtable::Memtable;

/// A table is a little larger than what it was in memory, and the list of tables is written with it.
const TABLE_OVERHEAD_DIVISOR: u64 = 8;
const LEAST_BYTES: u64 = 64 * 1024;
/// Where lsm-tree keeps the tables of a keyspace.
const TABLES: &str = "tables";

/// What came of an attempt to give space back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaimed {
    /// Bytes that the tables have become smaller by.
    pub bytes: u64,
    /// Whether nothing is left that can be done now. False: readers hold on to what was removed, or it was told to end.
    pub is_done: bool,
}

impl Generation {
    /// Bytes that are applied and in no table: of the active memtable, and of one that was sealed and found no room.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        let (active, _) = self.unflushed();
        // Held for as long as a flush takes; what is being written counts as written.
        let pending = match self.flushing.try_lock() {
            Ok(flushed) => flushed.pending.as_ref().map_or(0, |(sealed, _)| sealed.bytes()),
            Err(_) => 0,
        };
        (active + pending) as u64
    }

    /// Whether a table of about so many bytes has room.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let needed_bytes = bytes.saturating_add(bytes / TABLE_OVERHEAD_DIVISOR).saturating_add(LEAST_BYTES);
        let free_bytes = self.space().free_bytes;
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(self.no_space(free_bytes, needed_bytes))
    }

    fn no_space(&self, free_bytes: u64, needed_bytes: u64) -> StoreError {
        metrics::counter!("raftkv_engine_flushes_without_room_total").increment(1);
        StoreError::NoSpace { path: self.keyspace.path().to_owned(), free_bytes, needed_bytes }
    }

    /// Writes a table as `write` does, of about so many bytes. A full disk has lost nothing: what was written of the table is no part of
    /// the tree, and is removed. Only to be called by who flushes.
    pub(super) fn with_room(
        &self,
        bytes: u64,
        write: impl FnOnce() -> Result<(), fjall::Error>,
    ) -> Result<(), StoreError> {
        self.check_room(bytes)?;
        let (first, seen) = (self.next_table(), self.compacted());
        write().map_err(|error| match &error {
            fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io))
                if io.kind() == std::io::ErrorKind::StorageFull =>
            {
                self.try_remove_unfinished(first, seen);
                self.no_space(self.space().free_bytes, bytes)
            }
            _ => StoreError::Storage(error),
        })
    }

    /// The number that the next table gets.
    pub(super) fn next_table(&self) -> u64 {
        // Doc-hidden in lsm-tree: nothing else tells the files of an attempt from those of before.
        self.keyspace.tree.next_table_id()
    }

    /// Compactions that have ended well.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted.load(Ordering::Acquire)
    }

    pub(super) fn count_compaction(&self) {
        self.compacted.fetch_add(1, Ordering::AcqRel);
    }

    /// [`remove_unfinished`](Self::remove_unfinished), unless something is compacted now, or was since: `seen` compactions had ended when the
    /// first table was begun. A table that was whole and is compacted away looks the same, and somebody may read it.
    pub(super) fn try_remove_unfinished(&self, first: u64, seen: u64) {
        if let Ok(_alone) = self.compacting.try_write()
            && self.compacted() == seen
        {
            self.remove_unfinished(first);
        }
    }

    /// Removes the files of tables from number `first` on that were never finished, and no table from there on was compacted away; lsm-tree
    /// does that only when it is opened. Nobody may flush or compact meanwhile.
    pub(super) fn remove_unfinished(&self, first: u64) {
        let whole: HashSet<u64> = self.keyspace.tree.current_version().iter_tables().map(|table| table.id()).collect();
        let Ok(files) = std::fs::read_dir(self.keyspace.path().join(TABLES)) else { return };
        for file in files.flatten() {
            let number = file.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(|number| number >= first && !whole.contains(&number))
                && let Err(error) = std::fs::remove_file(file.path())
            {
                tracing::warn!(file = %file.path().display(), %error, "could not remove a table that was not finished");
            }
        }
    }

    /// See [`Store::reclaim`](super::Store::reclaim).
    pub(super) fn reclaim(self: &Arc<Self>, goes_on: impl Fn() -> bool) -> Result<Reclaimed, StoreError> {
        let is_flushed = match self.flush() {
            Ok(_) => true,
            Err(StoreError::NoSpace { .. }) => false,
            Err(error) => return Err(error),
        };
        let before = self.levels().bytes();
        let mut is_done = false;
        while goes_on() {
            // What was removed or compacted away may go once nobody can read the moment before it: that moves on with each table.
            self.write_marker()?;
            self.forget_replaced()?;
            if !self.compact_in_steps(&goes_on)? {
                // One moment is always kept beside the newest.
                is_done = self.keyspace.tree.version_free_list_len() <= 1;
                break;
            }
        }
        if !is_flushed {
            // What was given back may be enough.
            drop(self.flush()?);
        }
        Ok(Reclaimed { bytes: before.saturating_sub(self.levels().bytes()), is_done })
    }

    /// Lets go of lists of tables, and of tables that no list has, as far as nobody reads them. lsm-tree does that after a compaction only.
    fn forget_replaced(&self) -> Result<(), StoreError> {
        let threshold = self.db.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
        // Doc-hidden in lsm-tree; without it the last compaction's space comes back with the next one.
        let mut versions = self.keyspace.tree.get_version_history_lock();
        versions.maintenance(self.keyspace.path(), threshold).map_err(|error| StoreError::Storage(error.into()))
    }

    /// Writes a table that says only what was said before.
    fn write_marker(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut flushed = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut meta = flushed.meta.clone();
        meta.batch = flushed.meta.batch + 1;
        self.with_room(0, || self.write_table(&Memtable::empty(), &meta, flushed.meta.batch))?;
        flushed.meta = meta;
        Ok(())
    }
}
