//! [`Request`]: one writer's operations, and the writer who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use raftkv_api::BackendError;
use raftkv_kv::{Command, Op, Outcome};
use tokio::sync::oneshot;

/// Encoding around the key and value of an operation, at most.
const OP_OVERHEAD_BYTES: usize = 64;

/// What became of a request.
pub(super) type Reply = Result<Vec<Outcome>, BackendError>;

/// Operations that are to be applied together, and whom to tell.
#[derive(Debug)]
pub(super) struct Request {
    ops: Vec<Op>,
    bytes: usize,
    deadline: Instant,
    ticket: Arc<Ticket>,
    reply: oneshot::Sender<Reply>,
}

/// The other end of a [`Request`]. Dropping it withdraws the request if it was not proposed yet.
#[derive(Debug)]
pub(super) struct Waiter {
    ticket: Arc<Ticket>,
    reply: oneshot::Receiver<Reply>,
}

/// Decides, once, between the task that proposes and the waiter that gives up: a waiter may only say "not applied"
/// when the task can never propose its operations afterwards.
#[derive(Debug)]
struct Ticket(AtomicU8);

/// In no proposal that may have been applied.
const WAITING: u8 = 0;
/// In a proposal under way.
const PROPOSED: u8 = 1;
/// Its waiter has left; never to be proposed.
const WITHDRAWN: u8 = 2;

impl Ticket {
    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Request {
    pub(super) fn new(ops: Vec<Op>, bytes: usize, deadline: Instant) -> (Self, Waiter) {
        let ticket = Arc::new(Ticket(AtomicU8::new(WAITING)));
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter { ticket: Arc::clone(&ticket), reply: receiver };
        (Self { ops, bytes, deadline, ticket, reply: sender }, waiter)
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Called before it goes into a proposal; `false` = its waiter has left, it must not.
    pub(super) fn mark_proposed(&self) -> bool {
        self.ticket.change(WAITING, PROPOSED)
    }

    /// Called when its proposal was definitely not applied: it may be withdrawn again.
    pub(super) fn mark_waiting(&self) {
        self.ticket.change(PROPOSED, WAITING);
    }

    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Tells the waiter, if it is still there.
    pub(super) fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }
}

impl Waiter {
    /// The answer; `None` when the task ended without one.
    pub(super) async fn answer(&mut self) -> Option<Reply> {
        (&mut self.reply).await.ok()
    }

    /// The answer, if it is there already.
    pub(super) fn try_answer(&mut self) -> Option<Reply> {
        self.reply.try_recv().ok()
    }

    /// Withdraws the request. `true` = it has not been applied and never will be.
    pub(super) fn give_up(&self) -> bool {
        self.ticket.change(WAITING, WITHDRAWN)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A client that hung up: whatever was not begun is not begun any more.
        self.give_up();
    }
}

/// About the bytes an operation needs in a proposal.
pub(super) fn weight(op: &Op) -> usize {
    let value = match &op.command {
        Command::Set { value, .. } => value.as_msgpack().len(),
        Command::Delete { .. } => 0,
    };
    let idempotency = op.idempotency.as_ref().map_or(0, |idempotency| idempotency.key.len());
    op.command.key().as_bytes().len() + value + idempotency + OP_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> (Request, Waiter) {
        Request::new(Vec::new(), 0, Instant::now())
    }

    #[test]
    fn a_waiter_that_left_before_is_never_proposed() {
        let (request, waiter) = request();
        assert!(waiter.give_up(), "certainly not applied");
        assert!(!request.mark_proposed());

        let (request, waiter) = self::request();
        drop(waiter);
        assert!(!request.mark_proposed() && request.is_abandoned());
    }

    #[test]
    fn a_waiter_that_leaves_while_it_is_proposed_cannot_say_that_it_was_not_applied() {
        let (request, waiter) = request();
        assert!(request.mark_proposed());
        assert!(!waiter.give_up());
        request.mark_waiting();
        assert!(waiter.give_up(), "the proposal was refused, so now it can");
    }
}
