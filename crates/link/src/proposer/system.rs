//! [`Systems`]: system commands in flight, outside any session.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::SystemAnswer;
use tokio::sync::oneshot;

use super::batch::Progress;
use super::ticket::{Ticket, Waiter};
use super::unknown;
use crate::backoff::Backoff;

/// First backoff before a command is proposed again.
const FIRST_WAIT: Duration = Duration::from_millis(5);
/// Longest backoff before a command is proposed again: a fraction of an election.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// The result of a system command.
pub(super) type SystemReply = Result<SystemAnswer, BackendError>;

/// A system command with the waiting caller.
///
/// Not part of a session: the command contains the expected state, so a repeat is harmless and needs no sequence
/// number.
#[derive(Debug)]
pub(super) struct SystemRequest {
    payload: Bytes,
    deadline: Instant,
    ticket: Ticket,
    reply: oneshot::Sender<SystemReply>,
}

impl SystemRequest {
    pub(super) fn new(payload: Bytes, deadline: Instant) -> (Self, Waiter<SystemReply>) {
        let ticket = Ticket::new();
        let (reply, receiver) = oneshot::channel();
        let waiter = Waiter::new(ticket.clone(), receiver);
        (Self { payload, deadline, ticket, reply }, waiter)
    }
}

/// A command in flight.
#[derive(Debug)]
struct Call {
    request: SystemRequest,
    progress: Progress,
    /// An earlier send had no definite answer: the command may be in the log.
    maybe_applied: bool,
    backoff: Backoff,
}

/// All commands without an answer. Few: the proposer limits the number.
#[derive(Debug, Default)]
pub(super) struct Systems {
    calls: Vec<Call>,
}

impl Systems {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Queues a command for immediate sending.
    pub(super) fn push(&mut self, request: SystemRequest, now: Instant) {
        let progress = Progress::Resend { not_before: now };
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        self.calls.push(Call { request, progress, maybe_applied: false, backoff });
    }

    /// The times of scheduled resends.
    pub(super) fn next_due(&self) -> impl Iterator<Item = Instant> + '_ {
        self.calls.iter().filter_map(|call| match call.progress {
            Progress::Resend { not_before } => Some(not_before),
            Progress::Sent { .. } => None,
        })
    }

    /// Sends each due command with `send`, which returns the proposal id and the time the answer is due.
    pub(super) fn dispatch(&mut self, now: Instant, mut send: impl FnMut(Bytes, Instant) -> Option<(u64, Instant)>) {
        self.calls.retain_mut(|call| {
            let Progress::Resend { not_before } = call.progress else { return true };
            if now >= call.request.deadline || call.request.reply.is_closed() {
                return false;
            }
            if now < not_before {
                return true;
            }
            // After a send with unknown outcome the command cannot be withdrawn any more.
            if !call.maybe_applied && !call.request.ticket.mark_proposed() {
                return false;
            }
            match send(call.request.payload.clone(), call.request.deadline) {
                Some((id, answer_by)) => call.progress = Progress::Sent { id, answer_by },
                None => call.refused(now),
            }
            true
        });
    }

    /// Whether a command was sent under `id`.
    pub(super) fn is_sent_as(&self, id: u64) -> bool {
        self.position(id).is_some()
    }

    /// Answers the waiter of the command sent under `id`.
    pub(super) fn answer(&mut self, id: u64, reply: SystemReply) {
        if let Some(at) = self.position(id) {
            // The waiter may have left.
            let _ = self.calls.swap_remove(at).request.reply.send(reply);
        }
    }

    /// Rejects the command sent under `id` without a resend; the waiter gets the reason.
    pub(super) fn reject(&mut self, id: u64, reason: String) {
        if let Some(at) = self.position(id) {
            // A node of another version may have accepted an earlier send.
            let reply = if self.calls[at].maybe_applied { unknown(&reason) } else { BackendError::Rejected(reason) };
            self.answer(id, Err(reply));
        }
    }

    /// The command sent under `id` was definitely not applied by the last send; schedules a resend.
    pub(super) fn on_refused(&mut self, id: u64, now: Instant) {
        if let Some(at) = self.position(id) {
            self.calls[at].refused(now);
        }
    }

    /// The outcome of the command sent under `id` is unknown; schedules a resend.
    pub(super) fn on_unknown(&mut self, id: u64, now: Instant) {
        if let Some(at) = self.position(id) {
            self.calls[at].lost(now);
        }
    }

    /// The stream broke: the outcome of all sent commands is unknown.
    pub(super) fn on_lost(&mut self, now: Instant) {
        self.calls
            .iter_mut()
            .filter(|call| matches!(call.progress, Progress::Sent { .. }))
            .for_each(|call| call.lost(now));
    }

    /// Drops commands without a waiter, and schedules a resend of commands with an overdue answer.
    pub(super) fn expire(&mut self, now: Instant) {
        self.calls.retain_mut(|call| {
            if let Progress::Sent { answer_by, .. } = call.progress
                && now >= answer_by
            {
                call.lost(now);
            }
            now < call.request.deadline && !call.request.reply.is_closed()
        });
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.calls.iter().position(|call| matches!(call.progress, Progress::Sent { id: sent, .. } if sent == id))
    }
}

impl Call {
    fn refused(&mut self, now: Instant) {
        if !self.maybe_applied {
            self.request.ticket.mark_waiting();
        }
        self.progress = Progress::Resend { not_before: now + self.backoff.wait() };
    }

    fn lost(&mut self, now: Instant) {
        self.maybe_applied = true;
        self.refused(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(systems: &mut Systems, now: Instant) -> Option<Bytes> {
        let mut seen = None;
        systems.dispatch(now, |payload, deadline| {
            seen = Some(payload);
            Some((7, deadline))
        });
        seen
    }

    #[test]
    fn a_command_is_repeated_after_a_lost_answer_and_can_then_not_be_withdrawn() {
        let now = Instant::now();
        let mut systems = Systems::default();
        let (request, mut waiter) = SystemRequest::new(Bytes::from_static(b"x"), now + Duration::from_secs(5));
        systems.push(request, now);
        assert!(sent(&mut systems, now).is_some() && sent(&mut systems, now).is_none(), "once");
        systems.on_lost(now);
        assert!(sent(&mut systems, now).is_none(), "not at once");
        assert!(sent(&mut systems, now + LONGEST_WAIT).is_some());
        systems.on_refused(7, now);
        assert!(!waiter.give_up(), "the first send may be in the log");
        assert!(sent(&mut systems, now + LONGEST_WAIT).is_some());
        systems.answer(7, Ok(SystemAnswer::Done));
        assert_eq!(waiter.try_answer(), Some(Ok(SystemAnswer::Done)));
        assert!(systems.is_empty());
    }

    #[test]
    fn a_refused_command_can_be_withdrawn_and_is_then_never_sent() {
        let now = Instant::now();
        let mut systems = Systems::default();
        let (request, waiter) = SystemRequest::new(Bytes::new(), now + Duration::from_secs(5));
        systems.push(request, now);
        assert!(sent(&mut systems, now).is_some() && !waiter.give_up());
        systems.on_refused(7, now);
        assert!(waiter.give_up(), "definitely not applied");
        assert!(sent(&mut systems, now + LONGEST_WAIT).is_none() && systems.is_empty());
    }

    #[test]
    fn a_command_that_no_group_takes_is_answered_at_once() {
        let now = Instant::now();
        let why = || "the revision is too high".to_owned();
        let mut systems = Systems::default();
        let (request, mut waiter) = SystemRequest::new(Bytes::from_static(b"x"), now + Duration::from_secs(5));
        systems.push(request, now);
        assert!(sent(&mut systems, now).is_some());
        systems.reject(7, why());
        assert_eq!(waiter.try_answer(), Some(Err(BackendError::Rejected(why()))));
        assert!(systems.is_empty());

        let (request, mut waiter) = SystemRequest::new(Bytes::from_static(b"x"), now + Duration::from_secs(5));
        systems.push(request, now);
        assert!(sent(&mut systems, now).is_some());
        systems.on_lost(now);
        assert!(sent(&mut systems, now + LONGEST_WAIT).is_some());
        systems.reject(7, why());
        let answer = waiter.try_answer();
        assert!(matches!(answer, Some(Err(BackendError::OutcomeUnknown(_)))), "the first send: {answer:?}");
    }

    #[test]
    fn what_is_late_or_alone_is_forgotten() {
        let now = Instant::now();
        let mut systems = Systems::default();
        let (late, _waiter) = SystemRequest::new(Bytes::new(), now);
        let (alone, waiter) = SystemRequest::new(Bytes::new(), now + Duration::from_secs(5));
        systems.push(late, now);
        systems.push(alone, now);
        drop(waiter);
        systems.expire(now);
        assert!(systems.is_empty());
    }
}
