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

use crate::lead::barrier::ReadBarriers;
use crate::lead::membership::Membership;
use crate::lead::proposals::Proposals;
use crate::life::lifecycle::Lifecycle;
use crate::node::Node;
use crate::raft::keeper::EngineStream;
use crate::serve::peer_service::answer_all;
use crate::serve::status;

/// How long a change of membership asked by the engine's clients may take before it answers that it goes on.
const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(10);

/// The gRPC service that the engine calls.
pub struct ConsensusService {
    node: Node,
    proposals: Proposals,
    barriers: ReadBarriers,
    membership: Arc<Membership>,
    lifecycle: Arc<Lifecycle>,
}

impl ConsensusService {
    /// The service over this node's parts, ready to be added to a server.
    pub fn server(
        node: Node,
        proposals: Proposals,
        barriers: ReadBarriers,
        membership: Arc<Membership>,
        lifecycle: Arc<Lifecycle>,
    ) -> ConsensusServer<Self> {
        ConsensusServer::new(Self { node, proposals, barriers, membership, lifecycle })
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
        Ok(Response::new(status::consensus_status(&self.node, &self.lifecycle).await))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let JoinRequest { name, raft_address } = request.into_inner();
        let result = self.membership.join(&name, &raft_address, None, deadline).await.map_err(Status::from)?;
        Ok(Response::new(JoinResponse { result: result.to_string() }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let result = self.membership.remove(&request.into_inner().name, false, deadline).await.map_err(Status::from)?;
        Ok(Response::new(RemoveResponse { result: result.to_string() }))
    }
}

/// Until when a change of membership may begin: no longer than the engine waits for it.
fn deadline_of(metadata: &tonic::metadata::MetadataMap) -> tokio::time::Instant {
    let asked = metadata.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
    tokio::time::Instant::now() + asked.map_or(MEMBERSHIP_DEADLINE, |asked| asked.min(MEMBERSHIP_DEADLINE))
}

/// gRPC's form of a duration: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = digits.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3_600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(number)
}

/// Until the engine ends its stream: what it says of the lease.
async fn follow_engine(engine: EngineStream, mut acks: Streaming<LeaseAck>) {
    let mut is_told = false;
    while let Ok(Some(LeaseAck { clock_id, revocation })) = acks.message().await {
        if revocation != 0 {
            engine.acknowledged(revocation);
        } else if Some(&clock_id) == clock::boottime_id().as_ref() {
            engine.admit();
        } else if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(clock_id, "the engine reads another clock than this process: no lease for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_deadline_is_read_as_grpc_writes_it() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(grpc_timeout("99999999u"), Some(Duration::from_micros(99_999_999)));
        for text in ["", "m", "5", "5x", "-1S", "5ü"] {
            assert_eq!(grpc_timeout(text), None, "{text:?}");
        }
    }
}
