//! [`Ticket`]: arbitrates between proposing and withdrawing a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

/// Arbitrates atomically between the proposing task and a waiter giving up: a waiter may report "not applied" only if
/// the task can never propose the operations afterwards.
#[derive(Debug, Clone)]
pub(super) struct Ticket(Arc<AtomicU8>);

/// In no proposal with a possible effect.
const WAITING: u8 = 0;
/// In a proposal in flight.
const PROPOSED: u8 = 1;
/// The waiter has left; never to be proposed.
const WITHDRAWN: u8 = 2;

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// Called before the request goes into a proposal; `false` = the waiter has left, do not propose.
    pub(super) fn mark_proposed(&self) -> bool {
        self.change(WAITING, PROPOSED)
    }

    /// Called after the proposal was definitely not applied: the request may be withdrawn again.
    pub(super) fn mark_waiting(&self) {
        self.change(PROPOSED, WAITING);
    }

    /// Withdraws the request. `true` = not applied, now or later.
    fn withdraw(&self) -> bool {
        self.change(WAITING, WITHDRAWN)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Waits for the result of a proposed request. Dropping the waiter withdraws the request unless already proposed.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    ticket: Ticket,
    reply: oneshot::Receiver<T>,
}

impl<T> Waiter<T> {
    pub(super) fn new(ticket: Ticket, reply: oneshot::Receiver<T>) -> Self {
        Self { ticket, reply }
    }

    /// The answer; `None` if the task ended without an answer.
    pub(super) async fn answer(&mut self) -> Option<T> {
        (&mut self.reply).await.ok()
    }

    /// The answer, if already available.
    pub(super) fn try_answer(&mut self) -> Option<T> {
        self.reply.try_recv().ok()
    }

    /// Withdraws the request. `true` = not applied, now or later.
    pub(super) fn give_up(&self) -> bool {
        self.ticket.withdraw()
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        // The client disconnected: a request not yet proposed is cancelled.
        self.give_up();
    }
}
