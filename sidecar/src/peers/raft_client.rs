//! [`PeerNetwork`]: openraft's client to one member, on one lane.

use std::future::Future;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;
use raftkv_proto::raft as proto;
use raftkv_proto::state_machine::{SnapshotChunk, snapshot_chunk};
use raftkv_runtime::failpoint;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::connections::{Lane, Moves, Peers, RaftClient};
use super::heartbeats::Heartbeats;
use super::pump::{Sent, Told, pump};
use super::transfer::Transfer;
use crate::raft::types::{Member, NodeId, TypeConfig, Vote};
use crate::raft::wire::{self, AppendOutcome};

/// How long a peer may take to answer an append that is under way while nothing of it moves: far longer than an fsync on a busy
/// disk, and then the stream is opened again.
const APPEND_RESPONSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a snapshot transfer may stand still: no byte leaves, or all have and the receiver makes it durable.
const SNAPSHOT_STALL_DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at how far it is.
const SNAPSHOT_LOOK: Duration = Duration::from_secs(1);
/// Appends read ahead of the connection.
const APPEND_QUEUE: usize = 16;
/// Waits between attempts to reach a peer that is gone.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

/// What stands for a snapshot, depending on where it is on its way.
pub enum SnapshotData {
    /// The engine's own state, made durable: nothing to carry.
    Durable,
    /// The engine's state, streaming out. The header was read.
    Outgoing(Box<Outgoing>),
    /// Received, verified and made durable in the engine under this token, not yet live.
    Staged(u64),
}

/// A snapshot on its way out of the engine.
pub struct Outgoing {
    /// The first chunk, already read.
    pub header: SnapshotChunk,
    /// The others.
    pub rest: tonic::Streaming<SnapshotChunk>,
}

/// openraft's client to one member.
pub struct PeerNetwork {
    peers: Peers,
    target: NodeId,
    /// Where it was when this was made; where it is now is looked up each time.
    first_address: String,
    lane: Lane,
    /// Kept open between heartbeats: a message on a stream costs a fraction of a call. Gone after any trouble.
    heartbeats: Option<Heartbeats>,
    /// Snapshot transfers that failed, one after the other.
    snapshots_failed: u32,
}

impl PeerNetwork {
    pub(super) fn new(peers: Peers, target: NodeId, member: &Member, lane: Lane) -> Self {
        Self { peers, target, first_address: member.raft_address.clone(), lane, heartbeats: None, snapshots_failed: 0 }
    }

    fn address(&self) -> String {
        self.peers.address_of(self.target).unwrap_or_else(|| self.first_address.clone())
    }

    fn client(&self, lane: Lane) -> Result<RaftClient, Unreachable<TypeConfig>> {
        self.peers.client(&self.address(), lane).map_err(|error| Unreachable::new(&error))
    }

    /// A call that is small and urgent, within `deadline`.
    async fn urgent<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // Whatever the reason, trying again at once would not help.
            Ok(Err(status)) => Err(Unreachable::new(&status).into()),
            Err(_) => Err(Timeout { action, id: 0, target: self.target, timeout: deadline }.into()),
        }
    }

    /// One heartbeat, and the answer to it or to one before it, before openraft gives this up after `deadline`.
    async fn heartbeat(
        &mut self,
        mut request: AppendEntriesRequest<TypeConfig>,
        deadline: Duration,
    ) -> Result<AppendOutcome, RPCError<TypeConfig>> {
        let address = self.address();
        if self.heartbeats.as_ref().is_some_and(|kept| kept.address != address) {
            self.heartbeats = None;
        }
        request.leader_commit = self.peers.progress.gate(request.leader_commit);
        let leader = request.vote.leader_id;
        let mut request = wire::append_request(request);
        request.leader_trouble = Some(self.peers.work.trouble_for(self.target).code());
        request.group_clock_ms = self.peers.clock.stamp_ms();
        // Kept when this call is cancelled: an answer that comes later is noted all the same.
        let stream = match &mut self.heartbeats {
            Some(stream) => stream,
            none => {
                let opened = Heartbeats::open(&self.peers, self.target, address);
                none.insert(opened.map_err(|error| Unreachable::<TypeConfig>::new(&error))?)
            }
        };
        if !stream.send(leader, request, &self.peers.handover) {
            self.heartbeats = None;
            return Err(Unreachable::from_string("heartbeats are not answered").into());
        }
        let response = match stream.answer(deadline / 4 * 3).await {
            Some(Ok(response)) => response,
            Some(Err(status)) => {
                self.heartbeats = None;
                return Err(RPCError::from(Unreachable::new(&status)));
            }
            None => {
                let action = RPCTypes::AppendEntries;
                return Err(Timeout { action, id: 0, target: self.target, timeout: deadline }.into());
            }
        };
        let outcome = wire::parse_append_response(response).map_err(|error| NetworkError::new(&error))?;
        // The other side ends the stream with a refusal.
        if outcome.is_err() {
            self.heartbeats = None;
        }
        Ok(outcome)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Ok(match self.heartbeat(request, option.hard_ttl()).await? {
            Ok(matched) if matched == last => AppendEntriesResponse::Success,
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(higher)) => AppendEntriesResponse::HigherVote(higher),
        })
    }

    /// Many appends in flight on one stream; responses come in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendOutcome, RPCError<TypeConfig>>>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            if self.lane == Lane::Heartbeat {
                // openraft sends heartbeats as streams of one.
                let outcomes = futures::stream::once(async move {
                    let mut input = input;
                    match input.next().await {
                        Some(request) => Some(self.heartbeat(request, option.hard_ttl()).await),
                        None => None,
                    }
                });
                return Ok(outcomes.filter_map(std::future::ready).boxed());
            }

            // Before the address is looked up: a change in between is not missed.
            let mut moves = self.peers.moves_of(self.target);
            let mut client = self.client(self.lane)?;
            // In flight = sent and not answered: only then a silent peer is overdue.
            let in_flight = std::sync::Arc::new(Sent::default());
            let (sender, receiver) = tokio::sync::mpsc::channel(APPEND_QUEUE);
            let pump = tokio::spawn(pump(
                input,
                sender,
                in_flight.clone(),
                self.peers.progress.clone(),
                Told { clock: self.peers.clock.clone(), handover: self.peers.handover.clone() },
            ));
            let mut pump = AbortOnDrop(pump);
            let (peers, target) = (self.peers.clone(), self.target);
            let request = self.peers.request(self.target, ReceiverStream::new(receiver));
            // openraft's pauses between attempts are in its appends: a peer that is gone is not tried before there is one.
            let begun: Result<(), RPCError<TypeConfig>> = tokio::select! {
                biased;
                () = in_flight.any() => Ok(()),
                () = moves.next() => Err(moved()),
                _ = &mut pump.0 => Ok(()),
            };
            if begun.is_ok() && in_flight.unanswered() == 0 {
                // openraft has given it up before the first append.
                return Ok(futures::stream::empty().boxed());
            }
            let opened = match begun {
                Ok(()) => tokio::select! {
                    opened = tokio::time::timeout(APPEND_RESPONSE_DEADLINE, client.append(request)) => match opened {
                        Ok(Ok(response)) => Ok(response.into_inner()),
                        Ok(Err(status)) => Err(Unreachable::new(&status).into()),
                        Err(elapsed) => Err(Unreachable::new(&elapsed).into()),
                    },
                    () = moves.next() => Err(moved()),
                },
                Err(error) => Err(error),
            };
            let responses = match opened {
                Ok(responses) => responses,
                Err(error) => {
                    pump.end().await;
                    return Err(error);
                }
            };
            let stream = AppendStream { responses, in_flight, peers, target, moves, pump };
            let outcomes = futures::stream::unfold(Some(stream), |stream| async move {
                let mut stream = stream?;
                let next = stream.next().await;
                if !matches!(next, Some(Ok(Ok(_)))) {
                    stream.pump.end().await;
                }
                match next? {
                    Ok(outcome) => Some((Ok(outcome), Some(stream))),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(outcomes.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client(Lane::Heartbeat)?;
        let request = self.peers.request(self.target, wire::vote_request(&request, false));
        let response = self.urgent(RPCTypes::Vote, option.hard_ttl(), client.vote(request)).await?;
        wire::parse_vote_response(response).map_err(|error| NetworkError::new(&error).into())
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client(Lane::Heartbeat)?;
        let request = self.peers.request(self.target, wire::vote_request(&request, true));
        let response = self.urgent(RPCTypes::Vote, option.hard_ttl(), client.vote(request)).await?;
        wire::parse_vote_response(response).map_err(|error| NetworkError::new(&error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Outgoing(outgoing) = snapshot.snapshot else {
            return Err(Unreachable::from_string("the snapshot carries no data to send").into());
        };
        failpoint!("sidecar::network::before_snapshot", |why: String| Unreachable::<TypeConfig>::from_string(why));
        let begin = proto::SnapshotBegin {
            vote: Some(wire::vote(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(wire::log_id),
            membership: wire::stored_membership_bytes(&snapshot.meta.last_membership),
        };
        let Outgoing { header, rest } = *outgoing;
        let begin = proto::SnapshotPart { kind: Some(proto::snapshot_part::Kind::Begin(begin)) };
        let estimated_bytes = match &header.kind {
            Some(snapshot_chunk::Kind::Header(header)) => header.estimated_bytes,
            _ => 0,
        };
        // A read error at the source ends the stream early; the receiver then misses the trailer and refuses it.
        let chunks = futures::stream::once(std::future::ready(Ok(header))).chain(rest);
        let chunks = tokio_stream::StreamExt::map_while(chunks, move |chunk| {
            failpoint!("sidecar::network::snapshot_chunk");
            let chunk = chunk.inspect_err(|status| tracing::warn!(%status, "reading the snapshot broke off")).ok();
            chunk.map(|chunk| proto::SnapshotPart {
                kind: Some(proto::snapshot_part::Kind::Chunk(chunk.encode_to_vec().into())),
            })
        });
        let parts = futures::stream::once(std::future::ready(begin)).chain(chunks);

        let address = self.address();
        let (mut client, sent) = self.peers.bulk_client(&address).map_err(|error| Unreachable::new(&error))?;
        let up_to = snapshot.meta.last_log_id.map(|id| id.index());
        let mut transfer = Transfer::begin(&address, self.target, up_to, estimated_bytes, self.snapshots_failed);
        let _under_way = self.peers.snapshot_begins(self.target);
        let call = client.snapshot(self.peers.request(self.target, parts));
        let (mut call, mut cancel) = (std::pin::pin!(call), std::pin::pin!(cancel.fuse()));
        let response = loop {
            tokio::select! {
                response = &mut call => match response {
                    Ok(response) => break response,
                    Err(status) => {
                        self.snapshots_failed += 1;
                        transfer.failed(status.message());
                        return Err(Unreachable::new(&status).into());
                    }
                },
                closed = &mut cancel => {
                    transfer.failed("this node does not lead any more, or replicates anew");
                    return Err(closed.into());
                }
                () = tokio::time::sleep(SNAPSHOT_LOOK) => {
                    if transfer.stands_still_for(sent.get(), Instant::now()) >= SNAPSHOT_STALL_DEADLINE {
                        self.snapshots_failed += 1;
                        transfer.failed("it stands still");
                        return Err(Unreachable::from_string("the snapshot transfer stands still").into());
                    }
                }
            }
        };
        self.snapshots_failed = 0;
        transfer.done(sent.get());
        failpoint!("sidecar::network::after_snapshot");
        let vote = wire::parse_vote(response.into_inner().vote).map_err(|error| NetworkError::new(&error))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        // The successor stands at once, whatever lease there is: whoever asked for the transfer has revoked it.
        self.peers.keeper.revoke(request.from_leader().leader_id).await;
        let mut client = self.client(Lane::Heartbeat)?;
        let message = proto::TransferLeaderRequest {
            from_leader: Some(wire::vote(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(wire::log_id),
        };
        let message = self.peers.request(self.target, message);
        let response =
            self.urgent(RPCTypes::TransferLeader, option.hard_ttl(), client.transfer_leader(message)).await?;
        if response.accepted {
            return Ok(Ok(()));
        }
        // The peer's exact reason does not matter to openraft: it may try again.
        Err(Unreachable::from_string(response.message).into())
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

/// Appends on their way to a peer, and its answers.
struct AppendStream {
    responses: tonic::Streaming<proto::AppendResponse>,
    in_flight: std::sync::Arc<Sent>,
    peers: Peers,
    target: NodeId,
    moves: Moves,
    /// Ends with the stream.
    pump: AbortOnDrop,
}

impl AppendStream {
    /// The next answer; `None` once the peer has ended the stream.
    async fn next(&mut self) -> Option<Result<AppendOutcome, RPCError<TypeConfig>>> {
        let mut looked: Option<Option<(u64, u64)>> = None;
        let response = loop {
            let is_waiting = looked.is_some();
            tokio::select! {
                biased;
                next = self.responses.next() => break next?,
                () = self.moves.next() => return Some(Err(moved())),
                // Without a deadline until something is in flight, then with one.
                () = self.in_flight.any(), if !is_waiting => {
                    looked = Some(None);
                    continue;
                }
                () = tokio::time::sleep(APPEND_RESPONSE_DEADLINE / 2), if is_waiting => {}
            }
            // A large append on a slow link takes longer, and is not to be begun again.
            let now = self.acknowledged().await;
            if looked.flatten().is_some_and(|before| now.is_none_or(|now| now <= before)) {
                return Some(Err(Unreachable::from_string("an append is not answered and does not move").into()));
            }
            looked = Some(now.or(Some((0, 0))));
        };
        Some(match response {
            Ok(response) => {
                if let Some((leader, sent_ns)) = self.in_flight.answered() {
                    self.peers.note_ack(self.target, leader, sent_ns, &response);
                }
                wire::parse_append_response(response).map_err(|error| NetworkError::new(&error).into())
            }
            Err(status) => Err(Unreachable::new(&status).into()),
        })
    }

    /// The connection, and its bytes that the peer's host has acknowledged.
    async fn acknowledged(&self) -> Option<(u64, u64)> {
        let (peers, target) = (self.peers.clone(), self.target);
        let read = tokio::task::spawn_blocking(move || peers.entries_reading(target)).await.ok()?;
        read.map(|reading| (reading.connection, reading.acknowledged))
    }
}

fn moved() -> RPCError<TypeConfig> {
    Unreachable::from_string("the member has another address, or its connection is made again").into()
}

/// A task that does not outlive its stream.
pub(super) struct AbortOnDrop(pub(super) tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    /// Ends the task, and returns once it has ended. openraft's streams of appends share what is to be sent: one that is still polled
    /// would take from the next one, which then has nothing to send and waits.
    async fn end(&mut self) {
        // One that has ended by itself may have been waited for before.
        if !self.0.is_finished() {
            self.0.abort();
            let _ = (&mut self.0).await;
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
