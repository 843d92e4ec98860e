//! Proposals of routers, forwarded to the sidecar with a separate stream per router stream. Batches applied on this
//! node are answered immediately, without waiting for the sidecar.
//!
//! "Refused" is answered only for proposals never sent to the sidecar. After the send, a broken sidecar stream or a
//! timeout is answered as "unknown".

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

/// Maximum unanswered proposals per stream; the stream is not read beyond the limit. Routers have a few batches in
/// flight.
pub(super) const MAX_IN_FLIGHT: usize = 128;
/// Maximum bytes of unanswered proposals per stream.
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// Time until a router not reading an answer counts as gone.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Time after the proposal timeout until a missing answer of the sidecar counts as lost.
const OVERDUE: Duration = Duration::from_millis(500);
/// Upper bound for the timeout of a proposal.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval for checking overdue proposals.
const EXPIRY_TICK: Duration = Duration::from_millis(250);
/// Time for in-flight proposals to finish when this node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Shares of a stream in the common limits.
pub(super) struct Shares {
    /// Share of the stream limit, returned when the stream ends.
    pub(super) _stream: Share,
    /// Budget for the bytes of proposals.
    pub(super) room: ClientRoom,
}

/// Returns the answers to `requests`, produced by a task with the lifetime of the stream.
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
    // The task ends with the router's stream, or soon after `stop`; the server waits for the stream.
    tokio::spawn(pump.run(stop));
    ReceiverStream::new(receiver)
}

/// A proposal sent to the sidecar, not answered yet.
struct Sent {
    /// Id chosen by the router.
    id: u64,
    /// For batches only.
    number: Option<BatchNumber>,
    bytes: usize,
    _room: [Share; 2],
    answer_by: Instant,
}

struct Pump {
    requests: Streaming<ProposeRequest>,
    link: StreamLink<ProposeRequest, ProposeResponse>,
    /// Reports applied batches of the stream's session.
    shortcut: ShortcutEnd,
    admission: Admission,
    answers: mpsc::Sender<Result<ProposeResponse, Status>>,
    /// Keyed by local id: a router may reuse an id after the answer, and a late answer must not match the wrong
    /// proposal.
    in_flight: HashMap<u64, Sent>,
    bytes: usize,
    next_id: u64,
    /// Reason the sidecar stream cannot be opened; `None` = open, or opening, in which case proposals wait.
    unreachable: Option<String>,
    /// The router has closed the request side.
    is_ended: bool,
    shares: Shares,
}

/// Maps "out of service" to "no leader": another node of the group may be in service, so the router should retry.
fn for_routers(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(mut refused) if refused.reason() == RefusedReason::OutOfService => {
            refused.set_reason(RefusedReason::NoLeader);
            Outcome::Refused(refused)
        }
        outcome => outcome,
    }
}

/// The receiver of the answers is gone.
struct Gone;

impl Pump {
    async fn run(mut self, stop: Shutdown) {
        // The task ends with the stream.
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
                    let nothing = || Outcome::Unknown(Unknown { message: "the sidecar sent no answer".to_owned() });
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

    /// Answers a batch applied on this node. The later answer of the sidecar is ignored.
    async fn on_applied_here(&mut self, applied: AppliedHere) -> Result<(), Gone> {
        let AppliedHere { session, sequence, index, answer } = applied;
        let number = Some(BatchNumber { session, sequence });
        let own_id = self.in_flight.iter().find(|(_, sent)| sent.number == number).map(|(own_id, _)| *own_id);
        match own_id.and_then(|own_id| self.take(own_id)) {
            Some(sent) => self.answer(sent.id, Outcome::Applied(Applied { index, answer })).await,
            None => Ok(()),
        }
    }

    /// Answers "unknown" for all proposals in flight.
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
