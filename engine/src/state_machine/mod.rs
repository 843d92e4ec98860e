//! The gRPC service for consensus to drive the [`Store`].
//!
//! Store errors become status codes only in [`status`]; errors of an upgrade are converted as for routers.
//!
//! | code                  | meaning                                                                        |
//! |-----------------------|--------------------------------------------------------------------------------|
//! | `FAILED_PRECONDITION` | earlier entries are missing, or an unwanted snapshot                           |
//! | `DATA_LOSS`           | stored data or a received snapshot is damaged                                  |
//! | `INVALID_ARGUMENT`    | a message outside the contract                                                 |
//! | `ABORTED`             | another apply stream has taken over                                            |
//! | `UNAVAILABLE`         | the store has stopped: this process is ending                                  |
//! | `RESOURCE_EXHAUSTED`  | not enough disk space at the moment; nothing was changed                       |
//! | `INTERNAL`            | the disk failed; this process is ending                                        |

mod apply;
mod snapshot;
mod status;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::Stream;
use raftkv_proto::consensus::{UpgradeRequest, UpgradeStatus};
use raftkv_proto::state_machine as pb;
use raftkv_proto::state_machine::state_machine_server::{StateMachine, StateMachineServer};
use raftkv_proto::{MAX_MESSAGE_BYTES, SPOKEN};
use raftkv_store::{Position, Store, StoreError};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::disk_guard::DiskGuard;
use crate::group::status::of_backend;
use crate::upgrade::Upgrader;

/// Status fields from outside the store.
#[derive(Clone, Debug, Default)]
pub struct ServiceInfo {
    /// HTTP address of this engine, as reachable for clients.
    pub http_address: String,
    /// Reports whether values are refused; for `disk_nearly_full`.
    pub disk: Option<DiskGuard>,
}

/// Slot for the [`Upgrader`], filled once the rest of the engine has started.
pub type UpgraderSlot = Arc<OnceLock<Upgrader>>;

/// Serves `raftkv_proto::state_machine` over a [`Store`].
#[derive(Clone)]
pub struct StateMachineService {
    store: Store,
    info: ServiceInfo,
    upgrader: UpgraderSlot,
    /// Number of the active apply stream: the newest. Older streams end on seeing a different number.
    streams: watch::Sender<u64>,
}

impl StateMachineService {
    /// Serves `store`.
    pub fn new(store: Store, info: ServiceInfo) -> Self {
        Self { store, info, upgrader: UpgraderSlot::default(), streams: watch::Sender::new(0) }
    }

    /// The slot for the [`Upgrader`].
    pub fn upgrader(&self) -> UpgraderSlot {
        Arc::clone(&self.upgrader)
    }

    /// Adds the cluster version, clock and supported versions of this engine to a position.
    fn position(&self, at: Position) -> pb::Position {
        pb::Position {
            cluster_version: self.store.version(),
            version_min: SPOKEN.min,
            version_max: SPOKEN.max,
            clock_ms: self.store.clock_ms(),
            next_deadline_ms: self.store.next_deadline_ms(),
            ..position(at)
        }
    }

    /// Returns the tonic service with the message size limits of the contract.
    pub fn into_server(self) -> StateMachineServer<Self> {
        StateMachineServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StateMachine for StateMachineService {
    type ApplyStream = BoxStream<pb::ApplyResponse>;
    type SnapshotOutStream = BoxStream<pb::SnapshotChunk>;

    async fn get_position(&self, _: Request<pb::GetPositionRequest>) -> Result<Response<pb::Position>, Status> {
        Ok(Response::new(self.position(self.store.position())))
    }

    async fn apply(
        &self,
        request: Request<Streaming<pb::ApplyRequest>>,
    ) -> Result<Response<Self::ApplyStream>, Status> {
        let stream = apply::start(self.store.clone(), request.into_inner(), &self.streams);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn persist(&self, _: Request<pb::PersistRequest>) -> Result<Response<pb::Position>, Status> {
        let store = self.store.clone();
        Ok(Response::new(self.position(blocking(move || store.persist()).await?)))
    }

    async fn snapshot_out(
        &self,
        _: Request<pb::SnapshotOutRequest>,
    ) -> Result<Response<Self::SnapshotOutStream>, Status> {
        Ok(Response::new(Box::pin(snapshot::send(self.store.clone()))))
    }

    async fn snapshot_in(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::StagedSnapshot>, Status> {
        let token = snapshot::receive(self.store.clone(), request.into_inner()).await?;
        Ok(Response::new(pb::StagedSnapshot { token }))
    }

    async fn activate_snapshot(&self, request: Request<pb::StagedSnapshot>) -> Result<Response<pb::Position>, Status> {
        let token = request.into_inner().token;
        let activated = self.store.activate(token).await.map_err(|error| status::of_store(&error))?;
        Ok(Response::new(self.position(activated)))
    }

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::EngineStatus>, Status> {
        let store = self.store.clone();
        let found = blocking(move || store.status()).await?;
        Ok(Response::new(pb::EngineStatus {
            position: Some(self.position(found.position)),
            revision: found.revision,
            keys: found.keys,
            disk_bytes: found.disk_bytes,
            disk_free_bytes: found.disk_free_bytes,
            disk_nearly_full: self.info.disk.as_ref().is_some_and(DiskGuard::is_nearly_full),
            generation: found.generation,
            http_address: self.info.http_address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            group: found.ownership.group,
            owned_slots: u32::try_from(found.ownership.owned.len()).unwrap_or(u32::MAX),
            moving: found.ownership.incoming.is_some() || found.ownership.outgoing.is_some(),
            cluster_version: found.version,
        }))
    }

    async fn upgrade(&self, request: Request<UpgradeRequest>) -> Result<Response<UpgradeStatus>, Status> {
        let upgrader = self.upgrader.get().ok_or_else(|| Status::unavailable("this engine is starting"))?;
        upgrader.handle(request.into_inner()).await.map(Response::new).map_err(of_backend)
    }
}

/// Converts a position, without the fields of this process.
fn position(position: Position) -> pb::Position {
    let Position { next_index, log_id, membership } = position;
    pb::Position { next_index, log_id, membership, ..pb::Position::default() }
}

/// Runs blocking disk work outside the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| status::of_store(&error)),
        Err(error) => Err(Status::internal(format!("a storage task ended early: {error}"))),
    }
}

/// Maximum requests of the sidecar in flight per stream.
#[cfg(test)]
pub(crate) const APPLIES_IN_FLIGHT: usize = apply::IN_FLIGHT;
