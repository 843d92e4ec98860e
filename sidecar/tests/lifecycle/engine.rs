//! An engine in memory: a list of payloads behind the StateMachine service.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use raftkv_proto::consensus::{UpgradeRequest, UpgradeStatus};
use raftkv_proto::state_machine::state_machine_server::{StateMachine, StateMachineServer};
use raftkv_proto::state_machine::{
    ApplyRequest, ApplyResponse, EngineStatus, GetPositionRequest, GetStatusRequest, PersistRequest, Position,
    SnapshotChunk, SnapshotHeader, SnapshotOutRequest, SnapshotTrailer, StagedSnapshot, entry, snapshot_chunk,
};
use raftkv_runtime::grpc::{self, Endpoint, Listener};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::eventually;

type Chunks = Pin<Box<dyn Stream<Item = Result<SnapshotChunk, Status>> + Send>>;
type Answers = Pin<Box<dyn Stream<Item = Result<ApplyResponse, Status>> + Send>>;

#[derive(Default)]
struct State {
    position: Position,
    payloads: Vec<Bytes>,
    staged: Option<(Position, Vec<Bytes>)>,
    group: u32,
    owned_slots: u32,
    /// Orders to activate are refused for the moment, and counted.
    activation_is_held: bool,
    activations_held: usize,
    /// What an order to activate does is done, but its answer is lost; once.
    next_activation_is_lost: bool,
    /// Its process dies and another one stands here when the next stream is opened.
    loses_at_next_stream: Option<u64>,
    /// The staged snapshot goes live right before the next request on a stream, as one that waited before it in the queue.
    activates_at_next_request: bool,
    /// How often it was asked for its position.
    asked: usize,
}

impl State {
    fn activate(&mut self) -> Result<Position, Status> {
        let (position, payloads) = self.staged.take().ok_or_else(|| Status::failed_precondition("nothing staged"))?;
        self.position = position;
        self.payloads = payloads;
        Ok(self.position.clone())
    }

    /// Back to what was durable. Every entry has one payload.
    fn lose(&mut self, next_index: u64) {
        self.payloads.truncate(usize::try_from(next_index).expect("small"));
        self.position.next_index = next_index;
    }
}

/// A server, in a runtime of its own so that it can be killed.
pub(crate) struct Serving {
    runtime: Option<Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Survives its servers, as a disk would.
#[derive(Clone, Default)]
pub(crate) struct FakeEngine {
    state: Arc<Mutex<State>>,
}

impl FakeEngine {
    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.lock().payloads.clone()
    }

    /// How often it was asked for its position so far.
    pub(crate) fn asked(&self) -> usize {
        self.lock().asked
    }

    /// Says from now on that its group has this id in a sharded store, and owns so many slots.
    pub(crate) fn owns(&self, group: u32, slots: u32) {
        let mut state = self.lock();
        (state.group, state.owned_slots) = (group, slots);
    }

    /// Where it stands.
    pub(crate) fn next_index(&self) -> u64 {
        self.lock().position.next_index
    }

    /// Has received a snapshot with so many entries under the token 1.
    pub(crate) fn stage(&self, entries: u64) {
        let position = Position { next_index: entries, ..Position::default() };
        self.lock().staged = Some((position, (0..entries).map(|_| Bytes::from_static(b"staged")).collect()));
    }

    /// Makes the staged snapshot live, as if an earlier process had ordered it.
    pub(crate) fn activate_now(&self) {
        self.lock().activate().expect("staged");
    }

    /// Its process dies with what is not durable, and is back at once.
    pub(crate) fn lose(&self, next_index: u64) {
        self.lock().lose(next_index);
    }

    pub(crate) fn lose_at_next_stream(&self, next_index: u64) {
        self.lock().loses_at_next_stream = Some(next_index);
    }

    pub(crate) fn activate_at_next_request(&self) {
        self.lock().activates_at_next_request = true;
    }

    pub(crate) fn lose_next_activation(&self) {
        self.lock().next_activation_is_lost = true;
    }

    pub(crate) fn hold_activation(&self, hold: bool) {
        self.lock().activation_is_held = hold;
    }

    /// How many orders to activate were refused for the moment.
    pub(crate) fn activations_held(&self) -> usize {
        self.lock().activations_held
    }

    /// Serves on a socket until what it returns is dropped: then it is gone at once, with its connections.
    pub(crate) async fn serve(&self, socket: &Path) -> Serving {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let endpoint = Endpoint::unix(socket).expect("short path");
        let engine = self.clone();
        let bound = runtime.spawn(async move {
            let listener = eventually("the socket is free", || async { Listener::bind(&endpoint).await.ok() }).await;
            let server = grpc::server().add_service(StateMachineServer::new(engine));
            tokio::spawn(
                server.serve_with_incoming(listener.into_bounded_stream(raftkv_runtime::grpc::LINK_CONNECTIONS)),
            );
        });
        bound.await.expect("bound");
        Serving { runtime: Some(runtime) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_one(&self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        let mut state = self.lock();
        if std::mem::take(&mut state.activates_at_next_request) {
            state.activate()?;
        }
        let mut answers = Vec::new();
        for entry in request.entries {
            let next = state.position.next_index;
            if entry.index < next {
                answers.push(Bytes::new());
                continue;
            }
            if entry.index > next {
                return Err(Status::failed_precondition(format!("entry {} after {next}", entry.index)));
            }
            state.position.next_index = next + 1;
            state.position.log_id = entry.log_id;
            answers.push(match entry.kind {
                Some(entry::Kind::Payload(payload)) => {
                    state.payloads.push(payload.clone());
                    payload
                }
                Some(entry::Kind::Membership(membership)) => {
                    state.position.membership = membership;
                    Bytes::new()
                }
                _ => Bytes::new(),
            });
        }
        Ok(ApplyResponse { next_index: state.position.next_index, answers })
    }
}

#[tonic::async_trait]
impl StateMachine for FakeEngine {
    type ApplyStream = Answers;
    type SnapshotOutStream = Chunks;

    async fn get_position(&self, _: Request<GetPositionRequest>) -> Result<Response<Position>, Status> {
        let mut state = self.lock();
        state.asked += 1;
        Ok(Response::new(state.position.clone()))
    }

    async fn apply(&self, requests: Request<Streaming<ApplyRequest>>) -> Result<Response<Answers>, Status> {
        let mut state = self.lock();
        if let Some(next_index) = state.loses_at_next_stream.take() {
            state.lose(next_index);
        }
        drop(state);
        let engine = self.clone();
        let answers = requests.into_inner().map(move |request| engine.apply_one(request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn persist(&self, _: Request<PersistRequest>) -> Result<Response<Position>, Status> {
        Ok(Response::new(self.lock().position.clone()))
    }

    async fn snapshot_out(&self, _: Request<SnapshotOutRequest>) -> Result<Response<Chunks>, Status> {
        let state = self.lock();
        let header = SnapshotHeader { format: 1, position: Some(state.position.clone()), estimated_bytes: 0 };
        let trailer = SnapshotTrailer { records: state.payloads.len() as u64, crc32c: 0 };
        let data = state.payloads.clone().into_iter().map(snapshot_chunk::Kind::Data);
        let kinds: Vec<_> = std::iter::once(snapshot_chunk::Kind::Header(header))
            .chain(data)
            .chain([snapshot_chunk::Kind::Trailer(trailer)])
            .map(|kind| Ok(SnapshotChunk { kind: Some(kind) }))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(kinds))))
    }

    async fn snapshot_in(&self, chunks: Request<Streaming<SnapshotChunk>>) -> Result<Response<StagedSnapshot>, Status> {
        let mut chunks = chunks.into_inner();
        let (mut position, mut payloads, mut records) = (None, Vec::new(), None);
        while let Some(chunk) = chunks.message().await? {
            match chunk.kind {
                Some(snapshot_chunk::Kind::Header(header)) => position = header.position,
                Some(snapshot_chunk::Kind::Data(data)) => payloads.push(data),
                Some(snapshot_chunk::Kind::Trailer(trailer)) => records = Some(trailer.records),
                None => {}
            }
        }
        if records != Some(payloads.len() as u64) {
            return Err(Status::data_loss("the snapshot broke off"));
        }
        self.lock().staged = Some((position.unwrap_or_default(), payloads));
        Ok(Response::new(StagedSnapshot { token: 1 }))
    }

    async fn activate_snapshot(&self, _: Request<StagedSnapshot>) -> Result<Response<Position>, Status> {
        let mut state = self.lock();
        if state.activation_is_held {
            state.activations_held += 1;
            return Err(Status::unavailable("not now"));
        }
        let position = state.activate()?;
        match std::mem::take(&mut state.next_activation_is_lost) {
            true => Err(Status::unavailable("the answer is lost")),
            false => Ok(Response::new(position)),
        }
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<EngineStatus>, Status> {
        let state = self.lock();
        Ok(Response::new(EngineStatus {
            position: Some(state.position.clone()),
            keys: state.payloads.len() as u64,
            group: state.group,
            owned_slots: state.owned_slots,
            ..EngineStatus::default()
        }))
    }

    async fn upgrade(&self, _: Request<UpgradeRequest>) -> Result<Response<UpgradeStatus>, Status> {
        Err(Status::unimplemented("as version 0.1.0"))
    }
}
