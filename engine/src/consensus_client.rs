//! [`ConsensusClient`]: the engine's client of the sidecar.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use raftkv_backend::BackendError;
use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_proto::consensus::consensus_client::ConsensusClient as Rpc;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{
    Applied, ConsensusStatus, GetStatusRequest, JoinRequest, LeaseAck, LeaseGrant, ProposeRequest, ProposeResponse,
    ReadBarrierRequest, ReadBarrierResponse, RemoveRequest,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::stream_link::StreamLink;

/// A client of the sidecar with a single connection, reconnected after each failure. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct ConsensusClient {
    rpc: Rpc<Channel>,
}

impl ConsensusClient {
    /// Makes a client on `channel`, connected on first use.
    pub fn new(channel: Channel) -> Self {
        let rpc =
            Rpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { rpc }
    }

    /// Opens the stream of proposals.
    pub fn proposals(&self) -> StreamLink<ProposeRequest, ProposeResponse> {
        let rpc = self.rpc.clone();
        StreamLink::new(move |requests| {
            let mut rpc = rpc.clone();
            async move { Ok(rpc.propose(ReceiverStream::new(requests)).await?.into_inner()) }.boxed()
        })
    }

    /// Opens a stream of read barriers.
    pub(crate) fn read_barriers(&self) -> StreamLink<ReadBarrierRequest, ReadBarrierResponse> {
        let rpc = self.rpc.clone();
        StreamLink::new(move |requests| {
            let mut rpc = rpc.clone();
            async move { Ok(rpc.read_barrier(ReceiverStream::new(requests)).await?.into_inner()) }.boxed()
        })
    }

    /// Opens the stream of leases.
    pub(crate) fn leases(&self) -> StreamLink<LeaseAck, LeaseGrant> {
        let rpc = self.rpc.clone();
        StreamLink::new(move |acks| {
            let mut rpc = rpc.clone();
            async move { Ok(rpc.lease(ReceiverStream::new(acks)).await?.into_inner()) }.boxed()
        })
    }

    /// Proposes one command on a separate stream and returns the answer. For rare commands only: clients' writes go
    /// through the proposer.
    pub(crate) async fn propose(&self, payload: Bytes, deadline: Instant) -> Result<Bytes, BackendError> {
        let timeout_ms =
            u32::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u32::MAX);
        let request = ProposeRequest { id: 1, payload, timeout_ms, callers: 1, takes_space: false };
        // Kept open until the answer arrives: the end of the requests would end the answers.
        let requests = futures::stream::once(std::future::ready(request)).chain(futures::stream::pending());
        let mut rpc = self.rpc.clone();
        let answered = async {
            let mut answers = rpc.propose(requests).await?.into_inner();
            answers.message().await
        };
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(Some(ProposeResponse { outcome: Some(outcome), .. }))) => match outcome {
                Outcome::Applied(Applied { answer, .. }) => Ok(answer),
                Outcome::Refused(refused) => Err(BackendError::Unavailable(refused.message)),
                Outcome::Unknown(unknown) => Err(BackendError::OutcomeUnknown(unknown.message)),
            },
            Ok(Ok(_)) => Err(BackendError::OutcomeUnknown("the sidecar sent no answer".to_owned())),
            Ok(Err(status)) => {
                let reason = raftkv_runtime::reason::call(&status, "");
                Err(BackendError::OutcomeUnknown(format!("the sidecar was lost: {reason}")))
            }
            Err(_) => Err(BackendError::OutcomeUnknown("the sidecar did not answer in time".to_owned())),
        }
    }

    /// The state of consensus as known to this node.
    pub async fn status(&self, deadline: Instant) -> Result<ConsensusStatus, BackendError> {
        let mut rpc = self.rpc.clone();
        within(deadline, rpc.get_status(GetStatusRequest {}), Effect::None).await
    }

    /// Adds a node to the group; returns a description of the result.
    pub async fn join(&self, deadline: Instant, name: String, raft_address: String) -> Result<String, BackendError> {
        let mut rpc = self.rpc.clone();
        let request = with_timeout(JoinRequest { name, raft_address }, deadline);
        Ok(within(deadline, rpc.join(request), Effect::Membership).await?.result)
    }

    /// Removes a node from the group; returns a description of the result.
    pub async fn remove(&self, deadline: Instant, name: String) -> Result<String, BackendError> {
        let mut rpc = self.rpc.clone();
        let request = with_timeout(RemoveRequest { name }, deadline);
        Ok(within(deadline, rpc.remove(request), Effect::Membership).await?.result)
    }
}

/// Possible effect of a call with a lost answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Membership,
}

fn with_timeout<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    // gRPC cannot carry a timeout of zero.
    request.set_timeout(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    request
}

async fn within<T>(
    deadline: Instant,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    effect: Effect,
) -> Result<T, BackendError> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error_of(&status, effect)),
        Err(_) => Err(error_of(&Status::deadline_exceeded("the sidecar did not answer in time"), effect)),
    }
}

fn error_of(status: &Status, effect: Effect) -> BackendError {
    // Only a local transport error has a source.
    let message = match std::error::Error::source(status) {
        Some(_) => format!("the sidecar cannot be reached: {}", raftkv_runtime::reason::call(status, "")),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::PermissionDenied => BackendError::Rejected(message),
        Code::Unavailable => BackendError::Unavailable(message),
        Code::ResourceExhausted => BackendError::Overloaded { retry_after: Duration::from_secs(1) },
        // The call may have been cut after taking effect.
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted if effect == Effect::Membership => {
            BackendError::OutcomeUnknown(message)
        }
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted => BackendError::Unavailable(message),
        _ => BackendError::Internal(format!("the sidecar answered {}: {message}", status.code())),
    }
}
