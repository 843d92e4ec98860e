//! A store with a log in front of it.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftkv_backend::{Entry, ListRequest};
use raftkv_kv::{Answer, Batch, Command, Idempotency, Key, Limits, Op, Outcome, Precondition, Proposal, Value};
use raftkv_store::{
    Applied, ApplyEntry, ApplyError, EntryKind, Fatal, SnapshotHeader, SnapshotPart, StateLimits, Store, StoreError,
    StoreOptions,
};
use tempfile::TempDir;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text.to_owned(), &Limits::default()).unwrap()
}

pub(crate) fn value(text: &str) -> Value {
    Value::text(text, &Limits::default()).unwrap()
}

pub(crate) fn set(k: &str, v: &str) -> Op {
    set_until(k, v, 0)
}

pub(crate) fn set_until(k: &str, v: &str, expires_at_ms: u64) -> Op {
    Command::Set { key: key(k), value: value(v), expires_at_ms }.into()
}

pub(crate) fn delete(k: &str) -> Op {
    Command::Delete { key: key(k) }.into()
}

pub(crate) fn when(mut op: Op, precondition: Precondition) -> Op {
    op.precondition = Some(precondition);
    op
}

pub(crate) fn once(mut op: Op, client_key: &str, fingerprint: u64, keep_ms: u64) -> Op {
    op.idempotency = Some(Idempotency { key: client_key.to_owned().into(), fingerprint, keep_ms });
    op
}

pub(crate) fn payload(index: u64, clock_ms: u64, proposal: &Proposal) -> ApplyEntry {
    entry(index, clock_ms, EntryKind::Payload(proposal.encode()))
}

pub(crate) fn entry(index: u64, clock_ms: u64, kind: EntryKind) -> ApplyEntry {
    ApplyEntry { index, log_id: Bytes::from(format!("log-{index}")), clock_ms, group_clock_ms: 0, kind }
}

/// What fatal errors a store had.
pub(crate) type Fatals = Arc<Mutex<Vec<Fatal>>>;

pub(crate) fn open_with(dir: &Path, limits: StateLimits) -> Result<(Store, Fatals), StoreError> {
    open_flushing(dir, limits, StoreOptions::default().memtable_bytes)
}

fn open_flushing(dir: &Path, limits: StateLimits, memtable_bytes: usize) -> Result<(Store, Fatals), StoreError> {
    let fatals = Fatals::default();
    let seen = Arc::clone(&fatals);
    let options = StoreOptions {
        cache_bytes: 8 * 1024 * 1024,
        memtable_bytes,
        limits,
        shortcut: None,
        fatal: Box::new(move |fatal| seen.lock().unwrap().push(fatal)),
    };
    Store::open(dir, options).map(|store| (store, fatals))
}

pub(crate) fn open(dir: &Path) -> Result<Store, StoreError> {
    open_with(dir, StateLimits::default()).map(|(store, _)| store)
}

/// A store, and the log that feeds it.
pub(crate) struct Harness {
    pub(crate) store: Store,
    pub(crate) fatals: Fatals,
    pub(crate) next: u64,
    /// Of the leader's wall.
    pub(crate) clock_ms: u64,
    /// Of the group; 0 = entries are not stamped with it.
    pub(crate) group_clock_ms: u64,
    pub(crate) dir: TempDir,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(StateLimits::default())
    }

    pub(crate) fn with(limits: StateLimits) -> Self {
        Self::flushing(limits, StoreOptions::default().memtable_bytes)
    }

    /// One whose memtables are flushed from so many bytes on.
    pub(crate) fn flushing(limits: StateLimits, memtable_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, fatals) = open_flushing(dir.path(), limits, memtable_bytes).unwrap();
        Self { store, fatals, next: 0, clock_ms: 1_000, group_clock_ms: 0, dir }
    }

    pub(crate) fn try_entry(&mut self, kind: EntryKind) -> Result<Applied, ApplyError> {
        let group_clock_ms = self.group_clock_ms;
        let entry = ApplyEntry { group_clock_ms, ..entry(self.next, self.clock_ms, kind) };
        self.next += 1;
        self.store.apply_blocking(vec![entry])
    }

    pub(crate) fn propose(&mut self, proposal: &Proposal) -> Answer {
        let applied = self.try_entry(EntryKind::Payload(proposal.encode())).unwrap();
        assert_eq!(applied.next_index, self.next);
        Answer::decode(&applied.answers[0]).unwrap()
    }

    pub(crate) fn session(&mut self) -> u64 {
        match self.propose(&Proposal::OpenSession) {
            Answer::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn batch(&mut self, session: u64, sequence: u64, acknowledged_below: u64, ops: Vec<Op>) -> Answer {
        self.propose(&Proposal::Batch(Batch { session, sequence, acknowledged_below, ops }))
    }

    /// Operations in a session of their own.
    pub(crate) fn ops(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let session = self.session();
        match self.batch(session, 1, 0, ops) {
            Answer::Applied(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn op(&mut self, op: Op) -> Outcome {
        self.ops(vec![op]).remove(0)
    }

    pub(crate) fn blank(&mut self) {
        self.try_entry(EntryKind::Blank).unwrap();
    }

    pub(crate) fn get(&self, k: &str) -> Option<Entry> {
        self.store.get(&key(k)).unwrap()
    }

    /// Closes the store and opens it again from its directory.
    pub(crate) fn reopen(&mut self, limits: StateLimits) {
        let placeholder = tempfile::tempdir().unwrap();
        let (other, _) = open_with(placeholder.path(), limits).unwrap();
        let store = std::mem::replace(&mut self.store, other);
        store.close();
        drop(store);
        let (store, fatals) = open_with(self.dir.path(), limits).unwrap();
        let other = std::mem::replace(&mut self.store, store);
        self.fatals = fatals;
        other.close();
    }
}

pub(crate) fn all_of(store: &Store) -> Result<Vec<Entry>, StoreError> {
    let request =
        ListRequest { start: Bytes::new(), end: None, limit: usize::MAX, max_bytes: usize::MAX, keys_only: false };
    store.list(&request).map(|page| page.entries)
}

/// A snapshot in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) header: SnapshotHeader,
    pub(crate) parts: Vec<SnapshotPart>,
}

impl Taken {
    pub(crate) fn of(store: &Store) -> Self {
        let reader = store.snapshot_out().unwrap();
        let header = SnapshotHeader { estimated_bytes: 0, ..reader.header().clone() };
        let parts = reader.collect::<Result<_, _>>().unwrap();
        Self { header, parts }
    }

    pub(crate) fn stage(&self, store: &Store) -> Result<u64, StoreError> {
        let mut parts = self.parts.clone().into_iter();
        store.stage_snapshot(&self.header, || parts.next())
    }

    pub(crate) fn install(&self, store: &Store) {
        let token = self.stage(store).unwrap();
        let position = futures::executor::block_on(store.activate(token)).unwrap();
        assert_eq!(position, self.header.position);
    }
}

/// What a kill at this moment leaves on the disk: journals keep their holes. Threads of the store may be at work: then it is copied
/// again, until nothing has changed meanwhile.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for _ in 0..1_000 {
        let before = signature(from);
        let copied = fs::remove_dir_all(to).and_then(|()| try_copy_dir(from, to));
        if copied.is_ok() && before.is_ok_and(|before| signature(from).is_ok_and(|after| after == before)) {
            return;
        }
    }
    panic!("{} never stands still", from.display());
}

/// Path, inode, length, and when it was changed.
type FileTrait = (std::path::PathBuf, u64, u64, i64, i64);

/// Changes with every change of a file or a name.
fn signature(dir: &Path) -> std::io::Result<Vec<FileTrait>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let about = fs::metadata(&path)?;
        if about.is_dir() {
            found.extend(signature(&path)?);
        }
        found.push((path, about.ino(), about.len(), about.mtime(), about.mtime_nsec()));
    }
    found.sort();
    Ok(found)
}

fn try_copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            try_copy_dir(&item.path(), &target)?;
        } else {
            copy_file(&item.path(), &target)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = fs::File::open(from)?;
    let len = source.metadata()?.len();
    let mut target = fs::File::create(to)?;
    target.set_len(len)?;
    let mut block = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        let read = source.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        if block[..read].iter().any(|&byte| byte != 0) {
            target.seek(SeekFrom::Start(at))?;
            target.write_all(&block[..read])?;
        }
        at += read as u64;
    }
}

/// All files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_dir() {
            found.extend(files(&item.path()));
        } else {
            found.push(item.path());
        }
    }
    found.sort();
    found
}

/// Names of what is directly in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits for something that happens in the background.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Random numbers that come again with the seed that is printed.
pub(crate) fn seeded() -> rand::rngs::StdRng {
    let seed = std::env::var("RAFTKV_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("RAFTKV_TEST_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}
