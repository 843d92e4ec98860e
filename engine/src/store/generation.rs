//! [`Generation`]: one fjall database that holds the whole state.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};

use raftkv_kv::Ownership;
use raftkv_runtime::{failpoint, planted};

use super::directory::sync_directories;
use super::journal;
use super::meta::Meta;
use super::shards::{Changed, Serving, Shards};
use super::{Position, StoreError, layout, read::View};

/// Name of the one keyspace. Keyspaces are never created, cleared or deleted later: fjall was seen to lose data by it.
const KEYSPACE: &str = "state";

/// Threads for flushes and compactions. Fjall keeps the first one free for flushes, and spins it while compactions wait
/// for the others: with fewer than two others it spins through every compaction.
const WORKER_THREADS: usize = 3;
/// Writes are gathered in memory up to here before they become a table.
const MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;
/// Flushed tables are compacted once there are so many. Each time, the level below is written anew as far as it overlaps: with
/// twice as many as by default an engine wrote values of 16 KiB 2.3 times in all, not 2.9. More would make a compaction of a
/// large store so long that flushes meanwhile reach the 20 tables from which on fjall slows writes down.
const FLUSHED_TABLES: u8 = 8;
/// Journals together; beyond it the oldest writes in memory are flushed so that their journal can go.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;

/// A generation, open.
pub(super) struct Generation {
    /// From its directory's name.
    pub(super) number: u64,
    pub(super) db: Database,
    pub(super) keyspace: Keyspace,
    /// As of the last batch that is visible to reads.
    published: RwLock<Published>,
    /// Of what is served, see [`Serving`].
    serving_version: AtomicU64,
}

/// What readers need not read from the store. Changes as a whole.
struct Published {
    meta: Meta,
    ownership: Arc<Ownership>,
}

/// Why a generation could not be opened.
pub(super) enum OpenFailure {
    /// What it holds cannot be trusted. Says what was found.
    Damaged(String),
    /// Something else is wrong; what it holds may be fine.
    Other(StoreError),
}

impl From<StoreError> for OpenFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(what) => Self::Damaged(what),
            other => Self::Other(other),
        }
    }
}

impl Generation {
    /// Makes one at a path where there is none. It holds nothing, not even a meta record.
    pub(super) fn create_bare(path: &Path, cache_bytes: u64) -> Result<(Database, Keyspace), StoreError> {
        let db = builder(path, cache_bytes).open().map_err(|error| storage(error, path))?;
        let keyspace = db.keyspace(KEYSPACE, keyspace_options).map_err(|error| storage(error, path))?;
        // Fjall makes the keyspace durable, but not its name: the power would take it with all that is in it.
        sync_directories(path)?;
        Ok((db, keyspace))
    }

    /// Makes an empty one, durable before it returns.
    pub(super) fn create(path: &Path, number: u64, cache_bytes: u64) -> Result<Self, StoreError> {
        let (db, keyspace) = Self::create_bare(path, cache_bytes)?;
        let meta = Meta::default();
        keyspace
            .insert(layout::META_KEY, meta.seal())
            .and_then(|()| db.persist(PersistMode::SyncAll))
            .map_err(|error| storage(error, path))?;
        Ok(Self::with(number, db, keyspace, meta))
    }

    fn with(number: u64, db: Database, keyspace: Keyspace, meta: Meta) -> Self {
        let published = RwLock::new(Published { meta, ownership: Arc::default() });
        Self { number, db, keyspace, published, serving_version: AtomicU64::new(0) }
    }

    /// Opens one, and tells damage apart from everything else that may go wrong.
    pub(super) fn open(path: &Path, number: u64, cache_bytes: u64) -> Result<Self, OpenFailure> {
        if !path.is_dir() {
            return Err(OpenFailure::Damaged("its directory is missing".to_owned()));
        }
        match journal::cut_torn_end(path) {
            Ok(None) => {}
            Ok(Some(cut)) => tracing::warn!(
                file = %cut.file.display(),
                offset = cut.offset,
                "the end of the store's journal was torn by a crash; what was never durable is dropped and comes again \
                 from the log"
            ),
            Err(source) => {
                let path = path.to_owned();
                return Err(OpenFailure::Other(StoreError::Io { action: "read the journal in", path, source }));
            }
        }
        let opened = quietly(|| builder(path, cache_bytes).open());
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(error)) => return Err(open_failure(error, path)),
            Err(panic) => return Err(OpenFailure::Damaged(format!("fjall panicked: {panic}"))),
        };
        if !db.keyspace_exists(KEYSPACE) {
            return Err(OpenFailure::Damaged("the keyspace is missing".to_owned()));
        }
        let keyspace = db.keyspace(KEYSPACE, keyspace_options).map_err(|error| open_failure(error, path))?;
        let record = keyspace.get(layout::META_KEY).map_err(|error| open_failure(error, path))?;
        let Some(record) = record else {
            return Err(OpenFailure::Damaged("the meta record is missing".to_owned()));
        };
        let meta = Meta::open(&record)?;
        let mut generation = Self::with(number, db, keyspace, meta);
        generation.check_chain()?;
        let ownership = Arc::new(Shards::load(&generation)?.ownership().clone());
        *generation.serving_version.get_mut() = Serving::first_version(&ownership);
        generation.published.get_mut().unwrap_or_else(PoisonError::into_inner).ownership = ownership;
        Ok(generation)
    }

    /// Every batch writes a link and removes the one before: a second one means that batches in between are lost.
    ///
    /// Fjall recovers by replaying its journals one after the other and takes what it cannot read in one of them for
    /// that one's torn end. That is right in the last journal only.
    fn check_chain(&self) -> Result<(), StoreError> {
        let expected = self.meta().batch;
        let mut found = 0;
        for item in self.keyspace.range([layout::LINK]..[layout::LINK + 1]) {
            let key = item.key().map_err(read_error)?;
            let number = layout::number_of(&key);
            if number != Some(expected) {
                return Err(StoreError::Corrupt(format!(
                    "writes are missing in the middle: batch {} is followed by batch {expected}",
                    number.unwrap_or_default()
                )));
            }
            found += 1;
        }
        if found != u64::from(expected > 0) {
            return Err(StoreError::Corrupt(format!("the link of batch {expected} is missing")));
        }
        Ok(())
    }

    /// As of the last visible batch.
    pub(super) fn meta(&self) -> Meta {
        self.with_meta(Meta::clone)
    }

    /// Reads a part of the meta without copying the rest.
    pub(super) fn with_meta<T>(&self, part: impl FnOnce(&Meta) -> T) -> T {
        part(&self.published.read().unwrap_or_else(PoisonError::into_inner).meta)
    }

    /// As of the last visible batch.
    pub(super) fn ownership(&self) -> Arc<Ownership> {
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner).ownership)
    }

    /// Changes when other slots are served; odd while a batch that does it is made visible.
    pub(super) fn serving_version(&self) -> u64 {
        self.serving_version.load(Ordering::SeqCst)
    }

    /// Makes a batch visible: `commit` does it, and returns the meta record that goes with it.
    pub(super) fn publish<E>(&self, changed: Changed, commit: impl FnOnce() -> Result<Meta, E>) -> Result<(), E> {
        if changed.serving {
            self.serving_version.fetch_add(1, Ordering::SeqCst);
        }
        // When it fails the process ends; until then readers ask the state itself.
        let meta = commit()?;
        {
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            published.meta = meta;
            if let Some(ownership) = changed.ownership {
                published.ownership = ownership;
            }
        }
        if changed.serving {
            self.serving_version.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Makes everything visible now durable and says up to where that is at least.
    pub(super) fn persist(&self) -> Result<Position, StoreError> {
        let position = self.with_meta(|meta| meta.position.clone());
        failpoint!("engine::store::before_persist", |why: String| StoreError::Storage(fjall::Error::Io(
            std::io::Error::other(why)
        )));
        if !planted!(PurgeTooEarly) {
            self.db.persist(PersistMode::SyncAll).map_err(StoreError::Storage)?;
        }
        failpoint!("engine::store::after_persist");
        Ok(position)
    }

    /// The state as of now, whatever is applied later.
    pub(super) fn view(self: &Arc<Self>) -> View {
        View::new(Arc::clone(self))
    }
}

fn builder(path: &Path, cache_bytes: u64) -> fjall::DatabaseBuilder<Database> {
    Database::builder(path).worker_threads(WORKER_THREADS).max_journaling_size(JOURNAL_BYTES).cache_size(cache_bytes)
}

fn keyspace_options() -> KeyspaceCreateOptions {
    let leveled = Leveled::default().with_l0_threshold(FLUSHED_TABLES);
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).compaction_strategy(Arc::new(leveled))
}

/// What a failed read means.
pub(super) fn read_error(error: fjall::Error) -> StoreError {
    if says_damage(&error) { StoreError::Corrupt(error.to_string()) } else { StoreError::Storage(error) }
}

fn storage(error: fjall::Error, path: &Path) -> StoreError {
    match error {
        fjall::Error::Locked => StoreError::Locked { path: path.to_owned() },
        error => StoreError::Storage(error),
    }
}

fn open_failure(error: fjall::Error, path: &Path) -> OpenFailure {
    match &error {
        fjall::Error::InvalidVersion(Some(_)) => OpenFailure::Other(StoreError::Unsupported(format!(
            "{} was written by another version of the storage engine: {error}",
            path.display()
        ))),
        // While opening, a missing or short file is damage, too.
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) if is_damage(io) => {
            OpenFailure::Damaged(error.to_string())
        }
        _ if says_damage(&error) => OpenFailure::Damaged(error.to_string()),
        _ => OpenFailure::Other(storage(error, path)),
    }
}

fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | InvalidData | InvalidInput)
}

/// Whether fjall has seen bytes that it did not write so. Everything that may pass by itself or be mended from
/// outside (permissions, a full disk, a lock) is not damage.
fn says_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Io(_)
        | fjall::Error::Storage(LsmError::Io(_))
        | fjall::Error::Locked
        | fjall::Error::Poisoned
        | fjall::Error::KeyspaceDeleted => {
            matches!(error, fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io))
                if matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof))
        }
        _ => true,
    }
}

/// Runs `work` and turns a panic in this thread into its message, past a process-wide hook that would end the process.
///
/// Fjall panics on some kinds of damage. Only used while opening, where a panic leaves nothing half done.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;
    /// Swapping hooks twice at once would lose one.
    static SWAP: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _swap = SWAP.lock().unwrap_or_else(PoisonError::into_inner);
    let previous: Arc<Hook> = Arc::new(std::panic::take_hook());
    let this = std::thread::current().id();
    let others = Arc::clone(&previous);
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != this {
            others(info);
        }
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    drop(std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| previous(info)));
    result.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::recent::Recent;
    use crate::store::record;
    use crate::store::txn::Txn;

    const CACHE: u64 = 1024 * 1024;

    fn with_three_batches(path: &Path) {
        let generation = Generation::create(path, 1, CACHE).unwrap();
        let mut recent = Recent::new(0);
        for _ in 0..3 {
            let nothing = Changed { ownership: None, serving: false };
            let txn = Txn::new(&generation, &mut recent);
            generation.publish(nothing, || txn.commit()).unwrap();
        }
    }

    fn damage_found(path: &Path) -> Option<String> {
        match Generation::open(path, 1, CACHE) {
            Ok(_) => None,
            Err(OpenFailure::Damaged(why)) => Some(why),
            Err(OpenFailure::Other(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn batches_lost_in_the_middle_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gen-1");
        with_three_batches(&path);
        assert_eq!(damage_found(&path), None);
        {
            // As if batch 2, which removes this link, had been in a part of a journal that cannot be read.
            let generation = Generation::open(&path, 1, CACHE).ok().unwrap();
            let link = layout::numbered(layout::LINK, 1);
            generation.keyspace.insert(link, record::seal(&link, &[])).unwrap();
        }
        let why = damage_found(&path).unwrap();
        assert!(why.contains("batch 1 is followed by batch 3"), "{why}");
    }

    #[test]
    fn a_panic_while_opening_is_damage_and_leaves_the_hook_alone() {
        let caught = quietly(|| panic!("checksum of {}", "table"));
        assert_eq!(caught, Err("checksum of table".to_owned()));
        assert_eq!(quietly(|| 5), Ok(5));
    }
}
