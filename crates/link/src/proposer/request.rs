//! [`Request`]: the operations of one writer and the waiting caller.

use std::time::Instant;

use raftkv_backend::BackendError;
use raftkv_kv::{Command, Op, Outcome};
use tokio::sync::oneshot;

use super::ticket::{Ticket, Waiter};

/// Maximum encoding overhead of an operation, without key and value.
const OP_OVERHEAD_BYTES: usize = 64;

/// The result of a request.
pub(super) type Reply = Result<Vec<Outcome>, BackendError>;

/// Operations applied together, with the waiting caller. Dropping the waiter withdraws the request unless already
/// proposed.
#[derive(Debug)]
pub(super) struct Request {
    ops: Vec<Op>,
    bytes: usize,
    since: Instant,
    deadline: Instant,
    ticket: Ticket,
    reply: oneshot::Sender<Reply>,
}

impl Request {
    pub(super) fn new(ops: Vec<Op>, bytes: usize, deadline: Instant) -> (Self, Waiter<Reply>) {
        let ticket = Ticket::new();
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter::new(ticket.clone(), receiver);
        (Self { ops, bytes, since: Instant::now(), deadline, ticket, reply: sender }, waiter)
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether all operations are deletes, still accepted on a nearly full disk.
    pub(super) fn only_deletes(&self) -> bool {
        self.ops.iter().all(|op| matches!(op.command, Command::Delete { .. }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Arrival time.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Called before the request goes into a proposal; `false` = the waiter has left, do not propose.
    pub(super) fn mark_proposed(&self) -> bool {
        self.ticket.mark_proposed()
    }

    /// Called after the proposal was definitely not applied: the request may be withdrawn again.
    pub(super) fn mark_waiting(&self) {
        self.ticket.mark_waiting();
    }

    /// Whether the waiter has left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers the waiter, if still present.
    pub(super) fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }
}

/// Approximate size of an operation in a proposal, in bytes.
pub fn weight(op: &Op) -> usize {
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

    fn request() -> (Request, Waiter<Reply>) {
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
