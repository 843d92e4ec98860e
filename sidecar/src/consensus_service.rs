//! [`ConsensusService`]: answers this node's engine.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_proto::consensus::consensus_server::{Consensus, ConsensusServer};
use raftkv_proto::consensus::{
    ConsensusStatus, GetStatusRequest, JoinRequest, JoinResponse, LeaseAck, LeaseGrant, ProposeRequest,
    ProposeResponse, ReadBarrierRequest, ReadBarrierResponse, RemoveRequest, RemoveResponse,
};
use raftkv_runtime::clock;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::barrier::ReadBarriers;
use crate::lease::EngineStream;
use crate::membership::Membership;
use crate::node::Node;
use crate::peer_service::answer_all;
use crate::proposals::Proposals;
use crate::status;

/// How long a change of membership asked by the engine's clients may take before it answers that it goes on.
const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(10);

/// The gRPC service that the engine calls.
pub struct ConsensusService {
    node: Node,
    proposals: Proposals,
    barriers: ReadBarriers,
    membership: Arc<Membership>,
}

impl ConsensusService {
    /// The service over this node's parts, ready to be added to a server.
    pub fn server(
        node: Node,
        proposals: Proposals,
        barriers: ReadBarriers,
        membership: Arc<Membership>,
    ) -> ConsensusServer<Self> {
        ConsensusServer::new(Self { node, proposals, barriers, membership })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Consensus for ConsensusService {
    type ProposeStream = BoxStream<'static, Result<ProposeResponse, Status>>;
    type ReadBarrierStream = BoxStream<'static, Result<ReadBarrierResponse, Status>>;
    type LeaseStream = BoxStream<'static, Result<LeaseGrant, Status>>;

    async fn propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let proposals = self.proposals.clone();
        Ok(Response::new(answer_all(request.into_inner(), move |request| {
            let proposals = proposals.clone();
            async move { proposals.propose(request).await }
        })))
    }

    async fn read_barrier(
        &self,
        request: Request<Streaming<ReadBarrierRequest>>,
    ) -> Result<Response<Self::ReadBarrierStream>, Status> {
        let barriers = self.barriers.clone();
        Ok(Response::new(answer_all(request.into_inner(), move |request| {
            let barriers = barriers.clone();
            async move { barriers.barrier(request).await }
        })))
    }

    async fn lease(&self, request: Request<Streaming<LeaseAck>>) -> Result<Response<Self::LeaseStream>, Status> {
        let (engine, grants) = self.node.keeper.open();
        tokio::spawn(follow_engine(engine, request.into_inner()));
        Ok(Response::new(ReceiverStream::new(grants).map(Ok).boxed()))
    }

    async fn get_status(&self, _request: Request<GetStatusRequest>) -> Result<Response<ConsensusStatus>, Status> {
        Ok(Response::new(status::consensus_status(&self.node).await))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let JoinRequest { name, raft_address } = request.into_inner();
        let deadline = tokio::time::Instant::now() + MEMBERSHIP_DEADLINE;
        let result = self.membership.join(&name, &raft_address, deadline).await.map_err(Status::from)?;
        Ok(Response::new(JoinResponse { result: result.to_string() }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let deadline = tokio::time::Instant::now() + MEMBERSHIP_DEADLINE;
        let result = self.membership.remove(&request.into_inner().name, false, deadline).await.map_err(Status::from)?;
        Ok(Response::new(RemoveResponse { result: result.to_string() }))
    }
}

/// Until the engine ends its stream: what it says of the lease.
async fn follow_engine(engine: EngineStream, mut acks: Streaming<LeaseAck>) {
    while let Ok(Some(LeaseAck { clock_id, revocation })) = acks.message().await {
        if revocation != 0 {
            engine.acknowledged(revocation);
        } else if Some(&clock_id) == clock::boottime_id().as_ref() {
            engine.admit();
        } else {
            tracing::warn!(clock_id, "the engine reads another clock than this process: no lease for it");
        }
    }
}
