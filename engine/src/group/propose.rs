//! Proposals of routers, passed on to the sidecar: one stream of its own for each of theirs. What this node has applied is answered
//! at once, without waiting for the sidecar to say so.
//!
//! "Refused" is said only of what was never handed over. Once it was, what is lost with the sidecar's stream, or is not
//! answered in time, is "unknown".

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::Stream;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{Applied, ProposeRequest, ProposeResponse, Refused, RefusedReason, Unknown};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::admission::{Admission, BatchNumber};
use super::room::ClientRoom;
use crate::budget::Share;
use crate::proposer::{AppliedHere, ShortcutEnd};
use crate::stream_link::{LinkEvent, StreamLink};

/// Proposals of one stream without an answer; more are not read from it. Routers have a few batches under way.
pub(super) const MAX_IN_FLIGHT: usize = 128;
/// Bytes of proposals of one stream without an answer.
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// A router that takes no answer for this long is gone.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// A sidecar that has not answered this long after it should have, never will.
const OVERDUE: Duration = Duration::from_millis(500);
/// The longest that a proposal may take, whatever it says.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked for overdue ones.
const EXPIRY_TICK: Duration = Duration::from_millis(250);
/// When this node stops, what is under way gets this long.
const DRAIN: Duration = Duration::from_secs(2);

/// What a stream takes of that which all share.
pub(super) struct Shares {
    /// One of the streams; given back when it ends.
    pub(super) _stream: Share,
    /// For the bytes of its proposals.
    pub(super) room: ClientRoom,
}

/// The answers to `requests`, made by a task that ends with the stream.
pub(super) fn start(
    requests: Streaming<ProposeRequest>,
    link: StreamLink<ProposeRequest, ProposeResponse>,
    shortcut: ShortcutEnd,
    admission: Admission,
    stop: Shutdown,
    shares: Shares,
) -> impl Stream<Item = Result<ProposeResponse, Status>> {
    let (answers, receiver) = mpsc::channel(MAX_IN_FLIGHT);
    let pump = Pump {
        requests,
        link,
        shortcut,
        admission,
        answers,
        in_flight: HashMap::new(),
        bytes: 0,
        next_id: 1,
        unreachable: None,
        is_ended: false,
        shares,
    };
    // Ends when the router's stream does, or soon after `stop`; the server waits for its streams.
    tokio::spawn(pump.run(stop));
    ReceiverStream::new(receiver)
}

/// Handed to the sidecar, not answered yet.
struct Sent {
    /// The router's.
    id: u64,
    /// Where it is a batch.
    number: Option<BatchNumber>,
    bytes: usize,
    _room: [Share; 2],
    answer_by: Instant,
}

struct Pump {
    requests: Streaming<ProposeRequest>,
    link: StreamLink<ProposeRequest, ProposeResponse>,
    /// Tells of the batches of the stream's session.
    shortcut: ShortcutEnd,
    admission: Admission,
    answers: mpsc::Sender<Result<ProposeResponse, Status>>,
    /// By our own ids: a router may use one again after its answer, and then a late one must not meet the wrong proposal.
    in_flight: HashMap<u64, Sent>,
    bytes: usize,
    next_id: u64,
    /// Why the sidecar's stream cannot be opened; `None` = it is open, or being opened, which is waited for.
    unreachable: Option<String>,
    /// The router sends no more.
    is_ended: bool,
    shares: Shares,
}

/// That this node serves nothing is no reason for a router to give up: another node of the group may serve.
fn for_routers(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(mut refused) if refused.reason() == RefusedReason::OutOfService => {
            refused.set_reason(RefusedReason::NoLeader);
            Outcome::Refused(refused)
        }
        outcome => outcome,
    }
}

/// Nobody takes answers any more.
struct Gone;

impl Pump {
    async fn run(mut self, stop: Shutdown) {
        // The task ends with whoever it works for.
        let _ = self.pump(stop).await;
    }

    async fn pump(&mut self, stop: Shutdown) -> Result<(), Gone> {
        let mut tick = tokio::time::interval(EXPIRY_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_until = None;
        loop {
            if self.in_flight.is_empty() && (self.is_ended || drain_until.is_some()) {
                return Ok(());
            }
            if drain_until.is_some_and(|until| Instant::now() >= until) {
                return self.forget("this node stopped before the answer came").await;
            }
            let has_room = self.in_flight.len() < MAX_IN_FLIGHT && self.bytes < MAX_IN_FLIGHT_BYTES;
            let is_decided = self.link.is_open() || self.unreachable.is_some() || drain_until.is_some();
            let answers = self.answers.clone();
            tokio::select! {
                biased;
                applied = self.shortcut.next() => self.on_applied_here(applied).await?,
                event = self.link.next() => self.on_event(event).await?,
                () = stop.wait(), if drain_until.is_none() => drain_until = Some(Instant::now() + DRAIN),
                () = answers.closed() => return Err(Gone),
                _ = tick.tick() => self.expire().await?,
                request = self.requests.message(), if has_room && is_decided && !self.is_ended => match request {
                    Ok(Some(request)) if drain_until.is_some() => {
                        self.refuse(request.id, RefusedReason::ShuttingDown, "this node is stopping".to_owned()).await?;
                    }
                    Ok(Some(request)) => self.on_request(request).await?,
                    Ok(None) => self.is_ended = true,
                    Err(_) => return Err(Gone),
                },
            }
        }
    }

    async fn on_request(&mut self, request: ProposeRequest) -> Result<(), Gone> {
        let ProposeRequest { id, payload, timeout_ms, callers, takes_space } = request;
        if self.in_flight.values().any(|sent| sent.id == id) {
            let status = Status::invalid_argument(format!("proposal {id} is under way already"));
            let _ = self.answers.send_timeout(Err(status), ANSWER_PATIENCE).await;
            return Err(Gone);
        }
        let number = match self.admission.check(&payload) {
            Ok(number) => number,
            Err(refused) => {
                metrics::counter!("raftkv_engine_group_proposals_refused_total").increment(1);
                return self.answer(id, Outcome::Refused(refused)).await;
            }
        };
        if let Some(reason) = &self.unreachable {
            let reason = reason.clone();
            return self.refuse(id, RefusedReason::NoLeader, reason).await;
        }
        let bytes = payload.len();
        let Some(room) = self.shares.room.take(bytes) else {
            metrics::counter!("raftkv_engine_group_proposals_refused_total").increment(1);
            let reason = "this node has too many proposals of routers under way".to_owned();
            return self.refuse(id, RefusedReason::Overloaded, reason).await;
        };
        if let Some(number) = number {
            self.shortcut.follow(number.session);
        }
        let timeout = Duration::from_millis(timeout_ms.into()).min(LONGEST_TIMEOUT);
        let own_id = self.next_id;
        self.next_id += 1;
        if self.link.send(ProposeRequest { id: own_id, payload, timeout_ms, callers, takes_space }).is_err() {
            let reason = "the sidecar takes no proposals now".to_owned();
            return self.refuse(id, RefusedReason::Overloaded, reason).await;
        }
        self.bytes += bytes;
        self.in_flight
            .insert(own_id, Sent { id, number, bytes, _room: room, answer_by: Instant::now() + timeout + OVERDUE });
        Ok(())
    }

    async fn on_event(&mut self, event: LinkEvent<ProposeResponse>) -> Result<(), Gone> {
        match event {
            LinkEvent::Opened => self.unreachable = None,
            LinkEvent::Answer(ProposeResponse { id, outcome }) => {
                if let Some(sent) = self.take(id) {
                    let nothing = || Outcome::Unknown(Unknown { message: "the sidecar answered nothing".to_owned() });
                    self.answer(sent.id, outcome.map_or_else(nothing, for_routers)).await?;
                }
            }
            LinkEvent::NotOpened(status) => {
                self.unreachable =
                    Some(format!("the sidecar cannot be reached: {}", raftkv_runtime::reason::call(&status, "")));
            }
            LinkEvent::Lost(status) => {
                self.forget(&format!("the sidecar was lost: {}", raftkv_runtime::reason::call(&status, ""))).await?;
            }
        }
        Ok(())
    }

    /// The sidecar will tell as well, which then nobody waits for.
    async fn on_applied_here(&mut self, applied: AppliedHere) -> Result<(), Gone> {
        let AppliedHere { session, sequence, index, answer } = applied;
        let number = Some(BatchNumber { session, sequence });
        let own_id = self.in_flight.iter().find(|(_, sent)| sent.number == number).map(|(own_id, _)| *own_id);
        match own_id.and_then(|own_id| self.take(own_id)) {
            Some(sent) => self.answer(sent.id, Outcome::Applied(Applied { index, answer })).await,
            None => Ok(()),
        }
    }

    /// Says "unknown" of everything that was handed over.
    async fn forget(&mut self, why: &str) -> Result<(), Gone> {
        let ids: Vec<u64> = self.in_flight.keys().copied().collect();
        self.give_up(ids, why).await
    }

    async fn expire(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let late = self.in_flight.iter().filter(|(_, sent)| now >= sent.answer_by).map(|(id, _)| *id).collect();
        self.give_up(late, "the sidecar does not answer").await
    }

    async fn give_up(&mut self, ids: Vec<u64>, why: &str) -> Result<(), Gone> {
        for id in ids {
            if let Some(sent) = self.take(id) {
                self.answer(sent.id, Outcome::Unknown(Unknown { message: why.to_owned() })).await?;
            }
        }
        Ok(())
    }

    fn take(&mut self, own_id: u64) -> Option<Sent> {
        let sent = self.in_flight.remove(&own_id)?;
        self.bytes -= sent.bytes;
        Some(sent)
    }

    async fn refuse(&mut self, id: u64, reason: RefusedReason, message: String) -> Result<(), Gone> {
        self.answer(id, Outcome::Refused(Refused { reason: reason.into(), message })).await
    }

    async fn answer(&mut self, id: u64, outcome: Outcome) -> Result<(), Gone> {
        let answer = ProposeResponse { id, outcome: Some(outcome) };
        self.answers.send_timeout(Ok(answer), ANSWER_PATIENCE).await.map_err(|_| Gone)
    }
}
