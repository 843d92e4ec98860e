//! [`EngineClient`]: the connection to this node's engine, its state machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_proto::consensus::{UpgradeRequest, UpgradeStatus};
use raftkv_proto::state_machine::state_machine_client::StateMachineClient;
use raftkv_proto::state_machine::{
    ApplyRequest, ApplyResponse, EngineStatus, GetPositionRequest, GetStatusRequest, PersistRequest, Position,
    SnapshotChunk, SnapshotOutRequest, StagedSnapshot,
};
use raftkv_proto::{FIRST_VERSION, MAX_MESSAGE_BYTES, VersionRange};
use raftkv_runtime::grpc::ChannelOptions;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::engine::versions::{EngineVersions, Versions};

/// How often the engine is asked for a sign of life.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// An engine silent for this long counts as gone. A refused connection counts at once.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Waits between attempts of a call that must succeed in the end.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest of them.
const RETRY_LAST: Duration = Duration::from_millis(250);
/// Apply requests read ahead of the connection.
const APPLY_QUEUE: usize = 4;

/// The connection to the engine. Cheap to clone; a broken connection is made again by itself.
#[derive(Clone)]
pub struct EngineClient {
    client: StateMachineClient<Channel>,
    connected: Arc<watch::Sender<bool>>,
    stands_at: Arc<watch::Sender<Option<u64>>>,
    versions: Versions,
}

/// An open stream of entries to apply.
pub struct ApplyStream {
    requests: mpsc::Sender<ApplyRequest>,
    responses: Streaming<ApplyResponse>,
}

impl EngineClient {
    /// A client that connects on first use.
    pub fn new(endpoint: &raftkv_runtime::grpc::Endpoint) -> Result<Self, tonic::transport::Error> {
        let client = StateMachineClient::new(raftkv_runtime::grpc::connect_lazy(endpoint, ChannelOptions::default())?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (connected, stands_at) = (watch::Sender::new(false), watch::Sender::new(None));
        let versions = Versions::default();
        Ok(Self { client, connected: Arc::new(connected), stands_at: Arc::new(stands_at), versions })
    }

    /// Which versions the engine speaks, and its state has, as it said last.
    pub fn versions(&self) -> Versions {
        self.versions.clone()
    }

    /// Whether the engine answers. Kept true to life by [`watch_engine`](Self::watch_engine).
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// What the engine said when it was asked for a sign of life: the index of the next entry, `None` = nothing. Changes with every
    /// answer, also when it is the same, and there is one question at a time.
    pub fn positions(&self) -> watch::Receiver<Option<u64>> {
        self.stands_at.subscribe()
    }

    /// Asks the engine for a sign of life for ever; to be run as a task.
    pub async fn watch_engine(self) {
        loop {
            let answer = tokio::time::timeout(PROBE_TIMEOUT, self.position()).await;
            let position = answer.as_ref().ok().and_then(|answer| answer.as_ref().ok());
            if let Some(position) = position {
                self.versions.engine_says(EngineVersions {
                    next_index: position.next_index,
                    clock_ms: position.clock_ms,
                    next_deadline_ms: position.next_deadline_ms,
                    cluster: position.cluster_version.max(FIRST_VERSION),
                    spoken: VersionRange::from_wire(position.version_min, position.version_max),
                });
            }
            let stands_at = position.map(|position| position.next_index);
            let alive = stands_at.is_some();
            self.stands_at.send_replace(stands_at);
            let changed = self.connected.send_if_modified(|connected| std::mem::replace(connected, alive) != alive);
            if changed && alive {
                tracing::info!("the engine answers");
            } else if changed {
                let reason = match answer {
                    Ok(Ok(_)) => String::new(),
                    Ok(Err(status)) => raftkv_runtime::reason::call(&status, ""),
                    Err(_) => format!("no answer within {PROBE_TIMEOUT:?}"),
                };
                tracing::warn!(reason, "the engine is gone");
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    /// Where the state machine stands.
    pub async fn position(&self) -> Result<Position, Status> {
        Ok(self.client.clone().get_position(GetPositionRequest {}).await?.into_inner())
    }

    /// Makes everything applied so far durable; says up to where.
    pub async fn persist(&self) -> Result<Position, Status> {
        Ok(self.client.clone().persist(PersistRequest {}).await?.into_inner())
    }

    /// Figures for operators.
    pub async fn status(&self) -> Result<EngineStatus, Status> {
        Ok(self.client.clone().get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// Shows, holds or raises the cluster version, at the leader's engine.
    pub async fn upgrade(&self, request: UpgradeRequest) -> Result<UpgradeStatus, Status> {
        Ok(self.client.clone().upgrade(request).await?.into_inner())
    }

    /// Opens a stream of the whole state.
    pub async fn snapshot_out(&self) -> Result<Streaming<SnapshotChunk>, Status> {
        Ok(self.client.clone().snapshot_out(SnapshotOutRequest {}).await?.into_inner())
    }

    /// Sends a whole state to be verified and made durable beside the live one.
    pub async fn snapshot_in(
        &self,
        chunks: impl futures::Stream<Item = SnapshotChunk> + Send + 'static,
    ) -> Result<StagedSnapshot, Status> {
        Ok(self.client.clone().snapshot_in(chunks).await?.into_inner())
    }

    /// Makes a staged state the live one.
    pub async fn activate(&self, token: u64) -> Result<Position, Status> {
        Ok(self.client.clone().activate_snapshot(StagedSnapshot { token }).await?.into_inner())
    }

    /// Opens a stream of entries to apply.
    pub async fn apply_stream(&self) -> Result<ApplyStream, Status> {
        let (requests, receiver) = mpsc::channel(APPLY_QUEUE);
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = self.client.clone().apply(receiver).await?.into_inner();
        Ok(ApplyStream { requests, responses })
    }

    /// Repeats a call until it succeeds: the engine may be gone for as long as it takes. Gives up only on an answer that
    /// says that repeating cannot help.
    pub async fn until_done<T, F>(&self, what: &str, call: impl FnMut(Self) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.until_done_within(Duration::MAX, what, call).await
    }

    /// [`until_done`](Self::until_done), but gives up `patience` after the first attempt that failed. An attempt that takes long is
    /// waited for: the connection tells when the engine hangs.
    pub async fn until_done_within<T, F>(
        &self,
        patience: Duration,
        what: &str,
        mut call: impl FnMut(Self) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut wait = RETRY_FIRST;
        let mut failing_since = None;
        loop {
            match call(self.clone()).await {
                Ok(done) => return Ok(done),
                Err(status) if is_final(status.code()) => return Err(status),
                Err(status) if failing_since.get_or_insert_with(Instant::now).elapsed() >= patience => {
                    return Err(status);
                }
                Err(status) => tracing::debug!(what, %status, "the engine does not answer, trying again"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_LAST);
        }
    }
}

impl ApplyStream {
    /// Sends one request and waits for its answer.
    pub async fn apply(&mut self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        if self.requests.send(request).await.is_err() {
            // The reason, when there is one, waits on the other side.
            return Err(match self.responses.message().await {
                Err(status) => status,
                Ok(_) => Status::unavailable("the apply stream was closed"),
            });
        }
        match self.responses.message().await? {
            Some(response) => Ok(response),
            None => Err(Status::unavailable("the apply stream ended")),
        }
    }

    /// [`apply`](Self::apply), and the index after the request's last entry. The engine stands there now, or further on.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it says that it stands before that.
    pub async fn applied(&mut self, request: ApplyRequest) -> Result<(ApplyResponse, u64), Status> {
        let bounds = request.entries.first().zip(request.entries.last()).map(|(first, last)| (first.index, last.index));
        let response = self.apply(request).await?;
        match bounds {
            Some((first, last)) if response.next_index <= last => Err(Status::failed_precondition(format!(
                "the engine answered position {} to entries {first} to {last}",
                response.next_index
            ))),
            Some((_, last)) => Ok((response, last + 1)),
            None => {
                let end = response.next_index;
                Ok((response, end))
            }
        }
    }
}

/// Whether an answer of this kind says that the same call can never succeed.
pub fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::InvalidArgument | Code::DataLoss | Code::Unimplemented | Code::OutOfRange
    )
}
