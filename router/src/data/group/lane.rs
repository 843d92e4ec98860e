//! [`Lane`]: the loop behind the reads of one freshness.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::{BackendError, Entry};
use raftkv_kv::{Key, Value};
use raftkv_link::backoff::Backoff;
use raftkv_link::stream_link::{self, LinkEvent, StreamLink};
use raftkv_link::trouble::Trouble;
use raftkv_proto::group::read_response::Outcome;
use raftkv_proto::group::read_result::Result as OneResult;
use raftkv_proto::group::{
    self, Consistency, ReadRefused, ReadRefusedReason, ReadRequest, ReadResponse, ReadResult, ReadResults,
};
use raftkv_runtime::gather::Gather;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep_until};

use super::reader::{Found, too_late};

/// A request that takes longer than this does not hold up the reads that came after it: the next one leaves.
const SLOW_REQUEST: Duration = Duration::from_millis(20);
/// Requests without an answer at once. Each costs the group a barrier, so more than one is only for when one is slow.
const MAX_REQUESTS_IN_FLIGHT: usize = 4;
/// Keys in one request: bounds how long a node reads for one of them.
const MAX_KEYS: usize = 1_024;
/// An answer that is larger than this had too many keys in its request: half of what a message may have, or a fourth.
const LARGE_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The node gets this long; then the reads ask again, which finds a new leader.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that has not answered this long after it should have, never will.
const OVERDUE: Duration = Duration::from_millis(250);
/// First wait after a refusal: most are elections, over within a few of these.
const FIRST_REFUSAL_WAIT: Duration = Duration::from_millis(5);
/// Longest wait after a refusal.
const LONGEST_REFUSAL_WAIT: Duration = Duration::from_millis(100);
/// How often deadlines are looked at: how late "not in time" may be.
const TICK: Duration = Duration::from_millis(10);

/// A read that waits for its answer.
#[derive(Debug)]
pub(super) struct PendingRead {
    pub(super) key: Bytes,
    pub(super) deadline: Instant,
    /// `None` = it has been answered.
    pub(super) reply: Option<oneshot::Sender<Result<Found, BackendError>>>,
}

impl PendingRead {
    fn answer(&mut self, found: Result<Found, BackendError>) {
        if let Some(reply) = self.reply.take() {
            // Its reader may have left.
            let _ = reply.send(found);
        }
    }

    /// Whether nobody waits for it.
    fn is_over(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// A request without an answer yet.
#[derive(Debug)]
struct Sent {
    id: u64,
    at: Instant,
    answer_by: Instant,
    reads: Vec<PendingRead>,
}

/// The reads of one freshness, from their coming to their answer.
#[derive(Debug)]
pub(super) struct Lane {
    consistency: Consistency,
    link: StreamLink<ReadRequest, ReadResponse>,
    queue: mpsc::UnboundedReceiver<PendingRead>,
    /// In no request now.
    waiting: VecDeque<PendingRead>,
    /// In the order they left.
    sent: VecDeque<Sent>,
    next_id: u64,
    /// Keys in the next request; less after answers that were too large.
    most_keys: usize,
    closed_until: Option<Instant>,
    refusals: Backoff,
    gather: Gather,
    trouble: Trouble,
}

impl Lane {
    pub(super) fn new(
        consistency: Consistency,
        link: StreamLink<ReadRequest, ReadResponse>,
        queue: mpsc::UnboundedReceiver<PendingRead>,
    ) -> Self {
        let trouble = link.peer().trouble();
        Self {
            consistency,
            link,
            queue,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            next_id: 1,
            most_keys: MAX_KEYS,
            closed_until: None,
            refusals: Backoff::new(FIRST_REFUSAL_WAIT, LONGEST_REFUSAL_WAIT),
            gather: Gather::default(),
            trouble,
        }
    }

    pub(super) async fn run(mut self, stop: Shutdown) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiting = self.waiting.len() + self.queue.len();
            if waiting > 0 && self.can_send(Instant::now()) && self.gather.is_over(waiting, Instant::now()) {
                // Whatever else is ready to run may bring reads that can share this request. Costs nothing when nothing
                // is.
                tokio::task::yield_now().await;
            }
            let now = Instant::now();
            self.dispatch(now);
            let due = self.next_due(now);
            let is_idle = self.waiting.is_empty() && self.sent.is_empty() && self.queue.is_empty();
            tokio::select! {
                biased;
                event = self.link.next() => self.on_event(event),
                () = stop.wait() => return,
                Some(read) = self.queue.recv(), if is_idle || self.can_send(now) => self.waiting.push_back(read),
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
                _ = tick.tick(), if !is_idle => self.expire(Instant::now()),
            }
        }
    }

    fn can_send(&self, now: Instant) -> bool {
        self.link.is_open()
            && self.sent.len() < MAX_REQUESTS_IN_FLIGHT
            && self.sent.back().is_none_or(|last| now >= last.at + SLOW_REQUEST || last.reads.len() >= self.most_keys)
            && self.closed_until.is_none_or(|until| now >= until)
    }

    /// When something can be done that cannot be done now, if time is all it needs.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.link.is_open() || (self.waiting.is_empty() && self.queue.is_empty()) {
            return None;
        }
        let slow = (self.sent.len() < MAX_REQUESTS_IN_FLIGHT)
            .then(|| self.sent.back().map(|last| last.at + SLOW_REQUEST))
            .flatten();
        [slow.filter(|slow| *slow > now), self.closed_until, self.gather.due(now)].into_iter().flatten().min()
    }

    /// Sends one request for the reads that are here.
    fn dispatch(&mut self, now: Instant) {
        if self.closed_until.is_some_and(|until| now >= until) {
            self.closed_until = None;
        }
        while self.can_send(now) && self.gather.is_over(self.waiting.len() + self.queue.len(), now) {
            while self.waiting.len() < self.most_keys
                && let Ok(read) = self.queue.try_recv()
            {
                self.waiting.push_back(read);
            }
            self.waiting.retain(|read| !read.is_over());
            if self.waiting.is_empty() {
                return;
            }
            let keys = self.waiting.len().min(self.most_keys);
            let reads: Vec<PendingRead> = self.waiting.drain(..keys).collect();
            self.send(reads, now);
        }
    }

    fn send(&mut self, reads: Vec<PendingRead>, now: Instant) {
        let deadline = reads.iter().map(|read| read.deadline).max().unwrap_or(now);
        let timeout = deadline.saturating_duration_since(now).min(ATTEMPT_TIMEOUT);
        let id = self.next_id;
        self.next_id += 1;
        let request = ReadRequest {
            id,
            consistency: self.consistency.into(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
            keys: reads.iter().map(|read| read.key.clone()).collect(),
        };
        if self.link.send(request).is_err() {
            self.put_back(reads);
            self.hold_back("the connection takes no requests".to_owned(), now);
            return;
        }
        metrics::histogram!("raftkv_router_read_keys").record(reads.len() as f64);
        self.sent.push_back(Sent { id, at: now, answer_by: now + timeout + OVERDUE, reads });
    }

    fn on_event(&mut self, event: LinkEvent<ReadResponse>) {
        let now = Instant::now();
        match event {
            LinkEvent::Opened => self.trouble.clear(),
            LinkEvent::Answer(ReadResponse { id, outcome }) => self.on_answer(id, outcome, now),
            LinkEvent::NotOpened(status) => {
                self.trouble.note(format!(
                    "{} cannot be reached: {}",
                    self.link.peer().name(),
                    raftkv_runtime::reason::call(&status, "")
                ));
            }
            LinkEvent::Lost(status) => {
                if !stream_link::is_move(&status) {
                    let name = self.link.peer().name();
                    self.trouble.note(format!(
                        "the connection to {name} was lost: {}",
                        raftkv_runtime::reason::call(&status, "")
                    ));
                    if !self.sent.is_empty() {
                        // It may have been too large an answer that ended it.
                        self.most_keys = (self.most_keys / 4).max(1);
                    }
                }
                // Asking again has no effect but an answer.
                while let Some(sent) = self.sent.pop_back() {
                    self.put_back(sent.reads);
                }
            }
        }
    }

    fn on_answer(&mut self, id: u64, outcome: Option<Outcome>, now: Instant) {
        let Some(at) = self.sent.iter().position(|sent| sent.id == id) else { return };
        let Some(sent) = self.sent.remove(at) else { return };
        match outcome {
            Some(Outcome::Results(results)) if results.results.len() == sent.reads.len() => {
                self.refusals.reset();
                self.trouble.clear();
                self.gather.answered(sent.reads.len(), self.waiting.len() + self.queue.len(), now);
                self.on_results(sent.reads, results);
            }
            Some(Outcome::Refused(refused)) => self.on_refused(sent.reads, &refused, now),
            Some(Outcome::Results(_)) | None => {
                tracing::error!(peer = self.link.peer().name(), "not as many results as keys");
                let error = BackendError::Internal("the answer does not fit the request".to_owned());
                sent.reads.into_iter().for_each(|mut read| read.answer(Err(error.clone())));
            }
        }
    }

    fn on_results(&mut self, reads: Vec<PendingRead>, ReadResults { results, store_revision }: ReadResults) {
        let (keys, mut bytes) = (reads.len(), 0);
        for (mut read, ReadResult { result }) in reads.into_iter().zip(results) {
            let found = match result {
                Some(OneResult::Entry(stored)) => {
                    bytes += stored.value.len();
                    Ok(Found::Here { entry: Some(entry(stored, false)), store_revision })
                }
                Some(OneResult::Absent(_)) => Ok(Found::Here { entry: None, store_revision }),
                Some(OneResult::WrongGroup(_)) => Ok(Found::WrongGroup),
                None => Err(BackendError::Internal("the node answered nothing about a key".to_owned())),
            };
            read.answer(found);
        }
        if bytes > LARGE_ANSWER_BYTES {
            self.most_keys = (keys / 2).max(1);
        } else if keys >= self.most_keys {
            self.most_keys = (self.most_keys * 2).min(MAX_KEYS);
        }
    }

    fn on_refused(&mut self, reads: Vec<PendingRead>, refused: &ReadRefused, now: Instant) {
        metrics::counter!("raftkv_router_reads_refused_total").increment(1);
        let reason = describe(refused);
        let error = match refused.reason() {
            ReadRefusedReason::Overloaded => {
                BackendError::Overloaded { retry_after: Duration::from_millis(refused.retry_after_ms.into()) }
            }
            ReadRefusedReason::Internal => BackendError::Internal(reason),
            ReadRefusedReason::Unavailable
            | ReadRefusedReason::ShuttingDown
            | ReadRefusedReason::Deadline
            | ReadRefusedReason::Unspecified => {
                self.put_back(reads);
                self.hold_back(reason, now);
                return;
            }
        };
        reads.into_iter().for_each(|mut read| read.answer(Err(error.clone())));
    }

    /// They wait again, before all others.
    fn put_back(&mut self, reads: Vec<PendingRead>) {
        for read in reads.into_iter().rev() {
            if !read.is_over() {
                self.waiting.push_front(read);
            }
        }
    }

    fn hold_back(&mut self, reason: String, now: Instant) {
        self.trouble.note(reason);
        if self.closed_until.is_none() {
            self.closed_until = Some(now + self.refusals.wait());
        }
    }

    /// Answers those whose time is over, and asks again for what should have been answered long ago.
    fn expire(&mut self, now: Instant) {
        while self.sent.front().is_some_and(|first| now >= first.answer_by) {
            let Some(first) = self.sent.pop_front() else { break };
            self.trouble.note(format!("{} does not answer", self.link.peer().name()));
            self.put_back(first.reads);
        }
        // What is in the queue has a deadline, too.
        while let Ok(read) = self.queue.try_recv() {
            self.waiting.push_back(read);
        }
        let all = self.waiting.iter_mut().chain(self.sent.iter_mut().flat_map(|sent| sent.reads.iter_mut()));
        for late in all.filter(|read| now >= read.deadline) {
            late.answer(Err(too_late(&self.trouble)));
        }
        self.waiting.retain(|read| !read.is_over());
        // Those that are in a request keep their place there; a request that nobody waits for is forgotten.
        self.sent.retain(|sent| !sent.reads.iter().all(PendingRead::is_over));
    }
}

/// An entry as the surfaces know it.
pub(super) fn entry(stored: group::Entry, keys_only: bool) -> Entry {
    Entry {
        key: Key::from_stored(stored.key),
        value: (!keys_only).then(|| Value::from_stored(stored.value)),
        revision: stored.revision,
        create_revision: stored.create_revision,
        expires_at_ms: stored.expires_at_ms,
    }
}

fn describe(refused: &ReadRefused) -> String {
    match refused.reason() {
        _ if !refused.message.is_empty() => refused.message.clone(),
        ReadRefusedReason::Unavailable => "no leader".to_owned(),
        ReadRefusedReason::Overloaded => "the node has too much waiting".to_owned(),
        ReadRefusedReason::ShuttingDown => "the node is stopping".to_owned(),
        ReadRefusedReason::Deadline => "the node did not come to it in time".to_owned(),
        ReadRefusedReason::Internal => "the node cannot read".to_owned(),
        ReadRefusedReason::Unspecified => "refused".to_owned(),
    }
}
