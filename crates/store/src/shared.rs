//! [`Shared`]: what all handles and the apply thread have in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use raftkv_link::proposer::Shortcut;
use raftkv_runtime::failpoint;
use tokio::sync::watch;

use super::applier::Loaded;
use super::compactor::Turns;
use super::directory::Directory;
use super::generation::Generation;
use super::limits::StateLimits;
use super::staged::Staged;
use super::{Fatal, FatalHook, StoreError};

/// How often the remover looks whether the readers of a replaced generation are done.
const READERS_POLL: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Shared {
    pub(super) directory: Directory,
    pub(super) limits: StateLimits,
    pub(super) cache_bytes: u64,
    pub(super) applied: watch::Sender<u64>,
    /// When the first thing in the state ends by the group's clock; 0 = nothing does. A hint, as of the last batch.
    pub(super) next_deadline_ms: AtomicU64,
    /// Held while a snapshot is received: one at a time.
    pub(super) staging: Mutex<()>,
    pub(super) staged: Mutex<Option<Staged>>,
    pub(super) shortcut: Option<Shortcut>,
    live: RwLock<Arc<Generation>>,
    fatal: FatalHook,
    stopped: AtomicBool,
    closing: AtomicBool,
    /// The last flush found no room on the disk.
    lacks_room: AtomicBool,
    /// For the compactor.
    pub(super) turns: Turns,
}

impl Shared {
    pub(super) fn new(
        directory: Directory,
        live: Generation,
        staged: Option<Staged>,
        limits: StateLimits,
        cache_bytes: u64,
        shortcut: Option<Shortcut>,
        fatal: FatalHook,
    ) -> Self {
        let next_index = live.now().meta.position.next_index;
        Self {
            directory,
            limits,
            cache_bytes,
            applied: watch::Sender::new(next_index),
            next_deadline_ms: AtomicU64::new(0),
            staging: Mutex::new(()),
            staged: Mutex::new(staged),
            shortcut,
            live: RwLock::new(Arc::new(live)),
            fatal,
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            lacks_room: AtomicBool::new(false),
            turns: Turns::default(),
        }
    }

    /// The live generation.
    pub(super) fn live(&self) -> Arc<Generation> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the process is ending because of this store.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// From here on nobody waits for room on the disk.
    pub(super) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether the store is stopped or being closed.
    pub(super) fn is_ending(&self) -> bool {
        self.is_stopped() || self.closing.load(Ordering::Acquire)
    }

    /// Nothing may be written any more: says why and hands over to the hook, which normally ends the process.
    pub(super) fn stop(&self, fatal: Fatal) {
        self.stopped.store(true, Ordering::Release);
        (self.fatal)(fatal);
    }

    /// Looks at what went wrong for a reader. Damage ends the process: otherwise this node could never again read what is damaged.
    pub(super) fn noticed(&self, generation: u64, error: &StoreError) {
        // Of several readers the first is enough.
        if let StoreError::Corrupt(why) = error
            && !self.stopped.swap(true, Ordering::AcqRel)
        {
            (self.fatal)(self.damage(generation, why));
        }
    }

    /// To be told what came of each flush. Where the state could not be made durable the process ends: what a failed fsync has lost,
    /// a second one does not bring back. A full disk has lost nothing.
    pub(super) fn flushed<T>(&self, generation: &Generation, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) => {
                self.lacks_room.store(false, Ordering::Relaxed);
                self.turns.ask();
            }
            Err(StoreError::NoSpace { .. }) => self.lacks_room.store(true, Ordering::Relaxed),
            Err(StoreError::Corrupt(why)) => self.stop(self.damage(generation.number, why)),
            Err(error) => self.stop(Fatal::io(format!("the state could not be made durable: {error}"))),
        }
        result
    }

    /// Whether what is applied cannot become durable, or tables cannot be compacted, for want of room on the disk.
    pub(super) fn lacks_room(&self) -> bool {
        self.lacks_room.load(Ordering::Relaxed) || self.live().compactions_lack_room()
    }

    /// Marks a generation as damaged and gives what to end with.
    pub(super) fn damage(&self, generation: u64, why: &str) -> Fatal {
        self.directory.mark_damaged(generation, why);
        Fatal::data(format!(
            "stored data is damaged: {why}. The next start puts the damaged generation aside, to be installed anew from the \
             group"
        ))
    }

    /// Makes the staged generation the live one. Only the apply thread calls it: nothing is applied meanwhile.
    ///
    /// `None` when it is live already.
    pub(super) fn activate(&self, token: u64) -> Result<Option<(Arc<Generation>, Loaded)>, StoreError> {
        let old = self.live();
        if old.number == token {
            return Ok(None);
        }
        failpoint!("engine::swap::requested", |why: String| StoreError::Storage(fjall::Error::Io(
            std::io::Error::other(why)
        )));
        let mut slot = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = match slot.as_ref() {
            Some(staged) if staged.token == token => staged.clone(),
            _ => return Err(StoreError::SnapshotRefused(format!("no snapshot is staged under {token}"))),
        };
        let live_index = old.now().meta.position.next_index;
        if staged.next_index < live_index {
            return Err(StoreError::SnapshotRefused(format!(
                "it ends before entry {}, and entries up to {live_index} are applied here",
                staged.next_index
            )));
        }
        let opened = staged.open(&self.directory, self.cache_bytes);
        if let Err(error @ StoreError::SnapshotDamaged(_)) = &opened {
            tracing::error!(generation = token, %error, "a staged snapshot is given up");
            *slot = None;
            if let Err(error) = self.directory.remove(token) {
                tracing::warn!(generation = token, %error, "could not remove a staged generation");
            }
        }
        let (new, loaded) = opened?;
        failpoint!("engine::swap::before");
        if let Err(error) = self.directory.set_current(token) {
            // Which of the two a restart would find is not known: entries applied to the wrong one would be lost.
            self.stop(Fatal::io(format!("the switch to generation {token} is in doubt: {error}")));
            return Err(error);
        }
        failpoint!("engine::swap::after");
        *slot = None;
        if let Err(error) = self.directory.unmark_staged(token) {
            // The next start tries again; the live generation is never taken for a staged one.
            tracing::warn!(generation = token, %error, "the live generation is still marked as staged");
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        self.turns.ask();
        tracing::info!(
            generation = token,
            next_index = staged.next_index,
            replaced = old.number,
            "a snapshot is the live state now"
        );
        Ok(Some((new, loaded)))
    }

    /// Removes a staged snapshot that can never be activated any more: the live state is beyond its end.
    pub(super) fn drop_outdated(&self) {
        let mut slot = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let live_index = self.live().now().meta.position.next_index;
        if let Some(outdated) = slot.take_if(|staged| staged.next_index < live_index) {
            tracing::info!(generation = outdated.token, "removing a staged snapshot that the live state is beyond");
            if let Err(error) = self.directory.remove(outdated.token) {
                tracing::warn!(generation = outdated.token, %error, "could not remove a staged generation");
            }
        }
    }

    /// Closes a replaced generation and deletes its files once nobody reads from it.
    pub(super) fn remove_when_unused(&self, old: Arc<Generation>) {
        let path = self.directory.generation(old.number);
        let remove = move || {
            let mut old = old;
            // Closing waits for fjall's threads: not on a reader's thread, where the last handle may be dropped.
            let generation = loop {
                match Arc::try_unwrap(old) {
                    Ok(generation) => break generation,
                    Err(shared) => old = shared,
                }
                std::thread::sleep(READERS_POLL);
            };
            let number = generation.number;
            drop(generation);
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(generation = number, "removed a replaced generation"),
                // The next start tries again.
                Err(error) => {
                    tracing::warn!(generation = number, %error, "could not remove a replaced generation");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("store-remove".to_owned()).spawn(remove) {
            tracing::warn!(%error, "could not start a thread; the next start removes the replaced generation");
        }
    }
}
