//! The operations waiting for the writer.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::WalError;
use super::record::{Ballot, Entry, Position};

/// Called once an operation is durable, or never will be. It runs on the writer's thread and must not block.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// What an operation changes.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<Entry>),
    Vote(Ballot),
    Truncate(Option<Position>),
    Purge(Position),
}

/// An operation on its way to disk.
pub(super) struct Operation {
    /// Counted up from 1 in the order of the changes.
    pub(super) number: u64,
    pub(super) change: Change,
    pub(super) done: Option<Done>,
    pub(super) bytes: usize,
}

/// What the writer makes one frame of.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) operations: Vec<Operation>,
    /// The committed position, when it changed. It rides along and costs no fsync of its own.
    pub(super) committed: Option<Option<Position>>,
}

/// The operations waiting for the writer, in order.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
    room: Notify,
}

#[derive(Default)]
struct Inner {
    operations: VecDeque<Operation>,
    bytes: usize,
    committed: Option<Option<Position>>,
    /// Why nothing more is taken.
    refused: Option<WalError>,
}

impl Queue {
    /// Adds an operation, whatever is waiting already: see [`Queue::room`].
    pub(super) fn push(&self, operation: Operation) {
        let mut inner = self.lock();
        inner.bytes += operation.bytes;
        inner.operations.push_back(operation);
        drop(inner);
        self.ready.notify_one();
    }

    /// Has the committed position written with the next frame. Does not wake the writer.
    pub(super) fn set_committed(&self, committed: Option<Position>) {
        self.lock().committed = Some(committed);
    }

    /// Why nothing more is taken, if so.
    pub(super) fn refused(&self) -> Option<WalError> {
        self.lock().refused.clone()
    }

    /// Waits until less than `limit` bytes are waiting, or nothing more is taken.
    pub(super) async fn room(&self, limit: usize) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            // Registered before looking, so that no wake-up between the two is lost.
            notified.as_mut().enable();
            {
                let inner = self.lock();
                if inner.bytes < limit || inner.refused.is_some() {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Waits for operations and takes those of the next frame: all, or as many as reach `limit` bytes. `None` when the queue is
    /// closed and empty.
    pub(super) fn take(&self, limit: usize) -> Option<Batch> {
        let mut inner = self.lock();
        while inner.operations.is_empty() {
            if inner.refused.is_some() {
                // The last frame: a position that was waiting for one to ride on.
                return inner
                    .committed
                    .take()
                    .map(|committed| Batch { operations: Vec::new(), committed: Some(committed) });
            }
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < limit
            && let Some(operation) = inner.operations.pop_front()
        {
            bytes += operation.bytes;
            batch.operations.push(operation);
        }
        inner.bytes -= bytes;
        if inner.operations.is_empty() {
            // Only now is the entry it names sure to be in this frame or before.
            batch.committed = inner.committed.take();
        }
        drop(inner);
        self.room.notify_waiters();
        Some(batch)
    }

    /// Takes nothing more. What is waiting is still written.
    pub(super) fn close(&self) {
        self.lock().refused.get_or_insert(WalError::Closed);
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// Takes nothing more because of `error`, and returns what was waiting: it will not be written.
    pub(super) fn poison(&self, error: &Arc<WalError>) -> Vec<Operation> {
        let mut inner = self.lock();
        inner.refused = Some(WalError::Poisoned(Arc::clone(error)));
        inner.committed = None;
        inner.bytes = 0;
        let waiting = inner.operations.drain(..).collect();
        drop(inner);
        self.room.notify_waiters();
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
