//! [`InFlight`]: a sent batch without an answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::{BatchRef, OpRef, Outcome, ProposalRef};
use raftkv_runtime::stage::Stage;

use super::request::Request;
use crate::backoff::Backoff;

/// First backoff before a batch is resent.
const FIRST_WAIT: Duration = Duration::from_millis(5);
/// Longest backoff before a batch is resent: a fraction of an election.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Send state of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Sent under `id`; the answer is expected by `answer_by`.
    Sent { id: u64, answer_by: Instant },
    /// To be resent, at `not_before` or later.
    Resend { not_before: Instant },
}

/// Operations of several requests under one sequence number.
///
/// After a send that may have reached the log, the bytes must not change: only a repeat of the same sequence is
/// deduplicated, and only until a later batch marks the sequence as acknowledged.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) progress: Progress,
    /// An earlier send had no definite answer: the batch may be in the log.
    pub(super) maybe_applied: bool,
    pub(super) payload: Bytes,
    pub(super) requests: Vec<Request>,
    /// The latest deadline of the requests.
    pub(super) deadline: Instant,
    /// Creation time; the first send is immediate.
    pub(super) since: Instant,
    backoff: Backoff,
}

impl InFlight {
    /// Encodes the operations of `requests` for immediate sending.
    pub(super) fn new(
        session: u64,
        sequence: u64,
        acknowledged_below: u64,
        requests: Vec<Request>,
        now: Instant,
    ) -> Self {
        let ops = requests.iter().flat_map(Request::ops).map(OpRef::from).collect();
        let payload = ProposalRef::Batch(BatchRef { session, sequence, acknowledged_below, ops }).encode();
        let deadline = requests.iter().map(Request::deadline).max().unwrap_or(now);
        if let Some(first) = requests.iter().map(Request::since).min() {
            Stage::Queue.took(now.saturating_duration_since(first));
        }
        let progress = Progress::Resend { not_before: now };
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        Self { session, sequence, progress, maybe_applied: false, payload, requests, deadline, since: now, backoff }
    }

    /// Number of operations in the batch.
    pub(super) fn ops(&self) -> usize {
        self.requests.iter().map(|request| request.ops().len()).sum()
    }

    /// Whether the batch was sent under `id` and waits for the answer.
    pub(super) fn is_sent_as(&self, id: u64) -> bool {
        matches!(self.progress, Progress::Sent { id: sent, .. } if sent == id)
    }

    /// Schedules a resend after the backoff.
    pub(super) fn resend_later(&mut self, now: Instant) {
        self.progress = Progress::Resend { not_before: now + self.backoff.wait() };
    }

    /// Marks the batch as sent with unknown outcome and schedules a resend.
    pub(super) fn lost(&mut self, now: Instant) {
        self.maybe_applied = true;
        self.resend_later(now);
    }

    /// Whether no caller would receive the answer. The sequence can then be given up: a copy still on the way is either
    /// applied before the next batch, as reported to the callers as possible, or stale afterwards.
    pub(super) fn is_abandoned(&self, now: Instant) -> bool {
        now >= self.deadline || self.requests.iter().all(Request::is_abandoned)
    }

    /// Distributes the outcomes to the requests. If the number of outcomes is wrong, every waiter gets an internal
    /// error and the caller gets the actual number.
    pub(super) fn answer(self, outcomes: Vec<Outcome>) -> Result<(), usize> {
        let expected = self.ops();
        let got = outcomes.len();
        if got != expected {
            self.fail(&BackendError::Internal("the answer does not fit the request".to_owned()));
            return Err(got);
        }
        let mut outcomes = outcomes.into_iter();
        for request in self.requests {
            let part = outcomes.by_ref().take(request.ops().len()).collect();
            request.answer(Ok(part));
        }
        Ok(())
    }

    /// Fails every waiter with the same error.
    pub(super) fn fail(self, error: &BackendError) {
        for request in self.requests {
            request.answer(Err(error.clone()));
        }
    }
}
