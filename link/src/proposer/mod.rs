//! [`Proposer`]: turns many writers' operations into few proposals, each applied exactly once.

mod batch;
mod request;
mod session;
mod task;

use std::time::{Duration, Instant};

use raftkv_api::BackendError;
use raftkv_kv::{Op, Outcome};
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::budget::Budget;
use crate::stream_link::StreamLink;
use crate::trouble::Trouble;

use request::{Request, Waiter};
use task::Task;

/// Batches under way at once. Every batch costs each node the same, whatever its size: with one under way, all who come
/// meanwhile share the next, and other engines' batches keep the log busy. More made batches smaller and throughput less.
pub const MAX_BATCHES_IN_FLIGHT: usize = 1;
/// Operations packed into one batch: bounds how long applying one log entry takes.
pub const MAX_BATCH_OPS: usize = 1_024;
/// Bytes packed into one batch: bounds the log entry.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Writers that may wait for an answer; the next one is told to come back. More than the connections that are served
/// by default, so that it is memory that is bounded, not concurrency.
pub const MAX_WAITING_REQUESTS: usize = 16 * 1024;
/// Bytes of operations that may wait for an answer.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// When a writer that was turned away should come back: a full queue is answered within a fraction of it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Proposes operations through the sidecar. Cloning shares the queue.
///
/// Operations that wait are packed into batches; a batch leaves as soon as fewer than [`MAX_BATCHES_IN_FLIGHT`] are
/// under way, so a lone writer never waits for company and batches grow by themselves under load. Each batch carries a
/// session and a sequence number, so repeating it after a lost answer does not apply it twice.
#[derive(Debug, Clone)]
pub struct Proposer {
    queue: mpsc::UnboundedSender<Request>,
    requests: Budget,
    bytes: Budget,
    trouble: Trouble,
}

impl Proposer {
    /// Starts the task behind it, which owns `proposals`.
    ///
    /// After `stop` nothing is taken any more; what was taken gets up to `grace` to finish, then the task ends.
    pub fn start(
        proposals: StreamLink<ProposeRequest, ProposeResponse>,
        stop: Shutdown,
        grace: Duration,
    ) -> (Self, JoinHandle<()>) {
        let (queue, requests) = mpsc::unbounded_channel();
        let trouble = Trouble::default();
        let task = Task::new(proposals, requests, trouble.clone());
        let handle = tokio::spawn(task.run(stop, grace));
        let requests = Budget::new(MAX_WAITING_REQUESTS);
        (Self { queue, requests, bytes: Budget::new(MAX_WAITING_BYTES), trouble }, handle)
    }

    /// Applies the operations in order, in one log entry; one outcome per operation.
    ///
    /// Returns by the deadline. On any error but [`BackendError::OutcomeUnknown`] nothing is applied, now or later.
    pub async fn propose(&self, ops: Vec<Op>, deadline: Instant) -> Result<Vec<Outcome>, BackendError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = ops.iter().map(request::weight).sum();
        // Held until the answer: what is in flight needs memory, too.
        let (Some(_request), Some(_bytes)) = (self.requests.take(1), self.bytes.take(bytes)) else {
            metrics::counter!("raftkv_engine_writes_shed_total").increment(1);
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (request, mut waiter) = Request::new(ops, bytes, deadline);
        if self.queue.send(request).is_err() {
            return Err(BackendError::ShuttingDown);
        }
        match tokio::time::timeout_at(deadline.into(), waiter.answer()).await {
            Ok(Some(answer)) => answer,
            Ok(None) if waiter.give_up() => Err(BackendError::ShuttingDown),
            Ok(None) => Err(unknown("the node stopped before the answer came")),
            Err(_) => self.too_late(waiter),
        }
    }

    fn too_late(&self, mut waiter: Waiter) -> Result<Vec<Outcome>, BackendError> {
        if waiter.give_up() {
            return Err(BackendError::Unavailable(self.trouble.explain("the write could not be proposed in time")));
        }
        // The answer may have come in this very moment.
        waiter.try_answer().unwrap_or_else(|| Err(unknown("no answer before the deadline")))
    }
}

fn unknown(why: &str) -> BackendError {
    BackendError::OutcomeUnknown(format!("{why}; the write may have been applied, or may still be"))
}
