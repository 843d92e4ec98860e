//! The handle of a log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::bounds::Bounds;
use super::directory::LogDir;
use super::janitor::{self, Janitor};
use super::metrics::WalMetrics;
use super::queue::{Change, Done, Operation, Queue};
use super::read::{ReadLimit, ReadPlan};
use super::record::{Ballot, Entry, Position};
use super::recovery::{self, Recovered, RecoveryReport};
use super::segment::{self, Segment, SegmentHeader};
use super::state::State;
use super::writer::Writer;
use super::{WalError, WalOptions};

/// The file that one process holds locked while it has the log open. It also notes the log's random id, so that a log whose files are
/// all gone is not taken for a new one.
const LOCK: &str = "LOCK";

/// The format's offsets have 32 bits; an append stays far below.
const MAX_APPEND: usize = 1 << 30;

/// Segments of any other size make no sense, or would not fit the format's offsets.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 512..=1 << 30;

/// A write-ahead log. Clones are the same log; the last one dropped waits until everything is written.
///
/// A change is visible to readers when its method returns, and durable when its `done` is called with `Ok`. Operations become
/// durable in the order in which they were made, and only together with all before them.
#[derive(Debug, Clone)]
pub struct Wal {
    owner: Arc<Owner>,
}

/// What the handle and the writer share.
pub(super) struct Shared {
    pub(super) options: WalOptions,
    pub(super) state: RwLock<State>,
    pub(super) queue: Queue,
    pub(super) durable: watch::Sender<u64>,
    pub(super) metrics: WalMetrics,
    /// The next segment cannot be made just now.
    pub(super) waits_for_room: AtomicBool,
    /// What is short then is a file descriptor.
    pub(super) lacks_descriptor: AtomicBool,
}

/// What a log waits for before it writes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Room on its disk.
    Room,
    /// A file descriptor, of the process or of the system.
    Descriptor,
}

struct Owner {
    shared: Arc<Shared>,
    report: RecoveryReport,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Locked as long as it is open.
    _lock: File,
}

impl Wal {
    /// Opens the log in `options.dir`, or makes a new one there. Reads all of it: nothing unchecked is ever served.
    ///
    /// # Errors
    ///
    /// When the log is damaged, is of another version, is open elsewhere, or cannot be read.
    pub fn open(mut options: WalOptions) -> Result<Self, WalError> {
        options.segment_bytes = options.segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let dir = options.dir.clone();
        std::fs::create_dir_all(&dir).map_err(|error| WalError::io("create", &dir, error))?;
        let (mut lock, noted) = lock(&dir)?;
        let opened = LogDir::open(&dir)?;
        let recovered = match recovery::read(&dir, noted)? {
            Some(mut recovered) => {
                recovered.repair(&opened, options.segment_bytes)?;
                recovered
            }
            None => create(&opened, options.segment_bytes)?,
        };
        if noted.is_none() {
            note(&opened, &mut lock, recovered.log)?;
        }
        if let Some(torn) = &recovered.report.torn {
            tracing::warn!(
                file = %torn.file.display(),
                offset = torn.offset,
                "the end of the log was cut short by a crash ({}); what was never durable is dropped",
                torn.what
            );
        }
        Self::start(options, opened, recovered, lock)
    }

    fn start(options: WalOptions, dir: LogDir, recovered: Recovered, lock: File) -> Result<Self, WalError> {
        let Some(active) = recovered.segments.last().cloned() else {
            return Err(WalError::damaged(&options.dir, 0, "the log has no file"));
        };
        let mut state = State::new(recovered.state, recovered.segments);
        if active.used() > segment::HEADER as u64 {
            // Else the state is durable only in the older segments still.
            janitor::remove(&dir, &state.take_unneeded())?;
        }
        let (janitor, janitor_thread) = Janitor::start(dir.clone(), options.segment_bytes)?;
        let (durable, _) = watch::channel(state.durable_next());
        let shared = Arc::new(Shared {
            options,
            state: RwLock::new(state),
            queue: Queue::default(),
            durable,
            metrics: WalMetrics::new(),
            waits_for_room: AtomicBool::new(false),
            lacks_descriptor: AtomicBool::new(false),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            dir: dir.clone(),
            janitor,
            log: recovered.log,
            offset: active.used(),
            active,
            next_sequence: recovered.next_sequence,
            frame: Vec::new(),
        };
        let writer_thread = std::thread::Builder::new()
            .name("wal-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| WalError::io("start a thread for", dir.path(), error))?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                report: recovered.report,
                threads: Mutex::new(vec![writer_thread, janitor_thread]),
                _lock: lock,
            }),
        })
    }

    /// Appends entries, which must follow the last one. Never blocks; see [`room`](Self::room).
    ///
    /// # Errors
    ///
    /// When the entries leave a hole or the log takes no more writes; nothing was changed and `done` is not called.
    pub fn append(&self, entries: Vec<Entry>, done: Option<Done>) -> Result<(), WalError> {
        let bytes = entries.iter().map(Entry::encoded_len).sum();
        if bytes > MAX_APPEND {
            let limit = MAX_APPEND;
            return Err(WalError::TooLarge { bytes, limit });
        }
        self.change(bytes, done, |state, number| {
            let mut bounds = state.bounds;
            for entry in &entries {
                bounds.append(entry.position)?;
            }
            state.bounds = bounds;
            for entry in &entries {
                state.cache.push(entry.clone(), number);
            }
            Ok(Change::Append(entries))
        })
    }

    /// Records a vote, in order with the other operations.
    ///
    /// # Errors
    ///
    /// When the log takes no more writes.
    pub fn save_vote(&self, ballot: Ballot, done: Option<Done>) -> Result<(), WalError> {
        self.change(64, done, |state, _| {
            state.ballot = Some(ballot);
            Ok(Change::Vote(ballot))
        })
    }

    /// Forgets the entries after `after`; all of them with `None`.
    ///
    /// # Errors
    ///
    /// When the log takes no more writes.
    pub fn truncate_after(&self, after: Option<Position>, done: Option<Done>) -> Result<(), WalError> {
        let shared = &self.owner.shared;
        self.change(64, done, |state, _| {
            state.bounds.truncate_after(after);
            state.cache.truncate(state.bounds.next);
            // At once: what is appended in place of the truncated entries is not durable yet.
            shared.tell_durable(state);
            Ok(Change::Truncate(after))
        })
    }

    /// Forgets the entries up to `upto`, which may lie beyond the last one. Files no longer needed are removed once the purge
    /// is durable.
    ///
    /// # Errors
    ///
    /// When the log takes no more writes.
    pub fn purge(&self, upto: Position, done: Option<Done>) -> Result<(), WalError> {
        self.change(64, done, |state, _| {
            state.bounds.purge(upto);
            state.cache.purge(state.bounds.start);
            Ok(Change::Purge(upto))
        })
    }

    /// Remembers the committed position. It is written with the next frame, so a crash may lose it.
    ///
    /// # Errors
    ///
    /// When the log takes no more writes.
    pub fn save_committed(&self, committed: Option<Position>) -> Result<(), WalError> {
        let shared = &self.owner.shared;
        let mut state = shared.write();
        if let Some(refused) = shared.queue.refused() {
            return Err(refused);
        }
        state.committed = committed;
        shared.queue.set_committed(committed);
        Ok(())
    }

    /// Waits until the queue has room. Who appends without waiting makes it grow beyond its bound.
    pub async fn room(&self) {
        let shared = &self.owner.shared;
        shared.queue.room(shared.options.queue_bytes).await;
    }

    /// Plans to read the entries of `range` that the log holds, the oldest first, up to `limit`.
    pub fn read(&self, range: Range<u64>, limit: ReadLimit) -> ReadPlan {
        ReadPlan::new(&self.owner.shared.read(), range, limit)
    }

    /// Which entries the log holds.
    pub fn bounds(&self) -> Bounds {
        self.owner.shared.read().bounds
    }

    /// The last vote recorded.
    pub fn vote(&self) -> Option<Ballot> {
        self.owner.shared.read().ballot
    }

    /// The last committed position recorded.
    pub fn committed(&self) -> Option<Position> {
        self.owner.shared.read().committed
    }

    /// Follows the index after the last entry that is durable together with all before it. It goes back, at once, when
    /// entries are truncated. An entry must not be applied before this is above its index.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.owner.shared.durable.subscribe()
    }

    /// Bytes of the log's frames on disk. Files are larger by what is allocated ahead.
    pub fn log_bytes(&self) -> u64 {
        self.owner.shared.read().log_bytes()
    }

    /// What is waited for, where nothing is written because there is no room for more of the log or no file descriptor.
    pub fn waits_for(&self) -> Option<Shortage> {
        let shared = &self.owner.shared;
        shared.waits_for_room.load(Ordering::Relaxed).then(|| match shared.lacks_descriptor.load(Ordering::Relaxed) {
            true => Shortage::Descriptor,
            false => Shortage::Room,
        })
    }

    /// What opening the log found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.owner.report
    }

    /// Takes no more operations, writes those waiting, and ends the log's threads. Blocks.
    pub fn close(&self) {
        self.owner.close();
    }

    /// Makes a change visible and queues it, in one step, so that the queue's order is the order of the changes.
    fn change(
        &self,
        bytes: usize,
        done: Option<Done>,
        apply: impl FnOnce(&mut State, u64) -> Result<Change, WalError>,
    ) -> Result<(), WalError> {
        let shared = &self.owner.shared;
        let mut state = shared.write();
        if let Some(refused) = shared.queue.refused() {
            return Err(refused);
        }
        let number = state.operations + 1;
        let change = apply(&mut state, number)?;
        state.operations = number;
        shared.queue.push(Operation { number, change, done, bytes });
        Ok(())
    }
}

impl Shared {
    /// Publishes how far the log is durable. Under the state's lock, so that it never goes back wrongly.
    pub(super) fn tell_durable(&self, state: &State) {
        let next = state.durable_next();
        self.durable.send_if_modified(|current| std::mem::replace(current, next) != next);
    }
}

impl Owner {
    fn close(&self) {
        self.shared.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A callback may hold the last handle: its thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// Locks the directory; returns the log id noted in the lock file, if there is one.
fn lock(dir: &Path) -> Result<(File, Option<u64>), WalError> {
    let path = dir.join(LOCK);
    let io = |error| WalError::io("lock", &path, error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(WalError::Locked { file: path }),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(io)?;
    // Empty, or cut short by a crash right after the log was made: then the segments say the id.
    let noted = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.strip_suffix('\n'))
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok((file, noted))
}

fn note(dir: &LogDir, lock: &mut File, log: u64) -> Result<(), WalError> {
    lock.set_len(0)
        .and_then(|()| lock.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(lock, "{log:016x}"))
        .and_then(|()| lock.sync_all())
        .map_err(|error| WalError::io("write", &dir.path().join(LOCK), error))?;
    dir.sync()
}

/// Makes a new log: one empty segment.
fn create(dir: &LogDir, segment_bytes: u64) -> Result<Recovered, WalError> {
    if let Some(parent) = dir.path().parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // The directory may have been made just now.
        LogDir::open(parent)?.sync()?;
    }
    let log = rand::random();
    let file = segment::prepare(dir.path(), segment_bytes, || true)?;
    let header = SegmentHeader { log, first_sequence: 0 };
    let path = segment::publish(dir, &file, header)?;
    let used = segment::HEADER as u64;
    let active = Arc::new(Segment::new(0, 0, path, file, segment_bytes, used));
    Ok(Recovered::empty(log, active))
}
