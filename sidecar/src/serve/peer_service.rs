//! [`PeerService`]: answers the other members' sidecars.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{TransferLeaderRequest, VoteResponse};
use prost::Message;
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse, ReadBarrierRequest, ReadBarrierResponse};
use raftkv_proto::raft as proto;
use raftkv_proto::raft::raft_server::{Raft as RaftService, RaftServer};
use raftkv_proto::state_machine::SnapshotChunk;
use raftkv_proto::{
    CLUSTER_ID_HEADER, MAX_MESSAGE_BYTES, SENDER_ID_HEADER, STRICT_VERSION, TARGET_ID_HEADER, WIRE_VERSION,
    WIRE_VERSION_HEADER,
};
use raftkv_runtime::failpoint;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::disk::Disk;
use crate::lead::barrier::ReadBarriers;
use crate::lead::proposals::Proposals;
use crate::life::lifecycle::Lifecycle;
use crate::node::metrics::metrics_of;
use crate::node::{Group, Node};
use crate::peers::{Incoming, SnapshotData, Trouble};
use crate::raft::ballot::{Sight, Verdict, check_leader, judge};
use crate::raft::types::{LeaderId, NodeId, SnapshotMeta, TypeConfig, Vote};
use crate::raft::wire::{self, WireError};

/// Requests of one stream that are worked on at the same time; beyond that the stream waits.
pub(crate) const MAX_IN_FLIGHT: usize = 256;

/// For the description of a snapshot, which is small and is sent first.
pub(crate) const SNAPSHOT_BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For this node to hear of the leader that sends a snapshot: several heartbeats, over a path on which they are late.
pub(crate) const SNAPSHOT_VOTE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it looks whether it has.
const SNAPSHOT_VOTE_POLL: Duration = Duration::from_millis(50);
/// For each part of a snapshot. A part holds one value at least; 16 MiB take this long at half a megabit a second. Senders give up by
/// themselves after two minutes in which nothing moves.
pub(crate) const SNAPSHOT_PART_TIMEOUT: Duration = Duration::from_secs(300);

type AnswerStream<T> = BoxStream<'static, Result<T, Status>>;

/// The gRPC service that peers call.
pub struct PeerService {
    node: Node,
    lifecycle: Arc<Lifecycle>,
    proposals: Proposals,
    barriers: ReadBarriers,
    disk: Disk,
    /// One snapshot comes in at a time.
    incoming: Incoming,
}

impl PeerService {
    /// The service over this node's parts, ready to be added to a server.
    pub fn server(
        node: Node,
        lifecycle: Arc<Lifecycle>,
        proposals: Proposals,
        barriers: ReadBarriers,
        disk: Disk,
    ) -> RaftServer<Self> {
        let service = Self { node, lifecycle, proposals, barriers, disk, incoming: Incoming::default() };
        RaftServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The group, when the message is really meant for this node in this cluster.
    fn checked_group(&self, metadata: &MetadataMap) -> Result<Arc<Group>, Status> {
        let header = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (cluster, target, version) =
            (header(CLUSTER_ID_HEADER), header(TARGET_ID_HEADER), header(WIRE_VERSION_HEADER));
        if version != WIRE_VERSION.to_string() {
            return Err(Status::failed_precondition(format!(
                "wire version {version:?} is not spoken here; this node speaks {WIRE_VERSION}"
            )));
        }
        let Some(group) = self.node.group() else {
            self.lifecycle.foreign_contact(cluster);
            return Err(Status::unavailable("this node is in no cluster yet"));
        };
        if cluster != group.cluster_id {
            return Err(Status::failed_precondition(format!(
                "this node is in cluster {}, the message is for cluster {cluster:?}",
                group.cluster_id
            )));
        }
        if target != self.node.identity.raft_id.to_string() {
            return Err(Status::failed_precondition(format!(
                "this node's raft id is {}, the message is for {target:?}",
                self.node.identity.raft_id
            )));
        }
        Ok(group)
    }

    /// Whether a snapshot may be received: from the leader that this node follows, onto a disk that has some room. Checked before the
    /// sender takes the place of another one.
    ///
    /// Returns this node's vote where the sender is an earlier leader. One of which this node has not heard has a moment to be heard of,
    /// by its heartbeats; it is not believed on the word of the snapshot.
    async fn check_snapshot(&self, group: &Group, vote: &Vote) -> Result<Option<Vote>, Status> {
        let deadline = Instant::now() + SNAPSHOT_VOTE_TIMEOUT;
        // Asked of consensus itself, which knows a vote from the moment on at which it is accepted: the metrics show it once it is durable.
        let known = loop {
            // Consensus answers late where its log waits for the disk.
            let known = tokio::time::timeout_at(deadline, group.raft.with_raft_state(|state| *state.vote_ref()))
                .await
                .map_err(|_| Status::failed_precondition("consensus of this node does not answer"))?
                .map_err(raft_failed)?;
            if known >= *vote {
                break known;
            }
            if Instant::now() >= deadline {
                return Err(Status::failed_precondition(
                    "this node has not heard of the leadership that the snapshot is sent under",
                ));
            }
            tokio::time::sleep(SNAPSHOT_VOTE_POLL).await;
        };
        if known != *vote {
            return Ok(Some(known));
        }
        // The engine looks again before each part.
        let least_bytes = self.disk.snapshot_least_bytes;
        match self.disk.free_bytes().await {
            Some(free) if free < least_bytes => Err(Status::resource_exhausted(format!(
                "the disk of this node has {free} bytes free; a snapshot is received from {least_bytes} on"
            ))),
            _ => Ok(None),
        }
    }

    /// What is known here of a candidate.
    fn sight(&self, group: &Group, candidate: LeaderId) -> Sight {
        let metrics = metrics_of(group);
        Sight {
            me: self.node.identity.raft_id,
            vote: metrics.vote,
            last_log_id: group.log.last_log_id(),
            is_member: metrics.membership_config.get_node(&candidate.node_id).is_some(),
            is_named: group.peers.handover.is_to(candidate, metrics.vote),
            names_successors: self.names_successors(),
        }
    }

    /// Whether every leader of the group names its successor.
    fn names_successors(&self) -> bool {
        self.node.versions.cluster().is_some_and(|version| version >= STRICT_VERSION)
    }

    fn identity(&self) -> proto::Identity {
        let identity = &self.node.identity;
        let group = self.node.group();
        let versions = self.node.versions.spoken();
        proto::Identity {
            raft_id: identity.raft_id,
            name: identity.name.clone(),
            cluster_id: group.as_ref().map(|group| group.cluster_id.clone()).unwrap_or_default(),
            raft_address: identity.raft_address.clone(),
            management_address: identity.management_address.clone(),
            http_address: identity.http_address.clone(),
            wire_version: WIRE_VERSION,
            group_address: identity.group_address.clone(),
            incarnation: self.node.life.incarnation(),
            log_next: group.map(|group| metrics_of(&group).last_log_index.map_or(0, |index| index + 1)),
            version_min: versions.map_or(0, |versions| versions.min),
            version_max: versions.map_or(0, |versions| versions.max),
        }
    }
}

/// What a leader says of itself with an append.
struct Said {
    leader: LeaderId,
    trouble: Option<Trouble>,
    clock_ms: u64,
    successor: Option<proto::LeaderId>,
}

/// The raft id of who sent a message; 0 = it does not say, as version 0.1.0.
fn sender(metadata: &MetadataMap) -> NodeId {
    metadata.get(SENDER_ID_HEADER).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn raft_failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("consensus is not running: {error}"))
}

#[tonic::async_trait]
impl RaftService for PeerService {
    type AppendStream = AnswerStream<proto::AppendResponse>;
    type ForwardProposeStream = AnswerStream<ProposeResponse>;
    type ForwardReadBarrierStream = AnswerStream<ReadBarrierResponse>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let group = self.checked_group(request.metadata())?;
        let from = sender(request.metadata());
        // A request that cannot be read ends the stream: what comes after it must not be appended without it.
        // What the leader says of itself counts once openraft has accepted the message.
        let said: Arc<Mutex<Option<Said>>> = Arc::default();
        let saying = said.clone();
        let (me, metrics, mut checked) = (self.node.identity.raft_id, group.raft.metrics(), None);
        let requests = tokio_stream::StreamExt::map_while(request.into_inner(), move |request| {
            let parsed = request.map_err(|status| status.to_string()).and_then(|request| {
                let (trouble, clock_ms) = (request.leader_trouble.map(Trouble::of_code), request.group_clock_ms);
                let successor = request.successor;
                let parsed = wire::parse_append_request(request).map_err(|error: WireError| error.to_string())?;
                let leader = parsed.vote.leader_id;
                // Once for each leadership: most streams see one.
                if checked != Some(leader) {
                    let own_term = metrics.borrow_watched().vote.leader_id.term;
                    check_leader(&parsed.vote, own_term, me).map_err(|why| format!("{}: {why}", parsed.vote))?;
                    checked = Some(leader);
                }
                let mut saying = saying.lock().unwrap_or_else(PoisonError::into_inner);
                // What an entry's message does not say was said by a heartbeat.
                let trouble = trouble.or_else(|| saying.as_ref().and_then(|before| before.trouble));
                *saying = Some(Said { leader, trouble, clock_ms, successor });
                drop(saying);
                Ok(parsed)
            });
            parsed.inspect_err(|error| tracing::debug!(error, "the append stream ends")).ok()
        });
        let (outcomes, node) = (group.raft.stream_append(Box::pin(requests)), self.node.clone());
        let (work, clock, disk) = (group.peers.work.clone(), group.clock.clone(), self.disk.clone());
        let handover = group.peers.handover.clone();
        // For so long openraft refuses votes after it has heard from a leader.
        let promise = group.timing.promise;
        // Ends with the answers, which end with the connection.
        let stream = group.inbound.open(from);
        let responses = outcomes.map(move |outcome| {
            let _open = &stream;
            if matches!(outcome, Ok(Ok(_))) {
                node.note_leader();
                if let Some(Said { leader, trouble, clock_ms, successor }) =
                    said.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    clock.heard(leader, clock_ms);
                    if let Some(successor) = successor {
                        handover.heard(leader, successor);
                    }
                    if let Some(trouble) = trouble {
                        work.heard(leader, trouble);
                    }
                }
            }
            let mut response = wire::append_response(outcome.map_err(raft_failed)?, promise);
            response.disk_nearly_full = disk.refuses_values();
            Ok(response)
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let group = self.checked_group(request.metadata())?;
        if !self.lifecycle.votes_allowed() {
            return Err(Status::unavailable(
                "this node has just restarted; it votes once a lease it may have granted before has run out",
            ));
        }
        let message = request.into_inner();
        let pre_vote = message.pre_vote;
        let mut message = wire::parse_vote_request(message)?;
        let sight = self.sight(&group, message.vote.leader_id);
        match judge(&message, &sight) {
            Verdict::Ask => {}
            Verdict::AskWithoutPrivilege => message.leadership_transfer = false,
            Verdict::Refuse(why) => {
                metrics::counter!("raftkv_raft_votes_refused_total").increment(1);
                tracing::debug!(candidate = %message.vote, pre_vote, why, "a candidate is refused");
                let refused = VoteResponse::new(sight.vote, sight.last_log_id, false);
                return Ok(Response::new(wire::vote_response(&refused)));
            }
        }
        let response = match pre_vote {
            true => group.raft.pre_vote(message).await,
            false => group.raft.vote(message).await,
        };
        Ok(Response::new(wire::vote_response(&response.map_err(raft_failed)?)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotPart>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        use proto::snapshot_part::Kind;
        let group = self.checked_group(request.metadata())?;
        let mut parts = request.into_inner();
        let first = tokio::time::timeout(SNAPSHOT_BEGIN_TIMEOUT, parts.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the description of the snapshot did not come in time"))?;
        let Some(proto::SnapshotPart { kind: Some(Kind::Begin(begin)) }) = first? else {
            return Err(Status::invalid_argument("a snapshot begins with its description"));
        };
        let vote = wire::parse_vote(begin.vote)?;
        check_leader(&vote, metrics_of(&group).vote.leader_id.term, self.node.identity.raft_id)
            .map_err(|why| Status::failed_precondition(format!("{vote}: {why}")))?;
        let meta = SnapshotMeta {
            last_log_id: begin.last_log_id.map(wire::parse_log_id).transpose()?,
            last_membership: wire::parse_stored_membership(&begin.membership)?,
        };
        if let Some(higher) = self.check_snapshot(&group, &vote).await? {
            return Ok(Response::new(proto::SnapshotResponse { vote: Some(wire::vote(&higher)) }));
        }
        // With its entries comes its clock; it tells what that shows with its next heartbeat.
        group.clock.heard(vote.leader_id, 0);
        let receiving = self.incoming.begin(vote).await?;
        tracing::info!(from = %vote, up_to = ?meta.last_log_id.map(|id| id.index()), "receiving a snapshot");
        failpoint!("sidecar::peer::before_snapshot");
        let staged = receiving.run(self.node.engine.snapshot_in(chunks(parts, receiving.counter()))).await?;
        let installing_turn = receiving.whole();
        failpoint!("sidecar::peer::snapshot_staged");
        let snapshot = openraft::alias::SnapshotOf::<TypeConfig, SnapshotData> {
            meta,
            snapshot: SnapshotData::Staged(staged.token),
        };
        // In a task of its own: a leader that goes away in the middle takes this call along, not the order to install. Until
        // that is done, no other snapshot is received, for it would take the place of this one in the engine.
        let installing = tokio::spawn(async move {
            let installed = group.raft.install_full_snapshot(vote, snapshot).await;
            drop(installing_turn);
            installed
        });
        let response = installing.await.map_err(raft_failed)?.map_err(raft_failed)?;
        failpoint!("sidecar::peer::snapshot_installed");
        Ok(Response::new(proto::SnapshotResponse { vote: Some(wire::vote(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let group = self.checked_group(request.metadata())?;
        let message = request.into_inner();
        let message = TransferLeaderRequest::<TypeConfig>::new(
            wire::parse_vote(message.from_leader)?,
            message.to_node_id,
            message.last_log_id.map(wire::parse_log_id).transpose()?,
        );
        if message.to_node_id() == &self.node.identity.raft_id && !*self.node.engine.connected().borrow() {
            return Ok(Response::new(proto::TransferLeaderResponse {
                accepted: false,
                message: "the engine of this node is gone".to_owned(),
            }));
        }
        // It ends the promise to the leader, and makes the successor stand: the leader's own word is needed for both. A leader of version
        // 0.1.0 gives none; then the successor stands, and the others keep their promise to the end.
        let is_named = group.peers.handover.is_to_member(*message.to_node_id(), metrics_of(&group).vote);
        let is_to_me = message.to_node_id() == &self.node.identity.raft_id;
        if !is_named && (self.names_successors() || !is_to_me) {
            return Ok(Response::new(proto::TransferLeaderResponse {
                accepted: false,
                message: "the leader has not named a successor".to_owned(),
            }));
        }
        let answer = group.raft.handle_transfer_leader(message).await.map_err(raft_failed)?;
        Ok(Response::new(match answer {
            Ok(()) => proto::TransferLeaderResponse { accepted: true, message: String::new() },
            Err(error) => proto::TransferLeaderResponse { accepted: false, message: error.to_string() },
        }))
    }

    async fn forward_propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ForwardProposeStream>, Status> {
        self.checked_group(request.metadata())?;
        let (proposals, sender) = (self.proposals.clone(), sender(request.metadata()));
        Ok(Response::new(answer_all(request.into_inner(), move |request| {
            let proposals = proposals.clone();
            async move { proposals.propose_as_leader(sender, request).await }
        })))
    }

    async fn forward_read_barrier(
        &self,
        request: Request<Streaming<ReadBarrierRequest>>,
    ) -> Result<Response<Self::ForwardReadBarrierStream>, Status> {
        self.checked_group(request.metadata())?;
        let (barriers, sender) = (self.barriers.clone(), sender(request.metadata()));
        Ok(Response::new(answer_all(request.into_inner(), move |request| {
            let barriers = barriers.clone();
            async move { barriers.barrier_as_leader(sender, request).await }
        })))
    }

    async fn identify(&self, _request: Request<proto::IdentifyRequest>) -> Result<Response<proto::Identity>, Status> {
        Ok(Response::new(self.identity()))
    }

    async fn adopt(&self, request: Request<proto::AdoptRequest>) -> Result<Response<proto::Identity>, Status> {
        let request = request.into_inner();
        self.lifecycle
            .adopt(&request.cluster_id, request.raft_id)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(self.identity()))
    }
}

/// Answers every request of a stream, many at a time, in the order they get done. Ends with the stream.
pub fn answer_all<Q, A, F, W>(requests: Streaming<Q>, work: F) -> BoxStream<'static, Result<A, Status>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(Q) -> W + Send + 'static,
    W: Future<Output = A> + Send + 'static,
{
    requests
        .take_while(|request| std::future::ready(request.is_ok()))
        .filter_map(|request| std::future::ready(request.ok()))
        .map(work)
        .buffer_unordered(MAX_IN_FLIGHT)
        .map(Ok)
        .boxed()
}

/// The chunks inside the parts. Ends early at anything unreadable, and when the next part takes too long: the engine then misses the trailer and refuses.
fn chunks(
    parts: Streaming<proto::SnapshotPart>,
    count: impl Fn(usize) + Send + 'static,
) -> impl Stream<Item = SnapshotChunk> + Send + 'static {
    let parts = tokio_stream::StreamExt::timeout(parts, SNAPSHOT_PART_TIMEOUT);
    let late = |error: &tokio_stream::Elapsed| tracing::warn!(limit = ?SNAPSHOT_PART_TIMEOUT, "a part of the snapshot: {error}");
    tokio_stream::StreamExt::map_while(parts, move |part| match part.inspect_err(late).ok()?.ok()?.kind? {
        proto::snapshot_part::Kind::Chunk(bytes) => {
            count(bytes.len());
            SnapshotChunk::decode(bytes).ok()
        }
        proto::snapshot_part::Kind::Begin(_) => None,
    })
}
