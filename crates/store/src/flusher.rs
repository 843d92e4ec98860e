//! [`Flusher`]: flushes memtables beside the work of the apply thread; and what a flush is.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::PersistMode;
use raftkv_runtime::{failpoint, planted};

use super::generation::{Flushed, Generation, read_error};
use super::memtable::Memtable;
use super::meta::Meta;
use super::read::View;
use super::shared::Shared;
use super::{Position, StoreError, layout, record};

/// How often somebody who waits for room looks again.
const POLL: Duration = Duration::from_millis(1);
/// How often it is told that nothing is applied because a flush takes so long, or that a flush waits for room on the disk.
const COMPLAINT: Duration = Duration::from_secs(10);
/// How often a flush that found no room on the disk is tried again.
const ROOM_POLL: Duration = Duration::from_millis(200);

/// With so many flushed tables that no compaction has taken yet, a flush waits for one: each read may have to look into all.
pub(super) const MOST_TABLES: usize = 20;
/// But not longer than this.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(10);
const COMPACTION_POLL: Duration = Duration::from_millis(5);

/// The apply thread's side of the thread that flushes. Dropping it ends that thread after the flush that it is at.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    memtable_bytes: usize,
    /// One at a time: a flush takes all there is when it begins.
    requests: Option<SyncSender<Arc<Generation>>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread. Memtables are flushed from `memtable_bytes` on.
    pub(super) fn start(shared: Arc<Shared>, memtable_bytes: usize) -> io::Result<Self> {
        let (requests, queue) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("store-flush".to_owned()).spawn(move || flush_all(&of_thread, &queue))?;
        Ok(Self { shared, memtable_bytes, requests: Some(requests), thread: Some(thread) })
    }

    /// Whether it is not yet time for a flush.
    pub(super) fn has_room(&self, generation: &Generation) -> bool {
        let (bytes, written) = generation.unflushed();
        bytes < self.memtable_bytes && written < self.memtable_bytes.saturating_mul(2)
    }

    /// Asks for a flush if it is time for one. Where the disk does not keep up it waits, so that memory stays bounded: at a
    /// quarter more than a memtable may have.
    pub(super) fn make_room(&self, generation: &Arc<Generation>) {
        let mut told = Instant::now();
        loop {
            if self.has_room(generation) {
                return;
            }
            let (bytes, _) = generation.unflushed();
            if let Some(requests) = &self.requests {
                // One that waits already will do.
                let _ = requests.try_send(Arc::clone(generation));
            }
            if bytes < self.memtable_bytes.saturating_add(self.memtable_bytes / 4) || self.shared.is_ending() {
                return;
            }
            if told.elapsed() >= COMPLAINT {
                told = Instant::now();
                tracing::warn!(bytes, "nothing is applied until a flush has ended: the disk does not keep up");
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.requests = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that flushes had panicked");
        }
    }
}

fn flush_all(shared: &Shared, queue: &Receiver<Arc<Generation>>) {
    while let Ok(generation) = queue.recv() {
        let mut told: Option<Instant> = None;
        loop {
            if shared.is_ending() {
                return;
            }
            match shared.flushed(&generation, generation.flush()) {
                Ok(_) => break,
                Err(error @ StoreError::NoSpace { .. }) => {
                    if told.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                        told = Some(Instant::now());
                        tracing::warn!("what is applied stays in memory and in the log: {error}");
                    }
                    std::thread::sleep(ROOM_POLL);
                }
                Err(_) => return,
            }
        }
        if told.is_some() {
            tracing::info!("the disk has room again: what was applied is in a table");
        }
    }
}

impl Generation {
    /// What a flush would take up: about the bytes of memory, and the bytes written since the last one began.
    pub(super) fn unflushed(&self) -> (usize, usize) {
        let now = self.now();
        (now.memtables.active_bytes(), now.memtables.written())
    }

    /// Writes all that is applied into a table, durably, and gives the tables of that moment. One at a time: a second caller
    /// waits. Blocks on the disk.
    ///
    /// Data, counters, sessions and the position go into one table, which becomes part of the tree as a whole: what is recovered
    /// after a crash is the state after some entry of the log.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] where the disk has no room for it: nothing is lost, and the next flush writes it first.
    pub(super) fn flush(self: &Arc<Self>) -> Result<View, StoreError> {
        let mut flushed = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if flushed.pending.is_some() {
            self.flush_pending(&mut flushed)?;
        }
        self.wait_for_compaction();
        let replaced = {
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            if published.meta.position == flushed.meta.position {
                let mut meta = published.meta.clone();
                meta.batch = flushed.meta.batch;
                return Ok(View::new(self.db.snapshot(), meta, Arc::clone(self)));
            }
            let (sealed, replaced) = published.memtables.seal();
            flushed.pending = Some((sealed, published.meta.clone()));
            replaced
        };
        drop(replaced);
        let meta = self.flush_pending(&mut flushed)?;
        Ok(View::new(self.db.snapshot(), meta, Arc::clone(self)))
    }

    /// Writes the memtable that was sealed. Gives what the state was then.
    fn flush_pending(self: &Arc<Self>, flushed: &mut Flushed) -> Result<Meta, StoreError> {
        let Some((sealed, meta)) = &flushed.pending else { return Ok(self.meta()) };
        let (sealed, mut meta) = (Arc::clone(sealed), meta.clone());
        let begin = Instant::now();
        failpoint!("engine::flush::before", |why: String| StoreError::Storage(fjall::Error::Io(
            std::io::Error::other(why)
        )));
        meta.batch = flushed.meta.batch + 1;
        let mut stored = meta.clone();
        if planted!(PositionApart) && !meta.batch.is_multiple_of(8) {
            // As if the position were written later than what it is the position of.
            stored.position = flushed.meta.position.clone();
        }
        // One that finds no room is written again, into another file.
        self.with_room(sealed.bytes() as u64, || self.write_table(&sealed, &stored, flushed.meta.batch))?;
        self.check_compactions()?;
        failpoint!("engine::flush::after");
        flushed.meta = meta.clone();
        flushed.pending = None;
        metrics::counter!("raftkv_engine_flushes_total").increment(1);
        metrics::counter!("raftkv_engine_flushed_bytes_total").increment(sealed.bytes() as u64);
        metrics::histogram!("raftkv_engine_flush_seconds").record(begin.elapsed().as_secs_f64());
        Ok(meta)
    }

    /// Durable when it returns: fjall makes the table durable, then its name, then the list of tables that has it.
    pub(super) fn write_table(&self, sealed: &Memtable, meta: &Meta, last_batch: u64) -> Result<(), fjall::Error> {
        let mut table = self.keyspace.start_ingestion()?;
        table.write(layout::META_KEY, meta.seal())?;
        if last_batch > 0 {
            table.write_tombstone(layout::numbered(layout::LINK, last_batch))?;
        }
        let link = layout::numbered(layout::LINK, meta.batch);
        table.write(link, record::seal(&link, &[]))?;
        for (key, record) in sealed.iter() {
            match record {
                Some(record) => table.write(key.clone(), record.clone())?,
                None => table.write_tombstone(key.clone())?,
            }
        }
        table.finish()
    }

    /// Whether a compaction has failed since the last flush. Of fjall's own there will be no more then, and it does not say what it was:
    /// where the tables cannot be read, it was damage.
    fn check_compactions(self: &Arc<Self>) -> Result<(), StoreError> {
        if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let Err(error) = self.db.persist(PersistMode::Buffer) else { return Ok(()) };
        tracing::error!(%error, "a compaction has failed: all tables are read, to find out whether they are damaged");
        for item in self.keyspace.iter() {
            let (key, record) = item.into_inner().map_err(read_error)?;
            record::check(&key, &record)?;
        }
        Err(StoreError::Storage(error))
    }

    fn wait_for_compaction(&self) {
        let begin = Instant::now();
        while self.keyspace.l0_table_count() >= MOST_TABLES
            && begin.elapsed() < COMPACTION_PATIENCE
            && !self.compactions_lack_room()
        {
            std::thread::sleep(COMPACTION_POLL);
        }
    }

    /// Makes everything that is applied now durable and says up to where that is at least.
    pub(super) fn persist(self: &Arc<Self>) -> Result<Position, StoreError> {
        failpoint!("engine::store::before_persist", |why: String| StoreError::Storage(fjall::Error::Io(
            std::io::Error::other(why)
        )));
        if planted!(PurgeTooEarly) {
            return Ok(self.meta().position);
        }
        let position = self.flush()?.meta().position.clone();
        // Earlier versions wrote to fjall's journal, which may hold what was not made durable yet.
        self.db.persist(PersistMode::SyncAll).map_err(StoreError::Storage)?;
        failpoint!("engine::store::after_persist");
        Ok(position)
    }
}
