//! [`Compactor`]: the threads that compact the tables; and what a compaction is.
//!
//! Fjall's own threads give up for good once a compaction has found the disk full, and the process would have to end. These look
//! before they begin: what has no room now is done in smaller steps, or later.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use fjall::compaction::Leveled;
use fjall::{AbstractTree, Keyspace, LsmError, SeqNo};
use raftkv_runtime::disk::{DiskPlan, FLUSHED_TABLES, Space};

use super::StoreError;
use super::brake::Kept;
use super::flusher::MOST_TABLES;
use super::generation::{Generation, read_error};
use super::levels::{Level, Levels};
use super::shared::Shared;

/// Two levels can be compacted at a time: flushed tables do not wait for a deep one.
const THREADS: usize = 2;
/// Each flush asks for one compaction. More than this wait only where the disk does not keep up.
const MOST_TURNS: usize = 64;
/// Below this multiple of the reserve there is one compaction at a time.
const SCARCE_RESERVES: u64 = 4;
/// Compactions that are done in one go at most: the caller looks at the disk in between.
const MOST_STEPS: usize = 256;

/// The threads. Dropping it waits for the compactions that are under way.
pub(super) struct Compactor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Asks the threads for compactions.
#[derive(Default)]
pub(super) struct Turns {
    asked: Mutex<Asked>,
    ready: Condvar,
}

#[derive(Default)]
struct Asked {
    turns: usize,
    is_over: bool,
}

impl Turns {
    /// Has somebody look whether something is to be compacted.
    pub(super) fn ask(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.turns = (asked.turns + 1).min(MOST_TURNS);
        self.ready.notify_one();
    }

    /// False once it is over.
    fn wait(&self) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = self
            .ready
            .wait_while(asked, |asked| asked.turns == 0 && !asked.is_over)
            .unwrap_or_else(PoisonError::into_inner);
        asked.turns = asked.turns.saturating_sub(1);
        !asked.is_over
    }

    fn end(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.ready.notify_all();
    }
}

impl Compactor {
    /// Starts the threads, which compact the generation that is live.
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let mut compactor = Self { shared: Arc::clone(shared), threads: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(shared);
            let thread = std::thread::Builder::new().name("store-compact".to_owned()).spawn(move || run(&shared))?;
            compactor.threads.push(thread);
        }
        // What the process before this one left.
        shared.turns.ask();
        Ok(compactor)
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.shared.turns.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that compacts had panicked");
            }
        }
    }
}

fn run(shared: &Shared) {
    while shared.turns.wait() {
        if shared.is_ending() {
            continue;
        }
        let live = shared.live();
        if let Err(error) = live.compact(|| !shared.is_ending()) {
            tracing::error!(%error, "a compaction has failed");
            // The next flush tells, as of any other way to lose what was durable.
            *live.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }
}

impl Generation {
    /// Does the compaction that is due, if one is and has room.
    fn compact(&self, goes_on: impl Fn() -> bool) -> Result<(), StoreError> {
        let space = self.space();
        if is_scarce(space) {
            // One at a time: each has what is free for itself.
            let _alone = self.compacting.write().unwrap_or_else(PoisonError::into_inner);
            return self.compact_alone(goes_on);
        }
        let plan = DiskPlan::for_disk(space.total_bytes);
        let (first, seen) = (self.next_table(), self.compacted());
        let ended = {
            let _busy = self.compacting.read().unwrap_or_else(PoisonError::into_inner);
            self.run_leveled(leveled(&plan), Kept::Half)?
        };
        if !ended {
            let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            self.try_remove_unfinished(first, seen);
        }
        Ok(())
    }

    /// Nothing else is compacted meanwhile.
    fn compact_alone(&self, goes_on: impl Fn() -> bool) -> Result<(), StoreError> {
        let (levels, space) = (self.levels(), self.space());
        let plan = DiskPlan::for_disk(space.total_bytes);
        if has_room(levels.compaction_bytes(plan.table_bytes), space, Kept::Half.bytes(&plan)) {
            return self.run_alone(|| self.run_leveled(leveled(&plan), Kept::Half)).map(drop);
        }
        metrics::counter!("raftkv_engine_compactions_without_room_total").increment(1);
        if levels.flushed_tables() < usize::from(FLUSHED_TABLES) {
            return Ok(());
        }
        self.steps(goes_on).map(drop)
    }

    /// See [`steps`](Self::steps).
    pub(super) fn compact_in_steps(&self, goes_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let _alone = self.compacting.write().unwrap_or_else(PoisonError::into_inner);
        self.steps(goes_on)
    }

    /// Compacts everything into the last level, where removals and what they remove vanish: at once where that has room, else in steps so
    /// small that each has. False: there was nothing to do, or no room for a single one.
    fn steps(&self, goes_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let mut any = false;
        for _ in 0..MOST_STEPS {
            let (levels, space) = (self.levels(), self.space());
            let plan = DiskPlan::for_disk(space.total_bytes);
            let Some(step) = levels.next_step(plan.table_bytes).filter(|_| goes_on()) else { break };
            let kept = if levels.has_removals() { Kept::Eighth } else { Kept::Half };
            let mut is_done = false;
            if has_room(levels.whole_bytes(), space, kept.bytes(&plan)) {
                is_done = self.run_alone(|| {
                    self.run(kept, |threshold| self.keyspace.tree.major_compact(plan.table_bytes, threshold))
                })?;
            }
            if !is_done && has_room(step.bytes, space, kept.bytes(&plan)) {
                // A threshold of zero gives every level a target size of zero: all of them are too large, and the deepest comes first.
                let all = Leveled::default().with_l0_threshold(0).with_table_target_size(step.table_bytes);
                is_done = self.run_alone(|| self.run_leveled(all, kept))?;
            }
            // A table that reaches beyond the level below stays where it is until all is compacted at once.
            if !is_done || self.levels() == levels {
                break;
            }
            any = true;
        }
        Ok(any)
    }

    fn run_leveled(&self, strategy: Leveled, kept: Kept) -> Result<bool, StoreError> {
        self.run(kept, |threshold| self.keyspace.tree.compact(Arc::new(strategy), threshold))
    }

    /// A compaction while no other is under way. What it leaves when the disk is full is removed.
    fn run_alone(&self, compact: impl FnOnce() -> Result<bool, StoreError>) -> Result<bool, StoreError> {
        let first = self.next_table();
        let is_done = compact()?;
        if !is_done {
            let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            self.remove_unfinished(first);
        }
        Ok(is_done)
    }

    /// False: the disk was full, and nothing has changed.
    fn run(&self, kept: Kept, compact: impl FnOnce(SeqNo) -> Result<(), LsmError>) -> Result<bool, StoreError> {
        // Doc-hidden in fjall, which has no public way to compact that leaves the choice of what and when to the caller.
        let threshold = self.db.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
        match kept.while_compacting(|| compact(threshold)) {
            Ok(()) => {
                self.count_compaction();
                Ok(true)
            }
            Err(LsmError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::debug!("a compaction is put off: {error}");
                metrics::counter!("raftkv_engine_compactions_without_room_total").increment(1);
                Ok(false)
            }
            Err(error) => Err(read_error(fjall::Error::Storage(error))),
        }
    }

    /// Whether flushed tables pile up because there is no room to compact them.
    pub(super) fn compactions_lack_room(&self) -> bool {
        if self.keyspace.l0_table_count() < MOST_TABLES {
            return false;
        }
        let (levels, space) = (self.levels(), self.space());
        let plan = DiskPlan::for_disk(space.total_bytes);
        let step = levels.next_step(plan.table_bytes).map_or(0, |step| step.bytes);
        !has_room(levels.compaction_bytes(plan.table_bytes), space, Kept::Half.bytes(&plan))
            && !has_room(step, space, Kept::Half.bytes(&plan))
    }

    /// The levels as they are now.
    pub(super) fn levels(&self) -> Levels {
        let sizes = self.keyspace.tree.current_version();
        Levels::new(sizes.iter_levels().map(|level| {
            let mut size = Level { tables: level.table_count() as u64, bytes: level.size(), ..Level::default() };
            // Doc-hidden in lsm-tree, which counts removals for the whole tree only.
            for table in level.iter().flat_map(|run| run.iter()) {
                size.records += table.metadata.item_count;
                size.removals += table.metadata.tombstone_count;
            }
            size
        }))
    }

    /// Of the file system that it is on. One that does not tell counts as large and empty: it will say when it is full.
    pub(super) fn space(&self) -> Space {
        let unknown = Space { free_bytes: u64::MAX, total_bytes: u64::MAX };
        Space::of(self.keyspace.path()).unwrap_or(unknown)
    }
}

/// How the tree is compacted where there is room.
fn leveled(plan: &DiskPlan) -> Leveled {
    Leveled::default().with_l0_threshold(FLUSHED_TABLES).with_table_target_size(plan.table_bytes)
}

/// Whether a compaction may come to need what another one writes.
fn is_scarce(space: Space) -> bool {
    space.free_bytes < DiskPlan::for_disk(space.total_bytes).reserve.saturating_mul(SCARCE_RESERVES)
}

/// Whether this many bytes can be written before the brake ends the compaction.
fn has_room(bytes: u64, space: Space, kept_bytes: u64) -> bool {
    bytes.saturating_add(kept_bytes) <= space.free_bytes
}

/// Moves tables that were ingested into an empty database to the last level, where nothing has to be compacted with them.
pub(super) fn settle(keyspace: &Keyspace) -> Result<(), StoreError> {
    keyspace
        .tree
        .compact(Arc::new(Leveled::default()), 0)
        .map_err(|error| StoreError::Storage(fjall::Error::Storage(error)))
}
