//! [`Generation`]: one fjall database that holds the whole state, and what is applied on top of it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use fjall::compaction::Leveled;
use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, Readable, Slice, Snapshot};

use raftkv_kv::Ownership;
use raftkv_runtime::disk::FLUSHED_TABLES;

use super::brake::Brakes;
use super::changes::Changes;
use super::directory::sync_directories;
use super::hashed::Hashed;
use super::journal;
use super::memtable::{Memtable, Memtables};
use super::meta::Meta;
use super::piece::Piece;
use super::record::Stored;
use super::shards::{Changed, Shards};
use super::{StoreError, layout, record};

/// Name of the one keyspace. Keyspaces are never created, cleared or deleted later: fjall was seen to lose data by it.
const KEYSPACE: &str = "state";

/// Threads of fjall's for a database whose journals an earlier version has left: only they flush and remove those. Otherwise there
/// are none, and compactions are the [`Compactor`](super::compactor::Compactor)'s. Fjall keeps the first one free for flushes, and
/// spins it while compactions wait for the others: with fewer than two others it spins through every compaction.
const WORKER_THREADS: usize = 3;
/// Most removed records of the memtables that one piece passes over: a tenth of a millisecond of work.
const MOST_REMOVED: usize = 2_048;
/// And most others, whatever is asked for: a millisecond or two in which nothing can be applied.
const MOST_RECORDS: usize = 16 * 1024;

/// A generation, open.
pub(super) struct Generation {
    /// From its directory's name.
    pub(super) number: u64,
    pub(super) db: Database,
    pub(super) keyspace: Keyspace,
    /// As of the last batch.
    pub(super) published: RwLock<Published>,
    /// Held while a memtable is on its way into a table.
    pub(super) flushing: Mutex<Flushed>,
    /// Held by a compaction: for writing by one that is to be alone. Who flushes must not wait for it.
    pub(super) compacting: RwLock<()>,
    /// Compactions that have ended well.
    pub(super) compacted: AtomicU64,
    /// Why a compaction has failed, until a flush tells.
    pub(super) failed: Mutex<Option<StoreError>>,
}

/// The state of one moment, as far as it is in memory. Changes as a whole.
pub(super) struct Published {
    pub(super) meta: Meta,
    pub(super) ownership: Arc<Ownership>,
    pub(super) memtables: Memtables,
}

/// What the tables hold.
pub(super) struct Flushed {
    /// The meta record that was written last, with the number of its batch of records.
    pub(super) meta: Meta,
    /// A sealed memtable that found no room on the disk, and what the state was when it was sealed. It is written first.
    pub(super) pending: Option<(Arc<Memtable>, Meta)>,
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
            .start_ingestion()
            .and_then(|mut table| {
                table.write(layout::META_KEY, meta.seal())?;
                table.finish()
            })
            .map_err(|error| storage(error, path))?;
        Ok(Self::with(number, db, keyspace, meta, Ownership::default()))
    }

    fn with(number: u64, db: Database, keyspace: Keyspace, meta: Meta, ownership: Ownership) -> Self {
        let flushed = Flushed { meta: meta.clone(), pending: None };
        let published = Published { meta, ownership: Arc::new(ownership), memtables: Memtables::default() };
        Self {
            number,
            db,
            keyspace,
            published: RwLock::new(published),
            flushing: Mutex::new(flushed),
            compacting: RwLock::default(),
            compacted: AtomicU64::new(0),
            failed: Mutex::default(),
        }
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
        let ownership = Shards::load(&keyspace)?.ownership().clone();
        let generation = Self::with(number, db, keyspace, meta, ownership);
        generation.check_chain()?;
        Ok(generation)
    }

    /// Every flush writes a link and removes the one before: a second one means that what was flushed in between is lost.
    /// Earlier versions wrote one with every batch, into fjall's journals, which it replays one after the other, taking
    /// what it cannot read in one of them for that one's torn end. That is right in the last journal only.
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

    /// The state of this very moment. Nothing is applied while it is held.
    pub(super) fn now(&self) -> RwLockReadGuard<'_, Published> {
        self.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As of the last batch.
    pub(super) fn meta(&self) -> Meta {
        self.now().meta.clone()
    }

    /// As of the last batch.
    pub(super) fn ownership(&self) -> Arc<Ownership> {
        Arc::clone(&self.now().ownership)
    }

    /// A record of this moment, its checksum verified. May block on the disk.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        let now = self.now();
        let key = now.memtables.hashed(key);
        self.record_at(now, key)
    }

    /// A record of the moment that is given.
    pub(super) fn record_at(
        &self,
        now: RwLockReadGuard<'_, Published>,
        key: Hashed<'_>,
    ) -> Result<Option<Slice>, StoreError> {
        let found = match now.memtables.get(key) {
            Some(found) => found.cloned(),
            None => return self.below_memory(now, &key),
        };
        drop(now);
        if let Some(record) = &found {
            record::check(&key, record)?;
        }
        Ok(found)
    }

    /// What an operation must know of the record of this moment under the key of a value. Where that is in memory it is looked at
    /// where it lies: only who changes the state waits for it.
    pub(super) fn stored(&self, key: Hashed<'_>) -> Result<Option<Stored>, StoreError> {
        let now = self.now();
        match now.memtables.get(key) {
            Some(Some(record)) => {
                record::check(&key, record)?;
                Stored::parse(&key, record).map(Some)
            }
            Some(None) => Ok(None),
            None => self.below_memory(now, &key)?.map(|record| Stored::parse(&key, &record)).transpose(),
        }
    }

    /// A record of the tables as of the moment that is given, its checksum verified.
    fn below_memory(&self, now: RwLockReadGuard<'_, Published>, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        // Before anything else can be flushed.
        let snapshot = self.db.snapshot();
        drop(now);
        self.in_tables(&snapshot, key)
    }

    /// A record of the tables, its checksum verified. Anybody may ask for a key of any length.
    pub(super) fn in_tables(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        if key.len() > layout::MAX_SOUGHT_BYTES {
            return Ok(None);
        }
        let Some(record) = snapshot.get(&self.keyspace, key).map_err(read_error)? else { return Ok(None) };
        record::check(key, &record)?;
        Ok(Some(record))
    }

    /// The records of a range, which is not empty, as of this moment: as many as can be had at once, `wanted` at least if they
    /// are a few thousand at most and not more than that were removed.
    pub(super) fn piece(&self, range: Range<Slice>, wanted: usize) -> Piece {
        self.piece_at(self.now(), range, wanted)
    }

    /// The records of a range as of the moment that is given.
    pub(super) fn piece_at(&self, now: RwLockReadGuard<'_, Published>, range: Range<Slice>, wanted: usize) -> Piece {
        let part = now.memtables.range(range.clone(), wanted.clamp(1, MOST_RECORDS), MOST_REMOVED);
        let snapshot = self.db.snapshot();
        drop(now);
        Piece::new(range, part, &snapshot, &self.keyspace)
    }

    /// Makes a batch visible as a whole.
    pub(super) fn publish(&self, batch: Changes, meta: Meta, changed: Changed) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        published.memtables.apply(batch);
        published.meta = meta;
        if let Some(ownership) = changed {
            published.ownership = ownership;
        }
    }
}

fn builder(path: &Path, cache_bytes: u64) -> fjall::DatabaseBuilder<Database> {
    let threads = if journal::is_one(path) { 0 } else { WORKER_THREADS };
    let brakes = Brakes::of(path);
    // Doc-hidden in fjall; the public way insists on one.
    Database::builder(path)
        .worker_threads_unchecked(threads)
        .cache_size(cache_bytes)
        .with_compaction_filter_factories(Arc::new(move |_| Some(Arc::clone(&brakes))))
}

fn keyspace_options() -> KeyspaceCreateOptions {
    let leveled = Leveled::default().with_l0_threshold(FLUSHED_TABLES);
    // An ingested table's filter and index are not kept in memory by fjall, but read through the block cache: in small parts
    // they stay there, as a whole they would push each other out.
    KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(leveled))
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
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
    use fjall::PersistMode;

    use super::*;
    use crate::changes::Change;

    const CACHE: u64 = 1024 * 1024;

    fn with_three_batches(path: &Path) {
        let generation = Arc::new(Generation::create(path, 1, CACHE).unwrap());
        for next_index in 1..=3 {
            let mut meta = generation.meta();
            meta.position.next_index = next_index;
            let nothing = generation.now().memtables.batch();
            generation.publish(nothing, meta, None);
            generation.flush().unwrap();
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

    /// It applied in batches of fjall's, and only the journal may have them.
    #[test]
    fn what_an_earlier_version_left_in_the_journal_is_read_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gen-1");
        let keys = [b"\x40a", b"\x40b", b"\x40c"].map(|key| Slice::from(&key[..]));
        let sealed = |key: &Slice, body: &[u8]| record::seal(key, &[body]);
        {
            let (db, keyspace) = Generation::create_bare(&path, CACHE).unwrap();
            for batch_number in 1..=3u64 {
                let mut meta = Meta { batch: batch_number, ..Meta::default() };
                meta.position.next_index = batch_number;
                let link = layout::numbered(layout::LINK, batch_number);
                let mut batch = db.batch().durability(Some(PersistMode::Buffer));
                keys.iter().for_each(|key| batch.insert(&keyspace, key.clone(), sealed(key, b"old")));
                batch.remove(&keyspace, layout::numbered(layout::LINK, batch_number - 1));
                batch.insert(&keyspace, link, record::seal(&link, &[]));
                batch.insert(&keyspace, layout::META_KEY, meta.seal());
                batch.commit().unwrap();
            }
        }
        let generation = Arc::new(Generation::open(&path, 1, CACHE).ok().unwrap());
        assert_eq!(generation.meta().position.next_index, 3);
        let mut batch = generation.now().memtables.batch();
        batch.apply(keys[0].clone(), Change { record: Some(sealed(&keys[0], b"new")), is_fresh: false });
        batch.apply(keys[1].clone(), Change { record: None, is_fresh: false });
        let mut meta = generation.meta();
        meta.position.next_index = 4;
        generation.publish(batch, meta, None);
        let expected = [Some(sealed(&keys[0], b"new")), None, Some(sealed(&keys[2], b"old"))];
        assert_eq!(keys.clone().map(|key| generation.record(&key).unwrap()), expected);
        assert_eq!(generation.flush().unwrap().meta().position.next_index, 4);
        assert_eq!(keys.clone().map(|key| generation.record(&key).unwrap()), expected);
        drop(generation);
        for restarts in 1..3 {
            let generation = Generation::open(&path, 1, CACHE).ok().unwrap();
            assert_eq!(generation.meta().position.next_index, 4);
            assert_eq!(keys.clone().map(|key| generation.record(&key).unwrap()), expected, "after {restarts} restarts");
        }
    }

    #[test]
    fn a_panic_while_opening_is_damage_and_leaves_the_hook_alone() {
        let caught = quietly(|| panic!("checksum of {}", "table"));
        assert_eq!(caught, Err("checksum of table".to_owned()));
        assert_eq!(quietly(|| 5), Ok(5));
    }
}
