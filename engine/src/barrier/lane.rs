//! [`Lane`]: the event loop for read barriers of one mode.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use raftkv_proto::consensus::read_barrier_response::Outcome;
use raftkv_proto::consensus::{BarrierMode, ReadBarrierRequest, ReadBarrierResponse, RefusedReason};
use raftkv_runtime::gather::Gather;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::backoff::Backoff;
use crate::stream_link::{LinkEvent, StreamLink};
use crate::trouble::Trouble;

/// A barrier slower than this does not delay later reads: another barrier is sent.
const SLOW_BARRIER: Duration = Duration::from_millis(50);
/// Maximum barriers in flight. Each barrier costs the leader a quorum round, so a second barrier is only for a slow
/// first barrier.
const MAX_BARRIERS_IN_FLIGHT: usize = 4;
/// Timeout of a barrier at the sidecar; afterwards the reads retry and may find a new leader.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after the sidecar's timeout until a missing answer counts as lost.
const OVERDUE: Duration = Duration::from_millis(250);
/// First backoff after a refusal: most are elections, over within a few of these waits.
const FIRST_REFUSAL_WAIT: Duration = Duration::from_millis(5);
/// Longest backoff after a refusal.
const LONGEST_REFUSAL_WAIT: Duration = Duration::from_millis(100);

/// A read waiting for a barrier.
#[derive(Debug)]
pub(super) struct PendingRead {
    pub(super) deadline: Instant,
    /// The result: may be served, or the reason for a lasting failure.
    pub(super) passed: oneshot::Sender<Result<(), String>>,
}

/// A barrier in flight, with the reads from before the send.
#[derive(Debug)]
struct Sent {
    id: u64,
    at: Instant,
    answer_by: Instant,
    reads: Vec<PendingRead>,
}

/// Reads to serve once the store has applied all entries below `next_index`.
#[derive(Debug)]
struct Confirmed {
    next_index: u64,
    reads: Vec<PendingRead>,
}

/// The reads of one mode, from arrival until served.
#[derive(Debug)]
pub(super) struct Lane {
    mode: BarrierMode,
    link: StreamLink<ReadBarrierRequest, ReadBarrierResponse>,
    queue: mpsc::UnboundedReceiver<PendingRead>,
    applied: watch::Receiver<u64>,
    /// Reads without a barrier yet.
    waiting: Vec<PendingRead>,
    /// In send order.
    sent: VecDeque<Sent>,
    confirmed: Vec<Confirmed>,
    next_id: u64,
    closed_until: Option<Instant>,
    refusals: Backoff,
    gather: Gather,
    trouble: Trouble,
}

impl Lane {
    pub(super) fn new(
        mode: BarrierMode,
        link: StreamLink<ReadBarrierRequest, ReadBarrierResponse>,
        queue: mpsc::UnboundedReceiver<PendingRead>,
        applied: watch::Receiver<u64>,
        trouble: Trouble,
    ) -> Self {
        Self {
            mode,
            link,
            queue,
            applied,
            waiting: Vec::new(),
            sent: VecDeque::new(),
            confirmed: Vec::new(),
            next_id: 1,
            closed_until: None,
            refusals: Backoff::new(FIRST_REFUSAL_WAIT, LONGEST_REFUSAL_WAIT),
            gather: Gather::default(),
            trouble,
        }
    }

    pub(super) async fn run(mut self, stop: Shutdown) {
        loop {
            self.expire(Instant::now());
            let waiting = self.waiting.len() + self.queue.len();
            if waiting > 0 && self.can_send(Instant::now()) && self.gather.is_over(waiting, Instant::now()) {
                // Other ready tasks may add reads to this barrier. Costs nothing if no task is ready.
                tokio::task::yield_now().await;
            }
            let now = Instant::now();
            self.dispatch(now);
            let due = self.next_due(now);
            tokio::select! {
                biased;
                event = self.link.next() => self.on_event(event),
                () = stop.wait() => return,
                changed = self.applied.changed(), if !self.confirmed.is_empty() => {
                    if changed.is_err() {
                        // The store is gone: no read is possible any more.
                        return;
                    }
                    self.release();
                }
                Some(read) = self.queue.recv(), if self.can_send(now) => self.waiting.push(read),
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
            }
        }
    }

    fn can_send(&self, now: Instant) -> bool {
        self.link.is_open()
            && self.sent.len() < MAX_BARRIERS_IN_FLIGHT
            && self.sent.back().is_none_or(|last| now >= last.at + SLOW_BARRIER)
            && self.closed_until.is_none_or(|until| now >= until)
    }

    /// The earliest time to act without an external event.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let slow = (self.sent.len() < MAX_BARRIERS_IN_FLIGHT)
            .then(|| self.sent.back().map(|last| last.at + SLOW_BARRIER))
            .flatten();
        let overdue = self.sent.front().map(|first| first.answer_by);
        [slow.filter(|slow| *slow > now), overdue, self.closed_until, self.gather.due(now)].into_iter().flatten().min()
    }

    /// Sends one barrier for all waiting reads.
    fn dispatch(&mut self, now: Instant) {
        if self.closed_until.is_some_and(|until| now >= until) {
            self.closed_until = None;
        }
        if !self.can_send(now) || !self.gather.is_over(self.waiting.len() + self.queue.len(), now) {
            return;
        }
        while let Ok(read) = self.queue.try_recv() {
            self.waiting.push(read);
        }
        self.waiting.retain(|read| !read.passed.is_closed());
        let Some(deadline) = self.waiting.iter().map(|read| read.deadline).max() else { return };
        let timeout = deadline.saturating_duration_since(now).min(ATTEMPT_TIMEOUT);
        let id = self.next_id;
        self.next_id += 1;
        let request = ReadBarrierRequest {
            id,
            mode: self.mode.into(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        if self.link.send(request).is_err() {
            self.hold_back("the sidecar takes no requests".to_owned(), now);
            return;
        }
        metrics::histogram!("raftkv_engine_barrier_reads").record(self.waiting.len() as f64);
        let reads = std::mem::take(&mut self.waiting);
        self.sent.push_back(Sent { id, at: now, answer_by: now + timeout + OVERDUE, reads });
    }

    fn on_event(&mut self, event: LinkEvent<ReadBarrierResponse>) {
        let now = Instant::now();
        match event {
            LinkEvent::Opened => self.trouble.clear(),
            LinkEvent::Answer(ReadBarrierResponse { id, outcome }) => self.on_answer(id, outcome, now),
            LinkEvent::NotOpened(status) => {
                self.trouble
                    .note(format!("the sidecar cannot be reached: {}", raftkv_runtime::reason::call(&status, "")));
                self.drop_abandoned();
            }
            LinkEvent::Lost(status) => {
                self.trouble.note(format!("the sidecar was lost: {}", raftkv_runtime::reason::call(&status, "")));
                // A barrier has no side effects: safe to retry.
                for sent in std::mem::take(&mut self.sent) {
                    self.waiting.extend(sent.reads);
                }
            }
        }
    }

    fn on_answer(&mut self, id: u64, outcome: Option<Outcome>, now: Instant) {
        let Some(at) = self.sent.iter().position(|sent| sent.id == id) else { return };
        match outcome {
            Some(Outcome::NextIndex(next_index)) => {
                self.refusals.reset();
                self.trouble.clear();
                // Reads of earlier barriers arrived even earlier: this answer covers them, too.
                let reads: Vec<_> = self.sent.drain(..=at).flat_map(|sent| sent.reads).collect();
                self.gather.answered(reads.len(), self.waiting.len() + self.queue.len(), now);
                self.confirmed.push(Confirmed { next_index, reads });
                self.release();
            }
            // No leader for longer than an election takes: retries are up to clients.
            Some(Outcome::Refused(refused)) if refused.reason() == RefusedReason::NoMajority => {
                self.turn_away(at, &refused.message);
            }
            Some(Outcome::Refused(refused)) if refused.reason() == RefusedReason::OutOfService => {
                self.turn_away(at, &refused.message);
                self.hold_back(refused.message, now);
            }
            Some(Outcome::Refused(refused)) => {
                let reason = match refused.reason() {
                    _ if !refused.message.is_empty() => refused.message,
                    RefusedReason::NoLeader => "no leader".to_owned(),
                    RefusedReason::Overloaded => "the leader is overloaded".to_owned(),
                    RefusedReason::ShuttingDown => "the sidecar is stopping".to_owned(),
                    RefusedReason::TooLarge
                    | RefusedReason::DiskFull
                    | RefusedReason::NoMajority
                    | RefusedReason::OutOfService
                    | RefusedReason::NotAdmitted
                    | RefusedReason::Unspecified => "refused".to_owned(),
                };
                self.ask_again(at, reason, now);
            }
            None => self.ask_again(at, "the sidecar sent no answer".to_owned(), now),
        }
    }

    /// Fails the reads of a barrier: waiting does not help.
    fn turn_away(&mut self, at: usize, reason: &str) {
        metrics::counter!("raftkv_engine_barriers_refused_total").increment(1);
        self.trouble.note(reason.to_owned());
        for read in self.sent.remove(at).into_iter().flat_map(|sent| sent.reads) {
            // The reader may have left.
            let _ = read.passed.send(Err(reason.to_owned()));
        }
    }

    fn ask_again(&mut self, at: usize, reason: String, now: Instant) {
        if let Some(sent) = self.sent.remove(at) {
            self.waiting.extend(sent.reads);
        }
        metrics::counter!("raftkv_engine_barriers_refused_total").increment(1);
        self.hold_back(reason, now);
    }

    fn hold_back(&mut self, reason: String, now: Instant) {
        self.trouble.note(reason);
        if self.closed_until.is_none() {
            self.closed_until = Some(now + self.refusals.wait());
        }
    }

    /// Serves the reads with an applied index.
    fn release(&mut self) {
        let applied = *self.applied.borrow_and_update();
        self.confirmed.retain_mut(|confirmed| {
            if confirmed.next_index > applied {
                confirmed.reads.retain(|read| !read.passed.is_closed());
                return !confirmed.reads.is_empty();
            }
            for read in confirmed.reads.drain(..) {
                // The reader may have left.
                let _ = read.passed.send(Ok(()));
            }
            false
        });
    }

    /// Requeues the reads of barriers with an overdue answer.
    fn expire(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|first| now >= first.answer_by) {
            let reads = self.sent.pop_front().map(|sent| sent.reads);
            self.waiting.extend(reads.into_iter().flatten());
            self.trouble.note("the sidecar does not answer".to_owned());
            self.drop_abandoned();
        }
    }

    /// While no barrier can be sent, abandoned reads would accumulate.
    fn drop_abandoned(&mut self) {
        while let Ok(read) = self.queue.try_recv() {
            self.waiting.push(read);
        }
        self.waiting.retain(|read| !read.passed.is_closed());
    }
}
