//! [`PeerClient`]: sends valid and invalid peer messages to a sidecar.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use raftkv_proto::consensus::ProposeRequest;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::raft::raft_client::RaftClient;
use raftkv_proto::raft::{
    AdoptRequest, IdentifyRequest, Identity, LeaderId, LogId, SnapshotBegin, SnapshotPart, SnapshotResponse,
    TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest, VoteResponse, snapshot_part,
};
use raftkv_proto::{CLUSTER_ID_HEADER, TARGET_ID_HEADER, WIRE_VERSION, WIRE_VERSION_HEADER};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A sidecar on this machine answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a sidecar's raft port.
#[derive(Debug, Clone)]
pub struct PeerClient {
    client: RaftClient<Channel>,
}

impl PeerClient {
    /// As [`new`](Self::new), without a timeout, for calls that the member may hold.
    pub fn patient(address: SocketAddr) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
        Ok(Self { client: RaftClient::new(channel) })
    }

    /// Connects on the first call.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.timeout(TIMEOUT).connect_lazy();
        Ok(Self { client: RaftClient::new(channel) })
    }

    /// Reads the member's identity.
    pub async fn identify(&mut self) -> Result<Identity, Status> {
        Ok(self.client.identify(IdentifyRequest {}).await?.into_inner())
    }

    /// Adopts the member into a cluster.
    pub async fn adopt(&mut self, cluster_id: &str, raft_id: u64) -> Result<Identity, Status> {
        Ok(self.client.adopt(AdoptRequest { cluster_id: cluster_id.to_owned(), raft_id }).await?.into_inner())
    }

    /// Requests a vote on behalf of the candidate in the request.
    pub async fn vote(&mut self, cluster_id: &str, raft_id: u64, vote: VoteRequest) -> Result<VoteResponse, Status> {
        let request = addressed(vote, cluster_id, raft_id, WIRE_VERSION)?;
        Ok(self.client.vote(request).await?.into_inner())
    }

    /// Forwards payloads as a follower's sidecar would. Answers are in the order of the payloads; a missing answer is `None`.
    pub async fn forward(
        &mut self,
        cluster_id: &str,
        raft_id: u64,
        payloads: Vec<Bytes>,
    ) -> Result<Vec<Option<Outcome>>, Status> {
        let mut outcomes = vec![None; payloads.len()];
        let requests: Vec<ProposeRequest> = (1..)
            .zip(payloads)
            .map(|(id, payload)| ProposeRequest { id, payload, timeout_ms: 2_000, callers: 1, takes_space: false })
            .collect();
        let requests = addressed(futures::stream::iter(requests), cluster_id, raft_id, WIRE_VERSION)?;
        let mut answers = self.client.forward_propose(requests).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if let Some(outcome) = outcomes.get_mut(answer.id.saturating_sub(1) as usize) {
                *outcome = answer.outcome;
            }
        }
        Ok(outcomes)
    }

    /// On behalf of the leader, announces a transfer of leadership to `to`.
    pub async fn transfer_leader(
        &mut self,
        cluster_id: &str,
        raft_id: u64,
        transfer: TransferLeaderRequest,
    ) -> Result<TransferLeaderResponse, Status> {
        let request = addressed(transfer, cluster_id, raft_id, WIRE_VERSION)?;
        Ok(self.client.transfer_leader(request).await?.into_inner())
    }

    /// Requests a vote in a far future term, with the given addressing.
    pub async fn ask_for_vote(&mut self, cluster_id: &str, raft_id: u64, wire: u32) -> Result<VoteResponse, Status> {
        let leader_id = LeaderId { term: 1_000_000, node_id: 4_711 };
        let request = VoteRequest {
            vote: Some(Vote { leader_id: Some(leader_id), committed: false }),
            last_log_id: Some(LogId { leader_id: Some(leader_id), index: 1_000_000_000 }),
            pre_vote: false,
            // Otherwise the leader's lease would hide the tested behaviour.
            leadership_transfer: true,
        };
        let request = addressed(request, cluster_id, raft_id, wire)?;
        Ok(self.client.vote(request).await?.into_inner())
    }

    /// Starts a snapshot transfer as the leader of a far future term, with the description only. Ends with the rejection.
    pub async fn describe_snapshot(&mut self, cluster_id: &str, raft_id: u64) -> Result<SnapshotResponse, Status> {
        let leader_id = LeaderId { term: 1_000_000, node_id: 4_711 };
        self.describe_snapshot_of(cluster_id, raft_id, leader_id).await
    }

    /// The same with a chosen leader.
    pub async fn describe_snapshot_of(
        &mut self,
        cluster_id: &str,
        raft_id: u64,
        leader_id: LeaderId,
    ) -> Result<SnapshotResponse, Status> {
        let begin = SnapshotBegin {
            vote: Some(Vote { leader_id: Some(leader_id), committed: true }),
            last_log_id: Some(LogId { leader_id: Some(leader_id), index: 1_000_000_000 }),
            // An empty membership, as in a state without any.
            membership: Bytes::new(),
        };
        let part = SnapshotPart { kind: Some(snapshot_part::Kind::Begin(begin)) };
        let parts = futures::stream::once(std::future::ready(part)).chain(futures::stream::pending());
        let request = addressed(parts, cluster_id, raft_id, WIRE_VERSION)?;
        Ok(self.client.snapshot(request).await?.into_inner())
    }
}

/// Addresses a message to a node of a cluster.
fn addressed<T>(message: T, cluster_id: &str, raft_id: u64, wire: u32) -> Result<Request<T>, Status> {
    let text = |value: String| value.parse().map_err(|_| Status::invalid_argument("not a header value"));
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(CLUSTER_ID_HEADER, text(cluster_id.to_owned())?);
    metadata.insert(TARGET_ID_HEADER, text(raft_id.to_string())?);
    metadata.insert(WIRE_VERSION_HEADER, text(wire.to_string())?);
    Ok(request)
}
