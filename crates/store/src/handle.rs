//! [`Store`]: the handle.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use raftkv_backend::{Entry, ListRequest, Page};
use raftkv_kv::{Key, Ownership, SlotSet};
use raftkv_link::proposer::Shortcut;
use raftkv_proto::ClusterVersion;
use raftkv_runtime::exit;
use tokio::sync::{mpsc, oneshot, watch};

use super::applier::{self, Applier, Loaded};
use super::compactor::Compactor;
use super::directory::Directory;
use super::flusher::Flusher;
use super::generation::{Generation, OpenFailure};
use super::read::{Verified, View};
use super::room::Reclaimed;
use super::seat::{Job, Seat};
use super::shards::{Export, ExportError, ExportedPage};
use super::shared::Shared;
use super::snapshot::{self, SnapshotHeader, SnapshotPart, SnapshotReader};
use super::staged::Staged;
use super::{Applied, ApplyEntry, ApplyError, Fatal, Position, StateLimits, StoreError, StoreStatus};

/// Requests that may wait for the apply thread before the sender has to.
const APPLY_QUEUE: usize = 64;

/// Default of [`StoreOptions::cache_bytes`]. With two memtables it leaves an engine well below 400 MB.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Default of [`StoreOptions::memtable_bytes`].
const MEMTABLE_BYTES: usize = 32 * 1024 * 1024;

/// Called once when the store cannot go on; normally does not return.
pub type FatalHook = Box<dyn Fn(Fatal) + Send + Sync>;

/// How to open a [`Store`].
pub struct StoreOptions {
    /// Memory for blocks read from the disk.
    pub cache_bytes: u64,
    /// Changes are gathered in memory up to here before they become a table, and at most twice as many bytes of changes,
    /// counting those that others have replaced: what a restart after a crash has to apply again. There are up to two of
    /// them at a time. Never shows in the state.
    pub memtable_bytes: usize,
    /// What the replicated state keeps. The same on every replica.
    pub limits: StateLimits,
    /// How the proposer of this process hears of its batches, when it has one.
    pub shortcut: Option<Shortcut>,
    /// What to do when the store cannot go on. Ends the process by default; a test may record it instead, and then
    /// finds the store stopped.
    pub fatal: FatalHook,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            limits: StateLimits::default(),
            shortcut: None,
            fatal: Box::new(|fatal| exit::fatal(fatal.exit_code, fatal.message)),
        }
    }
}

/// The replicated state on disk. Cheap to clone; all clones are the same store.
///
/// What was applied is visible when [`apply`](Self::apply) returns, and survives a crash of the process or of the machine only after
/// [`persist`](Self::persist): the replicated log is the durability. After a crash the store stands where it was flushed last,
/// and the entries from there on are applied again.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    jobs: mpsc::Sender<Job>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// The last handle waits for what it does.
    _compactor: Arc<Compactor>,
}

/// The slot of a key was not served in the state that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotServed;

/// What there is at each of several keys. `Err`: the key's slot was not served.
pub type Many = Vec<Result<Option<Entry>, NotServed>>;

/// A request that is on its way through the apply thread.
pub struct Ticket(Way);

enum Way {
    /// The apply thread answers.
    Thread(oneshot::Receiver<Result<Applied, ApplyError>>),
    /// It was a small one, and is done.
    Done(Result<Applied, ApplyError>),
}

impl Ticket {
    /// Waits until it is applied.
    pub async fn wait(self) -> Result<Applied, ApplyError> {
        match self.0 {
            Way::Thread(answer) => answer.await.unwrap_or(Err(ApplyError::Stopped)),
            Way::Done(result) => result,
        }
    }
}

impl Store {
    /// Opens the store in `dir`, and creates it where there is none. Blocks.
    ///
    /// A damaged state is put aside, and the store begins empty, at position 0, so that a snapshot of the group can be
    /// installed. Anything else that is wrong is an error and changes nothing.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { cache_bytes, memtable_bytes, limits, shortcut, fatal } = options;
        let directory = Directory::open(dir)?;
        let current = directory.current()?;
        let staged = Staged::found(&directory, current)?;
        let kept: Vec<u64> = current.into_iter().chain(staged.as_ref().map(|staged| staged.token)).collect();
        directory.remove_others(&kept)?;
        let (live, loaded) = open_live(&directory, current, cache_bytes)?;
        let shared = Arc::new(Shared::new(directory, live, staged, limits, cache_bytes, shortcut, fatal));
        shared.drop_outdated();
        let not_started = |source| StoreError::Io { action: "start a thread for", path: dir.to_owned(), source };
        let compactor = Arc::new(Compactor::start(&shared).map_err(not_started)?);
        let flusher = Flusher::start(Arc::clone(&shared), memtable_bytes).map_err(not_started)?;
        let seat = Arc::new(Seat::new(Applier::new(Arc::clone(&shared), loaded, flusher)));
        let (jobs, queue) = mpsc::channel(APPLY_QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-apply".to_owned())
            .spawn({
                let seat = Arc::clone(&seat);
                move || seat.run(queue)
            })
            .map_err(not_started)?;
        Ok(Self { shared, seat, jobs, thread: Arc::new(Mutex::new(Some(thread))), _compactor: compactor })
    }

    /// Stops the apply thread after what is queued, waits for it, and flushes what is in memory only, so that the next start has
    /// nothing to apply again. Blocks on the disk. Reads go on until the last handle is gone.
    pub fn close(&self) {
        self.shared.begin_closing();
        self.seat.expect_job();
        // A full queue is waited for; a thread that is gone needs no message.
        let _ = self.jobs.blocking_send(Job::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the apply thread had panicked");
            return;
        }
        if !self.shared.is_stopped()
            && let Err(error) = self.shared.live().flush()
        {
            tracing::warn!(%error, "the state could not be flushed; the next start applies what is missing again");
        }
    }

    /// How far it has applied.
    pub fn position(&self) -> Position {
        self.shared.live().now().meta.position.clone()
    }

    /// The index of the next entry, as it moves: everything below is visible to reads. It moves back when a damaged
    /// state was put aside and never otherwise.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// The cluster version in the state.
    pub fn version(&self) -> ClusterVersion {
        self.shared.live().now().meta.version
    }

    /// The revision counter: the number of effective operations since the group began.
    pub fn revision(&self) -> u64 {
        self.shared.live().now().meta.revision
    }

    /// The group's clock in the state, in milliseconds.
    pub fn clock_ms(&self) -> u64 {
        self.shared.live().now().meta.clock_ms
    }

    /// When the first thing in the state ends by that clock, or earlier; 0 = nothing ends.
    pub fn next_deadline_ms(&self) -> u64 {
        self.shared.next_deadline_ms.load(Ordering::Acquire)
    }

    /// The number of values.
    pub fn keys(&self) -> u64 {
        self.shared.live().now().meta.keys
    }

    /// A number that is the same on all replicas at the same position, and differs as soon as any record does.
    pub fn state_hash(&self) -> u64 {
        self.shared.live().now().meta.state_hash()
    }

    /// What the group owns, as of what is applied.
    pub fn ownership(&self) -> Arc<Ownership> {
        self.shared.live().ownership()
    }

    /// Reads one key. Mostly from memory; at worst a few blocks from the disk.
    ///
    /// # Errors
    /// [`StoreError::WrongGroup`] when the key's slot was not served in the state that was read.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(|live| live.get(key))
    }

    /// Reads several keys, all as of one moment. `None` where keys and values have more than `max_bytes` together.
    pub fn get_many(&self, keys: &[Key], max_bytes: usize) -> Result<Option<Many>, StoreError> {
        self.read(|live| live.get_many(keys, max_bytes))
    }

    /// Reads a page of keys, all as of one moment, without those of slots that are not served. It may end early, and says so,
    /// where thousands of keys in its range were removed just now. Blocks on the disk.
    pub fn list(&self, request: &ListRequest) -> Result<Page, StoreError> {
        self.list_served(request).map(|(page, _)| page)
    }

    /// [`list`](Self::list), and the slots that were served.
    pub fn list_served(&self, request: &ListRequest) -> Result<(Page, SlotSet), StoreError> {
        let (page, served) = self.read(|live| live.list(request))?;
        Ok((page, served.unwrap_or_else(SlotSet::all)))
    }

    /// Reads a system key: its version and document.
    pub fn system_key(&self, name: &[u8]) -> Result<Option<(u64, Bytes)>, StoreError> {
        self.read(|live| live.system_key(name))
    }

    /// Reads a page of the export that is under way. Blocks on the disk.
    pub fn export(&self, export: &Export) -> Result<ExportedPage, ExportError> {
        let live = self.shared.live();
        live.export(export).inspect_err(|error| {
            if let ExportError::Store(error) = error {
                self.shared.noticed(live.number, error);
            }
        })
    }

    /// Reads the live generation. Damage that is found ends the process: the next start puts the generation aside, and the
    /// group's other members give the state again.
    fn read<T>(&self, read: impl FnOnce(&Generation) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let live = self.shared.live();
        read(&live).inspect_err(|error| self.shared.noticed(live.number, error))
    }

    /// Reads the whole state and checks every record and all sums. Flushes it first. Blocks, for long.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        self.flushed()?.1.verify()
    }

    /// Free bytes of the file system the store is on. One system call.
    pub fn disk_free_bytes(&self) -> Result<u64, StoreError> {
        self.shared.directory.disk_free_bytes()
    }

    /// Figures for operators. Reads a few directories.
    pub fn status(&self) -> Result<StoreStatus, StoreError> {
        let live = self.shared.live();
        let meta = live.meta();
        Ok(StoreStatus {
            state_hash: meta.state_hash(),
            position: meta.position,
            version: meta.version,
            revision: meta.revision,
            keys: meta.keys,
            sessions: meta.sessions,
            idempotency_records: meta.idempotency,
            clock_ms: meta.clock_ms,
            disk_bytes: self.shared.directory.disk_bytes(),
            disk_free_bytes: self.disk_free_bytes()?,
            generation: live.number,
            ownership: live.ownership(),
        })
    }

    /// Applies committed entries in order and waits until reads see them. Entries applied before are skipped.
    pub async fn apply(&self, entries: Vec<ApplyEntry>) -> Result<Applied, ApplyError> {
        self.submit(entries).await?.wait().await
    }

    /// Queues committed entries; requests are applied in the order in which this returns. Waits while the queue is full. A small
    /// request with none before it is applied at once, which may read a few blocks from the disk.
    pub async fn submit(&self, entries: Vec<ApplyEntry>) -> Result<Ticket, ApplyError> {
        let entries = match self.seat.apply_small(entries) {
            Ok(result) => return Ok(Ticket(Way::Done(result))),
            Err(entries) => entries,
        };
        let room = self.jobs.reserve().await.map_err(|_| ApplyError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.seat.expect_job();
        room.send(Job::Apply { entries, reply });
        Ok(Ticket(Way::Thread(answer)))
    }

    /// [`apply`](Self::apply) for threads outside of a runtime.
    pub fn apply_blocking(&self, entries: Vec<ApplyEntry>) -> Result<Applied, ApplyError> {
        let entries = match self.seat.apply_small(entries) {
            Ok(result) => return result,
            Err(entries) => entries,
        };
        let (reply, ticket) = oneshot::channel();
        self.seat.expect_job();
        self.jobs.blocking_send(Job::Apply { entries, reply }).map_err(|_| ApplyError::Stopped)?;
        ticket.blocking_recv().unwrap_or(Err(ApplyError::Stopped))
    }

    /// Makes everything that is applied now durable and says up to where that is at least. Blocks. An error ends the
    /// process: what a failed fsync has lost, a second one does not bring back. Only [`StoreError::NoSpace`] changes nothing and
    /// can be tried again.
    pub fn persist(&self) -> Result<Position, StoreError> {
        if self.shared.is_stopped() {
            return Err(StoreError::Stopped);
        }
        let live = self.shared.live();
        let position = self.shared.flushed(&live, live.persist())?;
        self.shared.drop_outdated();
        Ok(position)
    }

    /// Bytes that are applied and in no table yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.shared.live().unwritten_bytes()
    }

    /// Whether what is applied cannot become durable, or tables cannot be compacted, for want of room on the disk.
    pub fn lacks_room(&self) -> bool {
        self.shared.lacks_room()
    }

    /// Gives back the space of what was removed, as far as the room that is left allows. Flushes first. Blocks, for as long as it
    /// takes to write the values between the removed ones again, but ends early once `goes_on` says no.
    pub fn reclaim(&self, goes_on: impl Fn() -> bool) -> Result<Reclaimed, StoreError> {
        if self.shared.is_ending() {
            return Err(StoreError::Stopped);
        }
        let live = self.shared.live();
        self.shared.flushed(&live, live.reclaim(|| goes_on() && !self.shared.is_ending()))
    }

    fn flushed(&self) -> Result<(Arc<Generation>, View), StoreError> {
        let live = self.shared.live();
        let view = self.shared.flushed(&live, live.flush())?;
        Ok((live, view))
    }

    /// The whole state of this moment as a stream. The reader blocks on the disk.
    pub fn snapshot_out(&self) -> Result<SnapshotReader, StoreError> {
        let (live, view) = self.flushed()?;
        Ok(SnapshotReader::new(Arc::clone(&self.shared), &live, view))
    }

    /// Receives a whole state, verifies it, makes it durable beside the live one and returns its token. Blocks as long
    /// as `next` does, which gives the parts and `None` once the stream has ended. On any error nothing is left behind.
    /// One at a time: a second caller waits. The token is good until the snapshot is activated, another one is staged or the
    /// live state is beyond its end, also after a restart.
    pub fn stage_snapshot(
        &self,
        header: &SnapshotHeader,
        next: impl FnMut() -> Option<SnapshotPart>,
    ) -> Result<u64, StoreError> {
        snapshot::stage(&self.shared, header, next)
    }

    /// Makes a staged snapshot the live state, atomically, also across a crash. Reads go on meanwhile. Refused when it
    /// is older than the live state. One that is damaged is removed, and the live state stays.
    pub async fn activate(&self, token: u64) -> Result<Position, StoreError> {
        let room = self.jobs.reserve().await.map_err(|_| StoreError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.seat.expect_job();
        room.send(Job::Activate { token, reply });
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }
}

/// Opens the live generation, or an empty one where there is none or the live one is damaged.
fn open_live(
    directory: &Directory,
    current: Option<u64>,
    cache_bytes: u64,
) -> Result<(Generation, Loaded), StoreError> {
    if let Some(number) = current {
        let opened = match directory.damage_of(number) {
            Some(why) => Err(OpenFailure::Damaged(why)),
            None => Generation::open(&directory.generation(number), number, cache_bytes)
                .and_then(|generation| Ok((applier::load(&generation.keyspace)?, generation))),
        };
        match opened {
            Ok((loaded, generation)) => {
                // Where CURRENT was missing and there was no doubt.
                directory.set_current(number)?;
                // Of a process that died when it had just made it the live one.
                directory.unmark_staged(number)?;
                return Ok((generation, loaded));
            }
            Err(OpenFailure::Other(error)) => return Err(error),
            Err(OpenFailure::Damaged(why)) => {
                let kept = directory.put_aside(number)?;
                tracing::error!(
                    generation = number,
                    kept = %kept.display(),
                    "THE STATE OF THIS NODE IS DAMAGED ({why}). It is put aside and this node begins empty, at position \
                     0: a snapshot from the other members of its group will be installed. Nothing acknowledged is lost \
                     as long as a majority of the group is whole"
                );
            }
        }
    }
    let number = directory.next_number()?;
    // What a crash may have left of an earlier attempt; a staged snapshot is not of it.
    let staged = directory.staged(None)?.map(|(staged, _)| staged);
    directory.remove_others(staged.as_slice())?;
    let generation = Generation::create(&directory.generation(number), number, cache_bytes)?;
    directory.set_current(number)?;
    Ok((generation, Loaded::default()))
}
