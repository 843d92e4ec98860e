//! [`Task`]: the event loop of a [`Proposer`](super::Proposer).

mod answers;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_kv::Proposal;
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse};
use raftkv_runtime::gather::Gather;
use raftkv_runtime::reminder::Reminder;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep_until};

use super::batch::{InFlight, Progress};
use super::request::Request;
use super::session::Session;
use super::shortcut::ShortcutEnd;
use super::system::{SystemRequest, Systems};
use super::{MAX_BATCH_BYTES, MAX_BATCH_OPS, MAX_BATCHES_IN_FLIGHT};
use crate::backoff::Backoff;
use crate::peer::Peer;
use crate::stream_link::StreamLink;
use crate::trouble::Trouble;

/// Timeout of one attempt at the peer; a resend may then find a new leader after the old leader went silent. Longer
/// than an election, shorter than the usual client deadline.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for opening a session. A second request is harmless, and without a session no write can proceed.
const SESSION_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum margin between the peer's timeout and the client's deadline. The margin is a tenth of the remaining time, so
/// a "refused" arrives before the deadline and the client gets "not applied" instead of "unknown".
const MOST_ANSWER_MARGIN: Duration = Duration::from_millis(50);
/// Time after the peer's timeout until a missing answer counts as lost.
const OVERDUE: Duration = Duration::from_millis(500);
/// Maximum distance between the next sequence and the lowest unanswered sequence. The state machine keeps the answers
/// in between, at most 1,024; half the bound ensures a repeated batch is never stale.
const MAX_SEQUENCE_SPREAD: u64 = 512;
/// First backoff after a refusal: most are elections, over within a few of these waits.
const FIRST_REFUSAL_WAIT: Duration = Duration::from_millis(5);
/// Longest backoff after a refusal.
const LONGEST_REFUSAL_WAIT: Duration = Duration::from_millis(100);
/// Interval for checking deadlines of in-flight batches. Only frees resources: callers have exact timers.
const TICK: Duration = Duration::from_millis(20);

/// All state for proposing; only the queue is shared.
#[derive(Debug)]
pub(super) struct Task {
    link: StreamLink<ProposeRequest, ProposeResponse>,
    shortcut: ShortcutEnd,
    peer: Peer,
    queue: mpsc::UnboundedReceiver<Request>,
    system_queue: mpsc::UnboundedReceiver<SystemRequest>,
    systems: Systems,
    /// Requests taken from the queue but in no batch: either beyond the batch limits, or requeued after a refusal.
    waiting: VecDeque<Request>,
    batches: Vec<InFlight>,
    session: Session,
    next_id: u64,
    /// After a refusal, no new proposal before this time.
    closed_until: Option<Instant>,
    /// The disk is nearly full: batches of deletes are kept separate, so as not to be refused together with values.
    deletes_apart: bool,
    refusals: Backoff,
    gather: Gather,
    trouble: Trouble,
    was_connected: bool,
    /// Limits repeated log lines: a peer may accept streams and drop them repeatedly.
    reminder: Reminder,
}

impl Task {
    pub(super) fn new(
        link: StreamLink<ProposeRequest, ProposeResponse>,
        shortcut: ShortcutEnd,
        queue: mpsc::UnboundedReceiver<Request>,
        system_queue: mpsc::UnboundedReceiver<SystemRequest>,
        trouble: Trouble,
    ) -> Self {
        let peer = link.peer().clone();
        trouble.note(format!("{} has not been reached yet", peer.name()));
        Self {
            link,
            shortcut,
            peer,
            queue,
            system_queue,
            systems: Systems::default(),
            waiting: VecDeque::new(),
            batches: Vec::with_capacity(MAX_BATCHES_IN_FLIGHT),
            session: Session::Closed,
            next_id: 1,
            closed_until: None,
            deletes_apart: false,
            refusals: Backoff::new(FIRST_REFUSAL_WAIT, LONGEST_REFUSAL_WAIT),
            gather: Gather::default(),
            trouble,
            was_connected: false,
            reminder: Reminder::default(),
        }
    }

    /// Runs until `stop` is triggered and all accepted requests are answered, or `grace` is over.
    ///
    /// At the end, a remaining waiter sees the dropped reply channel, and the ticket tells whether the operations may
    /// have been applied.
    pub(super) async fn run(mut self, stop: Shutdown, grace: Duration) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop_by: Option<Instant> = None;
        loop {
            let waiting = self.waiting.len() + self.queue.len();
            if waiting > 0 && self.can_propose(Instant::now()) && self.gather.is_over(waiting, Instant::now()) {
                // Other ready tasks may add operations to this batch. Costs nothing if no task is ready.
                tokio::task::yield_now().await;
            }
            let now = Instant::now();
            self.dispatch(now);
            if let Some(stop_by) = stop_by
                && (now >= stop_by || self.is_idle())
            {
                break;
            }
            let due = self.next_due(now);
            tokio::select! {
                biased;
                applied = self.shortcut.next() => self.on_applied_here(&applied),
                event = self.link.next() => self.on_event(event),
                () = stop.wait(), if stop_by.is_none() => {
                    self.queue.close();
                    self.system_queue.close();
                    stop_by = Some(Instant::now() + grace);
                }
                Some(request) = self.system_queue.recv() => self.systems.push(request, Instant::now()),
                Some(request) = self.queue.recv(), if self.can_propose(now) => self.waiting.push_back(request),
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
                _ = tick.tick(), if stop_by.is_some() || !self.is_idle() => self.expire(Instant::now()),
            }
        }
        self.peer.figures().connected.set(0.0);
        if !self.is_idle() {
            let requests = self.waiting.len() + self.queue.len();
            tracing::warn!(
                requests,
                batches = self.batches.len(),
                "stopped with unanswered writes: the grace period is over"
            );
        }
    }

    fn is_idle(&self) -> bool {
        self.batches.is_empty()
            && self.waiting.is_empty()
            && self.queue.is_empty()
            && self.systems.is_empty()
            && self.system_queue.is_empty()
    }

    /// Whether a new request could be sent now, so taking from the queue makes sense.
    fn can_propose(&self, now: Instant) -> bool {
        self.link.is_open()
            && self.batches.len() < MAX_BATCHES_IN_FLIGHT
            && self.has_sequence()
            && self.closed_until.is_none_or(|until| now >= until)
    }

    /// Whether the session has a sequence for another batch, or a new session can be opened.
    fn has_sequence(&self) -> bool {
        match self.session {
            Session::Closed => true,
            Session::Opening { .. } => false,
            Session::Open { session, next_sequence } => {
                let lowest = self.lowest_outstanding(session).unwrap_or(next_sequence);
                next_sequence - lowest < MAX_SEQUENCE_SPREAD
            }
        }
    }

    /// The earliest time to act without an external event.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.link.is_open() {
            return None;
        }
        let resend = self.batches.iter().filter_map(|batch| match batch.progress {
            Progress::Resend { not_before } => Some(not_before),
            Progress::Sent { .. } => None,
        });
        resend.chain(self.systems.next_due()).chain(self.closed_until).chain(self.gather.due(now)).min()
    }

    /// Sends all due proposals.
    fn dispatch(&mut self, now: Instant) {
        if !self.link.is_open() {
            return;
        }
        self.resend(now);
        self.dispatch_systems(now);
        if self.closed_until.is_some_and(|until| now >= until) {
            self.closed_until = None;
        }
        while self.can_propose(now) && self.gather.is_over(self.waiting.len() + self.queue.len(), now) {
            let Session::Open { session, next_sequence } = self.session else {
                if self.has_requests() {
                    self.open_session(now);
                }
                return;
            };
            let requests = self.take_requests();
            if requests.is_empty() {
                return;
            }
            self.session = Session::Open { session, next_sequence: next_sequence + 1 };
            let acknowledged_below = self.lowest_outstanding(session).unwrap_or(next_sequence);
            let batch = InFlight::new(session, next_sequence, acknowledged_below, requests, now);
            self.peer.figures().batch_ops.record(batch.ops() as f64);
            self.batches.push(batch);
            self.send_batch(self.batches.len() - 1, now);
        }
    }

    fn dispatch_systems(&mut self, now: Instant) {
        if self.systems.is_empty() {
            return;
        }
        let mut systems = std::mem::take(&mut self.systems);
        systems.dispatch(now, |payload, deadline| self.send(payload, deadline, 1, false, now));
        self.systems = systems;
    }

    fn resend(&mut self, now: Instant) {
        for at in (0..self.batches.len()).rev() {
            let Progress::Resend { not_before } = self.batches[at].progress else { continue };
            if self.batches[at].is_abandoned(now) {
                self.give_up(at);
            } else if now >= not_before {
                self.peer.figures().repeated.increment(1);
                self.send_batch(at, now);
            }
        }
    }

    fn send_batch(&mut self, at: usize, now: Instant) {
        let batch = &self.batches[at];
        let (payload, deadline, callers) = (batch.payload.clone(), batch.deadline, batch.requests.len());
        let takes_space = !batch.requests.iter().all(Request::only_deletes);
        match self.send(payload, deadline, callers, takes_space, now) {
            Some((id, answer_by)) => self.batches[at].progress = Progress::Sent { id, answer_by },
            // Not handed over: same as a refusal.
            None => self.batches[at].resend_later(now),
        }
    }

    /// Sends a proposal with `callers` waiting callers to the peer; returns the id and the time the answer is due.
    fn send(
        &mut self,
        payload: Bytes,
        deadline: Instant,
        callers: usize,
        takes_space: bool,
        now: Instant,
    ) -> Option<(u64, Instant)> {
        let left = deadline.saturating_duration_since(now);
        let timeout = left.saturating_sub((left / 10).min(MOST_ANSWER_MARGIN)).min(ATTEMPT_TIMEOUT);
        let id = self.next_id;
        self.next_id += 1;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let callers = u32::try_from(callers).unwrap_or(u32::MAX);
        self.link.send(ProposeRequest { id, payload, timeout_ms, callers, takes_space }).ok()?;
        Some((id, now + timeout + OVERDUE))
    }

    fn open_session(&mut self, now: Instant) {
        if let Some((id, answer_by)) = self.send(Proposal::OpenSession.encode(), now + SESSION_TIMEOUT, 1, false, now) {
            self.session = Session::Opening { id, answer_by };
        }
    }

    fn has_requests(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.waiting.extend(self.queue.try_recv());
        }
        !self.waiting.is_empty()
    }

    /// Takes the requests of the next batch, in order; at least one if any is waiting.
    fn take_requests(&mut self) -> Vec<Request> {
        let (mut taken, mut ops, mut bytes) = (Vec::<Request>::new(), 0, 0);
        while self.has_requests() {
            let Some(request) = self.waiting.front() else { break };
            if self.deletes_apart && taken.last().is_some_and(|last| last.only_deletes() != request.only_deletes()) {
                break;
            }
            ops += request.ops().len();
            bytes += request.bytes();
            if !taken.is_empty() && (ops > MAX_BATCH_OPS || bytes > MAX_BATCH_BYTES) {
                break;
            }
            let Some(request) = self.waiting.pop_front() else { break };
            // Withdrawn, or refused before and abandoned since.
            if request.is_abandoned() || !request.mark_proposed() {
                ops -= request.ops().len();
                bytes -= request.bytes();
                continue;
            }
            taken.push(request);
        }
        taken
    }

    fn lowest_outstanding(&self, session: u64) -> Option<u64> {
        self.batches.iter().filter(|batch| batch.session == session).map(|batch| batch.sequence).min()
    }

    /// Drops an abandoned batch. The next batch of the session acknowledges the sequence, so a copy still on the way
    /// becomes stale.
    fn give_up(&mut self, at: usize) {
        let batch = self.batches.swap_remove(at);
        self.peer.figures().given_up.increment(1);
        tracing::debug!(
            session = batch.session,
            sequence = batch.sequence,
            "batch given up: all its writers have left"
        );
    }

    /// Drops abandoned batches, and schedules a resend of batches with an overdue answer.
    fn expire(&mut self, now: Instant) {
        for at in (0..self.batches.len()).rev() {
            if self.batches[at].is_abandoned(now) {
                self.give_up(at);
            } else if let Progress::Sent { answer_by, .. } = self.batches[at].progress
                && now >= answer_by
            {
                self.trouble.note(format!("{} does not answer", self.peer.name()));
                self.batches[at].lost(now);
            }
        }
        self.systems.expire(now);
        if let Session::Opening { answer_by, .. } = self.session
            && now >= answer_by
        {
            self.session = Session::Closed;
        }
        // While proposing is impossible, abandoned requests would accumulate.
        if !self.can_propose(now) {
            while let Ok(request) = self.queue.try_recv() {
                self.waiting.push_back(request);
            }
            self.waiting.retain(|request| !request.is_abandoned());
        }
    }

    fn hold_back(&mut self, reason: String, now: Instant) {
        self.trouble.note(reason);
        // Several refusals at the same moment count as one.
        if self.closed_until.is_none() {
            self.closed_until = Some(now + self.refusals.wait());
        }
    }

    fn worked(&mut self) {
        self.refusals.reset();
        self.closed_until = None;
        self.trouble.clear();
    }
}
