//! [`Seat`]: who applies is one at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use raftkv_kv::ProposalRef;
use tokio::sync::{mpsc, oneshot};

use super::applier::{Applier, Ended, Reply};
use super::{Applied, ApplyEntry, ApplyError, EntryKind, Position, StoreError};

/// Requests up to here are applied where they come from, if nothing else is under way: that takes some microseconds, and waking the
/// thread takes more. Beyond it, and where it could wait for a flush, the thread is for that.
const SMALL_BYTES: usize = 2_048;
/// And at most this many entries: each may have to remove what has expired.
const SMALL_ENTRIES: usize = 2;

/// What the thread is asked to do, in order.
pub(super) enum Job {
    Apply { entries: Vec<ApplyEntry>, reply: Reply },
    Activate { token: u64, reply: oneshot::Sender<Result<Position, StoreError>> },
    Stop,
}

/// Where the one [`Applier`] is found by whoever is next: the apply thread, or who brings a small request and finds nothing before it.
pub(super) struct Seat {
    /// `None` once nothing is applied any more.
    applier: Mutex<Option<Applier>>,
    /// Jobs that were handed to the thread and are not done.
    jobs: AtomicUsize,
}

impl Seat {
    pub(super) fn new(applier: Applier) -> Self {
        Self { applier: Mutex::new(Some(applier)), jobs: AtomicUsize::new(0) }
    }

    /// To be called before a job is handed to the thread.
    pub(super) fn expect_job(&self) {
        self.jobs.fetch_add(1, Ordering::AcqRel);
    }

    /// Works through the jobs until it is told to stop, every handle is gone, or the state could not be changed.
    pub(super) fn run(&self, mut jobs: mpsc::Receiver<Job>) {
        let mut held = None;
        loop {
            let Some(job) = held.take().or_else(|| jobs.blocking_recv()) else { break };
            let mut seat = self.lock();
            let Some(applier) = seat.as_mut() else { return };
            let mut done = 1;
            let outcome = match job {
                Job::Stop => Err(Ended),
                Job::Activate { token, reply } => {
                    // Nobody waiting is no reason not to have done it.
                    let _ = reply.send(applier.activate(token));
                    Ok(())
                }
                Job::Apply { entries, reply } => applier
                    .round((entries, reply), &mut Jobs { queue: Some(&mut jobs), held: &mut held, taken: &mut done }),
            };
            if outcome.is_err() {
                break;
            }
            // Before the seat is free: who finds it so and no jobs comes after these.
            self.jobs.fetch_sub(done, Ordering::AcqRel);
        }
        *self.lock() = None;
    }

    /// Applies a small request at once, where nothing is before it. Gives the request back where it is for the thread.
    pub(super) fn apply_small(&self, entries: Vec<ApplyEntry>) -> Result<Result<Applied, ApplyError>, Vec<ApplyEntry>> {
        if !is_small(&entries) || self.jobs.load(Ordering::Acquire) > 0 {
            return Err(entries);
        }
        let mut seat = match self.applier.try_lock() {
            Ok(seat) => seat,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(entries),
        };
        // Asked again: what was handed to the thread meanwhile comes first.
        match seat.as_mut() {
            Some(applier) if self.jobs.load(Ordering::Acquire) == 0 && applier.has_room() => {
                let (reply, mut answer) = oneshot::channel();
                let ended = applier.round((entries, reply), &mut Jobs { queue: None, held: &mut None, taken: &mut 0 });
                if ended.is_err() {
                    *seat = None;
                }
                Ok(answer.try_recv().unwrap_or(Err(ApplyError::Stopped)))
            }
            _ => Err(entries),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Applier>> {
        // A panic ends the process.
        self.applier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_small(entries: &[ApplyEntry]) -> bool {
    let all = || entries.iter().flat_map(payloads);
    // A few bytes of a system command can stand for a lot of work.
    let is_no_batch = |payload: &Bytes| !matches!(ProposalRef::decode(payload), Ok(ProposalRef::Batch(_)));
    entries.len() <= SMALL_ENTRIES && all().map(Bytes::len).sum::<usize>() <= SMALL_BYTES && !all().any(is_no_batch)
}

fn payloads(entry: &ApplyEntry) -> &[Bytes] {
    match &entry.kind {
        EntryKind::Payload(payload) => std::slice::from_ref(payload),
        EntryKind::Payloads(payloads) => payloads,
        EntryKind::Membership(_) | EntryKind::Blank => &[],
    }
}

/// What waits behind the request that is being applied.
pub(super) struct Jobs<'a> {
    queue: Option<&'a mut mpsc::Receiver<Job>>,
    held: &'a mut Option<Job>,
    taken: &'a mut usize,
}

impl Jobs<'_> {
    /// The next request, if it waits already.
    pub(super) fn next_request(&mut self) -> Option<(Vec<ApplyEntry>, Reply)> {
        match self.queue.as_mut()?.try_recv() {
            Ok(Job::Apply { entries, reply }) => {
                *self.taken += 1;
                Some((entries, reply))
            }
            Ok(other) => {
                *self.held = Some(other);
                None
            }
            Err(_) => None,
        }
    }
}
