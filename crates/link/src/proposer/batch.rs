//! [`InFlight`]: a batch that was sent and has no answer yet.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::{BatchRef, OpRef, Outcome, ProposalRef};
use raftkv_runtime::stage::Stage;

use super::request::Request;
use crate::backoff::Backoff;

/// First wait before the same batch is proposed again.
const FIRST_WAIT: Duration = Duration::from_millis(5);
/// Longest wait before the same batch is proposed again: a fraction of an election.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Sent under this id; an answer is expected by then.
    Sent { id: u64, answer_by: Instant },
    /// To be sent again, not before this.
    Resend { not_before: Instant },
}

/// Some requests' operations under one sequence number.
///
/// Once a send of it may have reached the log, its bytes never change: only a repeat of the same sequence is
/// recognized, and only until another batch says that this sequence is not repeated any more.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) progress: Progress,
    /// A send of it had no definite answer: it may be in the log.
    pub(super) maybe_applied: bool,
    pub(super) payload: Bytes,
    pub(super) requests: Vec<Request>,
    /// The latest deadline of its requests.
    pub(super) deadline: Instant,
    /// When it was made, to leave at once.
    pub(super) since: Instant,
    backoff: Backoff,
}

impl InFlight {
    /// Encodes the operations of `requests`, to be sent at once.
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

    /// How many operations it holds.
    pub(super) fn ops(&self) -> usize {
        self.requests.iter().map(|request| request.ops().len()).sum()
    }

    /// Whether it was sent under `id` and waits for that answer.
    pub(super) fn is_sent_as(&self, id: u64) -> bool {
        matches!(self.progress, Progress::Sent { id: sent, .. } if sent == id)
    }

    /// It will be sent again after a while.
    pub(super) fn resend_later(&mut self, now: Instant) {
        self.progress = Progress::Resend { not_before: now + self.backoff.wait() };
    }

    /// It was sent and what became of it is not known.
    pub(super) fn lost(&mut self, now: Instant) {
        self.maybe_applied = true;
        self.resend_later(now);
    }

    /// Whether nobody would hear of its answer. Its sequence can be given up: whatever is still on its way is either
    /// applied before the next batch, which its writers were told is possible, or stale after it.
    pub(super) fn is_abandoned(&self, now: Instant) -> bool {
        now >= self.deadline || self.requests.iter().all(Request::is_abandoned)
    }

    /// Hands each request its part of the outcomes. When there are not as many as operations, every waiter hears of an
    /// internal error, and the caller how many there were.
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

    /// Tells every waiter the same error.
    pub(super) fn fail(self, error: &BackendError) {
        for request in self.requests {
            request.answer(Err(error.clone()));
        }
    }
}
