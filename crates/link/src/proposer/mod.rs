//! [`Proposer`]: packs operations of many writers into few proposals, each applied exactly once.

mod batch;
mod request;
mod session;
mod shortcut;
mod system;
mod task;
mod ticket;

use std::time::{Duration, Instant};

use raftkv_backend::BackendError;
use raftkv_kv::{Op, Outcome, Proposal, SystemAnswer, SystemCommand};
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::budget::Budget;
use crate::peer::Peer;
use crate::stream_link::StreamLink;
use crate::trouble::Trouble;

use request::Request;
pub use request::weight;
pub use shortcut::{AppliedHere, Shortcut, ShortcutEnd};
use system::SystemRequest;
use task::Task;
use ticket::Waiter;

/// Maximum batches in flight. The cost of a batch per node does not depend on the size: with one batch in flight, all
/// callers arriving meanwhile share the next batch, while batches of other engines keep the log busy. A higher limit
/// made batches smaller and reduced throughput.
pub const MAX_BATCHES_IN_FLIGHT: usize = 1;
/// Maximum operations in one batch; bounds the apply time of one log entry.
pub const MAX_BATCH_OPS: usize = 1_024;
/// Maximum bytes in one batch; bounds the size of the log entry.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Maximum callers waiting for an answer; further callers get a retry-after. Higher than the default connection limit,
/// to bound memory rather than concurrency.
pub const MAX_WAITING_REQUESTS: usize = 16 * 1024;
/// Maximum bytes of operations waiting for an answer.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Maximum system commands waiting for an answer: enough for the steps of one move and a few documents.
pub const MAX_WAITING_SYSTEM_COMMANDS: usize = 64;
/// Retry delay for a rejected caller: a full queue is answered within a fraction of the delay.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Proposes operations over a link. Cloning shares the queue.
///
/// Waiting operations are packed into batches. A batch is sent as soon as fewer than [`MAX_BATCHES_IN_FLIGHT`] are in
/// flight, so a single writer has no extra latency and batches grow under load. Each batch carries a session and a
/// sequence number, so a repeat after a lost answer is not applied twice.
#[derive(Debug, Clone)]
pub struct Proposer {
    queue: mpsc::UnboundedSender<Request>,
    system_queue: mpsc::UnboundedSender<SystemRequest>,
    requests: Budget,
    bytes: Budget,
    system_commands: Budget,
    peer: Peer,
    trouble: Trouble,
}

impl Proposer {
    /// Starts the background task with ownership of `proposals`.
    ///
    /// After `stop` new requests are rejected; accepted requests get up to `grace` to finish, then the task ends.
    pub fn start(
        proposals: StreamLink<ProposeRequest, ProposeResponse>,
        stop: Shutdown,
        grace: Duration,
    ) -> (Self, JoinHandle<()>) {
        Self::start_beside(Shortcut::default().end(), proposals, stop, grace)
    }

    /// Like [`start`](Self::start), for a process with a local state machine, which reports applied batches through
    /// `shortcut`.
    pub fn start_beside(
        shortcut: ShortcutEnd,
        proposals: StreamLink<ProposeRequest, ProposeResponse>,
        stop: Shutdown,
        grace: Duration,
    ) -> (Self, JoinHandle<()>) {
        let (queue, requests) = mpsc::unbounded_channel();
        let (system_queue, system_requests) = mpsc::unbounded_channel();
        let peer = proposals.peer().clone();
        let trouble = peer.trouble();
        let task = Task::new(proposals, shortcut, requests, system_requests, trouble.clone());
        let handle = tokio::spawn(task.run(stop, grace));
        let proposer = Self {
            queue,
            system_queue,
            requests: Budget::new(MAX_WAITING_REQUESTS),
            bytes: Budget::new(MAX_WAITING_BYTES),
            system_commands: Budget::new(MAX_WAITING_SYSTEM_COMMANDS),
            peer,
            trouble,
        };
        (proposer, handle)
    }

    /// Applies the operations in order, in one log entry; returns one outcome per operation.
    ///
    /// Returns by the deadline. On any error except [`BackendError::OutcomeUnknown`] no operation is applied, now or
    /// later.
    pub async fn propose(&self, ops: Vec<Op>, deadline: Instant) -> Result<Vec<Outcome>, BackendError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = ops.iter().map(request::weight).sum();
        // Held until the answer: in-flight requests also occupy memory.
        let (Some(_request), Some(_bytes)) = (self.requests.take(1), self.bytes.take(bytes)) else {
            self.peer.figures().shed.increment(1);
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (request, waiter) = Request::new(ops, bytes, deadline);
        if self.queue.send(request).is_err() {
            return Err(BackendError::ShuttingDown);
        }
        self.answer_of(waiter, deadline).await
    }

    /// Applies a system command, in a separate log entry and outside any session.
    ///
    /// The command is proposed again after a lost answer and may therefore be applied several times; every system
    /// command tolerates repeats. Returns by the deadline, with the errors of [`propose`](Self::propose). A refusal by
    /// the state machine is an answer.
    pub async fn system(&self, command: SystemCommand, deadline: Instant) -> Result<SystemAnswer, BackendError> {
        let Some(_share) = self.system_commands.take(1) else {
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (request, waiter) = SystemRequest::new(Proposal::System(command).encode(), deadline);
        if self.system_queue.send(request).is_err() {
            return Err(BackendError::ShuttingDown);
        }
        self.answer_of(waiter, deadline).await
    }

    async fn answer_of<T>(
        &self,
        mut waiter: Waiter<Result<T, BackendError>>,
        deadline: Instant,
    ) -> Result<T, BackendError> {
        match tokio::time::timeout_at(deadline.into(), waiter.answer()).await {
            Ok(Some(answer)) => answer,
            Ok(None) if waiter.give_up() => Err(BackendError::ShuttingDown),
            Ok(None) => Err(unknown("this process stopped before the answer came")),
            Err(_) if waiter.give_up() => {
                Err(BackendError::Unavailable(self.trouble.explain("no leader took the write in time")))
            }
            // The answer may have arrived at the same moment.
            Err(_) => {
                waiter.try_answer().unwrap_or_else(|| Err(unknown(&self.trouble.explain("no answer came in time"))))
            }
        }
    }
}

fn unknown(why: &str) -> BackendError {
    BackendError::OutcomeUnknown(format!("{why}; the write may have been applied, or may still be"))
}
