//! [`Shared`]: what all handles and the apply thread have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use raftkv_link::proposer::Shortcut;
use raftkv_runtime::failpoint;
use tokio::sync::watch;

use super::applier::{self, Loaded};
use super::directory::Directory;
use super::generation::{Generation, OpenFailure};
use super::machine::StateLimits;
use super::{Fatal, FatalHook, Position, StoreError};

/// How often the remover looks whether the readers of a replaced generation are done.
const READERS_POLL: Duration = Duration::from_millis(20);

/// A snapshot that was received whole, is durable and waits to be activated.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) token: u64,
    pub(super) position: Position,
}

/// See the module.
pub(super) struct Shared {
    pub(super) directory: Directory,
    pub(super) limits: StateLimits,
    pub(super) cache_bytes: u64,
    pub(super) applied: watch::Sender<u64>,
    /// Held while a snapshot is received: one at a time.
    pub(super) staging: Mutex<()>,
    pub(super) staged: Mutex<Option<Staged>>,
    pub(super) shortcut: Option<Shortcut>,
    live: RwLock<Arc<Generation>>,
    fatal: FatalHook,
    stopped: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        directory: Directory,
        live: Generation,
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
            staging: Mutex::new(()),
            staged: Mutex::new(None),
            shortcut,
            live: RwLock::new(Arc::new(live)),
            fatal,
            stopped: AtomicBool::new(false),
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

    /// The state could not be made durable: what a failed fsync has lost, a second one does not bring back.
    pub(super) fn not_durable(&self, generation: u64, error: &StoreError) {
        self.stop(match error {
            StoreError::Corrupt(why) => self.damage(generation, why),
            error => Fatal::io(format!("the state could not be made durable: {error}")),
        });
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
        let mut slot = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = match slot.as_ref() {
            Some(staged) if staged.token == token => staged.clone(),
            _ => return Err(StoreError::SnapshotRefused(format!("no snapshot is staged under {token}"))),
        };
        let live_index = old.now().meta.position.next_index;
        if staged.position.next_index < live_index {
            return Err(StoreError::SnapshotRefused(format!(
                "it ends before entry {}, and entries up to {live_index} are applied here",
                staged.position.next_index
            )));
        }
        let path = self.directory.generation(token);
        let opened = Generation::open(&path, token, self.cache_bytes)
            .and_then(|generation| Ok((applier::load(&generation.keyspace)?, generation)));
        let (loaded, new) = match opened {
            Ok((loaded, new)) => (loaded, Arc::new(new)),
            Err(OpenFailure::Damaged(why)) => return Err(StoreError::Corrupt(why)),
            Err(OpenFailure::Other(error)) => return Err(error),
        };
        failpoint!("engine::swap::before");
        if let Err(error) = self.directory.set_current(token) {
            // Which of the two a restart would find is not known: entries applied to the wrong one would be lost.
            self.stop(Fatal::io(format!("the switch to generation {token} is in doubt: {error}")));
            return Err(error);
        }
        failpoint!("engine::swap::after");
        *slot = None;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        tracing::info!(
            generation = token,
            next_index = staged.position.next_index,
            replaced = old.number,
            "a snapshot is the live state now"
        );
        Ok(Some((new, loaded)))
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
