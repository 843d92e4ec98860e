//! [`Ticket`]: who decides whether something may still be proposed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

/// Decides, once, between the task that proposes and the waiter that gives up: a waiter may only say "not applied"
/// when the task can never propose its operations afterwards.
#[derive(Debug, Clone)]
pub(super) struct Ticket(Arc<AtomicU8>);

/// In no proposal that may have been applied.
const WAITING: u8 = 0;
/// In a proposal under way.
const PROPOSED: u8 = 1;
/// Its waiter has left; never to be proposed.
const WITHDRAWN: u8 = 2;

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// Called before it goes into a proposal; `false` = its waiter has left, it must not.
    pub(super) fn mark_proposed(&self) -> bool {
        self.change(WAITING, PROPOSED)
    }

    /// Called when its proposal was definitely not applied: it may be withdrawn again.
    pub(super) fn mark_waiting(&self) {
        self.change(PROPOSED, WAITING);
    }

    /// Withdraws it. `true` = it has not been applied and never will be.
    fn withdraw(&self) -> bool {
        self.change(WAITING, WITHDRAWN)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Who waits for what becomes of something proposed. Dropping it withdraws that if it was not proposed yet.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    ticket: Ticket,
    reply: oneshot::Receiver<T>,
}

impl<T> Waiter<T> {
    pub(super) fn new(ticket: Ticket, reply: oneshot::Receiver<T>) -> Self {
        Self { ticket, reply }
    }

    /// The answer; `None` when the task ended without one.
    pub(super) async fn answer(&mut self) -> Option<T> {
        (&mut self.reply).await.ok()
    }

    /// The answer, if it is there already.
    pub(super) fn try_answer(&mut self) -> Option<T> {
        self.reply.try_recv().ok()
    }

    /// Withdraws the request. `true` = it has not been applied and never will be.
    pub(super) fn give_up(&self) -> bool {
        self.ticket.withdraw()
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        // A client that hung up: whatever was not begun is not begun any more.
        self.give_up();
    }
}
