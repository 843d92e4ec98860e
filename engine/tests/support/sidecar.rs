//! [`TestSidecar`]: consensus of one node without a log, with faults on request.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use raftkv_kv::Proposal;
use raftkv_proto::consensus::consensus_server::{Consensus, ConsensusServer};
use raftkv_proto::consensus::propose_response::Outcome as Proposed;
use raftkv_proto::consensus::read_barrier_response::Outcome as Barrier;
use raftkv_proto::consensus::{
    Applied, ConsensusStatus, GetStatusRequest, JoinRequest, JoinResponse, LeaseAck, LeaseGrant, ProposeRequest,
    ProposeResponse, ReadBarrierRequest, ReadBarrierResponse, Refused, RefusedReason, RemoveRequest, RemoveResponse,
    Unknown,
};
use raftkv_proto::state_machine::state_machine_client::StateMachineClient;
use raftkv_proto::state_machine::{ApplyRequest, Entry, GetPositionRequest, entry};
use raftkv_runtime::grpc::{ChannelOptions, Endpoint, Listener, connect_lazy, server};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_store::{ApplyEntry, EntryKind, Store};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// What becomes of one proposal. Each is something a correct sidecar may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Applied and answered.
    Apply,
    /// Applied and answered after a while, so that answers come out of order.
    Late(Duration),
    /// Answered "refused"; never applied.
    Refuse,
    /// Answered "unknown"; never applied.
    UnknownNotApplied,
    /// Applied, then answered "unknown".
    UnknownApplied,
    /// Answered "unknown", and applied later: a duplicate when it was repeated meanwhile.
    UnknownAppliedLater(Duration),
    /// Applied; the stream breaks before the answer.
    BreakApplied,
    /// The stream breaks; never applied.
    BreakNotApplied,
    /// Never answered, never applied.
    Silent,
    /// Applied and answered once the test says so, with [`TestSidecar::let_go`].
    Held,
    /// Hours pass by the replicated clock, so that sessions expire; then applied and answered.
    ClockJump,
}

impl Fate {
    /// Whether the engine cannot know after it whether the proposal was applied.
    fn is_ambiguous(self) -> bool {
        !matches!(self, Fate::Apply | Fate::Refuse | Fate::ClockJump)
    }
}

/// After how long a barrier is answered, and what with.
type BarrierFate = (Duration, Result<u64, RefusedReason>);

/// Decides the fates of proposals, and how barriers are answered.
struct Behaviour {
    /// The fate of the proposal given.
    fate: Box<dyn FnMut(&Proposal) -> Fate + Send>,
    /// What a barrier is answered with, and after how long; the engine's position at its arrival is given.
    barrier: Box<dyn FnMut(u64) -> BarrierFate + Send>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { fate: Box::new(|_| Fate::Apply), barrier: Box::new(|next_index| (Duration::ZERO, Ok(next_index))) }
    }
}

/// What committed entries are applied to.
enum Machine {
    /// A store in this process.
    Store(Store),
    /// An engine, over its gRPC service.
    Engine(tokio::sync::Mutex<StateMachineClient<Channel>>),
}

struct Shared {
    machine: Machine,
    behaviour: Mutex<Behaviour>,
    /// Serializes applying: the order of the log.
    log: tokio::sync::Mutex<Log>,
    committed: AtomicU64,
    /// Operations (by key) whose proposal met an ambiguous fate.
    ambiguous: Mutex<HashSet<Bytes>>,
    proposals: AtomicUsize,
    /// Whether held proposals may go on.
    let_go: watch::Sender<bool>,
    /// Proposals that are being met, late ones included.
    busy: AtomicUsize,
    barriers: AtomicUsize,
    leases: Mutex<Leases>,
    status: Mutex<ConsensusStatus>,
}

/// The engine's stream of leases, while it is open, and what it said.
#[derive(Default)]
struct Leases {
    grants: Option<mpsc::UnboundedSender<Result<LeaseGrant, Status>>>,
    acks: Vec<LeaseAck>,
}

struct Log {
    next_index: u64,
    clock_ms: u64,
}

/// A `Consensus` server over a Unix socket, which applies to a store in the same process.
#[derive(Clone)]
pub struct TestSidecar {
    shared: Arc<Shared>,
}

impl TestSidecar {
    /// Consensus over a store in this process.
    pub fn new(store: Store) -> Self {
        let next_index = store.position().next_index;
        Self::over(Machine::Store(store), next_index)
    }

    /// Consensus over an engine, which must be serving.
    pub async fn over_engine(endpoint: &Endpoint) -> Self {
        let channel = connect_lazy(endpoint, ChannelOptions::default()).expect("a sound endpoint");
        let mut client = StateMachineClient::new(channel);
        let position = client.get_position(GetPositionRequest {}).await.expect("position").into_inner();
        Self::over(Machine::Engine(tokio::sync::Mutex::new(client)), position.next_index)
    }

    fn over(machine: Machine, next_index: u64) -> Self {
        let status = ConsensusStatus { role: "leader".to_owned(), leader_raft_id: 1, raft_id: 1, ..Default::default() };
        let shared = Shared {
            machine,
            behaviour: Mutex::default(),
            log: tokio::sync::Mutex::new(Log { next_index, clock_ms: 1_000_000 }),
            committed: AtomicU64::new(next_index),
            ambiguous: Mutex::default(),
            proposals: AtomicUsize::new(0),
            let_go: watch::Sender::new(false),
            busy: AtomicUsize::new(0),
            barriers: AtomicUsize::new(0),
            leases: Mutex::default(),
            status: Mutex::new(status),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves until `stop`.
    pub async fn serve(&self, endpoint: &Endpoint, stop: Shutdown) {
        let listener = Listener::bind(endpoint).await.expect("bind the sidecar's socket");
        let service = ConsensusServer::new(self.clone());
        tokio::spawn(async move {
            let served = server().add_service(service).serve_with_incoming_shutdown(
                listener.into_bounded_stream(raftkv_runtime::grpc::LINK_CONNECTIONS),
                async move { stop.wait().await },
            );
            served.await.expect("serve");
        });
    }

    pub fn fate(&self, fate: impl FnMut(&Proposal) -> Fate + Send + 'static) {
        self.shared.behaviour.lock().expect("lock").fate = Box::new(fate);
    }

    pub fn barrier(&self, barrier: impl FnMut(u64) -> (Duration, Result<u64, RefusedReason>) + Send + 'static) {
        self.shared.behaviour.lock().expect("lock").barrier = Box::new(barrier);
    }

    pub fn set_status(&self, status: ConsensusStatus) {
        *self.shared.status.lock().expect("lock") = status;
    }

    /// Held proposals are applied and answered from now on.
    pub fn let_go(&self) {
        self.shared.let_go.send_replace(true);
    }

    /// What barriers are answered with: as if others had committed up to there.
    pub fn commit(&self, next_index: u64) {
        self.shared.committed.fetch_max(next_index, Ordering::SeqCst);
    }

    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::SeqCst)
    }

    pub fn is_ambiguous(&self, key: &[u8]) -> bool {
        self.shared.ambiguous.lock().expect("lock").contains(key)
    }

    pub fn proposals(&self) -> usize {
        self.shared.proposals.load(Ordering::SeqCst)
    }

    pub fn barriers(&self) -> usize {
        self.shared.barriers.load(Ordering::SeqCst)
    }

    /// Grants or revokes, on the engine's stream, once that is open. `Err` = the stream breaks.
    pub async fn lease(&self, grant: Result<LeaseGrant, Status>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.lease_acks().is_empty() {
            assert!(Instant::now() < deadline, "the engine asks for no lease");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let breaks = grant.is_err();
        let mut leases = self.shared.leases.lock().expect("lock");
        leases.grants.as_ref().expect("a stream").send(grant).expect("open");
        if breaks {
            *leases = Leases::default();
        }
    }

    /// What the engine said on its stream.
    pub fn lease_acks(&self) -> Vec<LeaseAck> {
        self.shared.leases.lock().expect("lock").acks.clone()
    }

    /// Returns once nothing is on its way to be applied any more.
    pub async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "proposals are still being applied");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn apply(&self, payload: Bytes, clock_jump: u64) -> Applied {
        let mut log = self.shared.log.lock().await;
        let index = log.next_index;
        log.clock_ms += 1 + clock_jump;
        let log_id = Bytes::from(index.to_string());
        let (next_index, answers) = match &self.shared.machine {
            Machine::Store(store) => {
                let (clock_ms, kind) = (log.clock_ms, EntryKind::Payload(payload));
                let entry = ApplyEntry { index, log_id, clock_ms, group_clock_ms: 0, kind };
                let applied = store.apply(vec![entry]).await.expect("apply");
                (applied.next_index, applied.answers)
            }
            Machine::Engine(client) => {
                let kind = Some(entry::Kind::Payload(payload));
                let entry = Entry { index, log_id, clock_ms: log.clock_ms, kind, group_clock_ms: 0 };
                let requests = tokio_stream::once(ApplyRequest { entries: vec![entry] });
                let mut answers = client.lock().await.apply(requests).await.expect("apply").into_inner();
                let applied = answers.message().await.expect("applied").expect("one answer");
                (applied.next_index, applied.answers)
            }
        };
        log.next_index = next_index;
        self.commit(next_index);
        Applied { index, answer: answers.into_iter().next().expect("one answer") }
    }

    /// `None` = no answer; `Err` = the stream breaks.
    async fn meet(&self, fate: Fate, payload: Bytes) -> Result<Option<Proposed>, Status> {
        const HOURS: u64 = 2 * 60 * 60 * 1_000;
        let unknown = || Some(Proposed::Unknown(Unknown { message: "the test says so".to_owned() }));
        let broken = || Status::unavailable("the test breaks the stream");
        match fate {
            Fate::Apply => Ok(Some(Proposed::Applied(self.apply(payload, 0).await))),
            Fate::ClockJump => Ok(Some(Proposed::Applied(self.apply(payload, HOURS).await))),
            Fate::Late(pause) => {
                tokio::time::sleep(pause).await;
                Ok(Some(Proposed::Applied(self.apply(payload, 0).await)))
            }
            Fate::Refuse => {
                let reason = RefusedReason::NoLeader.into();
                Ok(Some(Proposed::Refused(Refused { reason, message: String::new() })))
            }
            Fate::UnknownNotApplied => Ok(unknown()),
            Fate::UnknownApplied => {
                self.apply(payload, 0).await;
                Ok(unknown())
            }
            Fate::UnknownAppliedLater(pause) => {
                let sidecar = self.clone();
                self.shared.busy.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    sidecar.apply(payload, 0).await;
                    sidecar.shared.busy.fetch_sub(1, Ordering::SeqCst);
                });
                Ok(unknown())
            }
            Fate::BreakApplied => {
                self.apply(payload, 0).await;
                Err(broken())
            }
            Fate::BreakNotApplied => Err(broken()),
            Fate::Silent => Ok(None),
            Fate::Held => {
                self.shared.let_go.subscribe().wait_for(|let_go| *let_go).await.expect("the sender is in `shared`");
                Ok(Some(Proposed::Applied(self.apply(payload, 0).await)))
            }
        }
    }
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// Ends with the first error, as a stream that breaks does.
fn answers<A: Send + 'static>(receiver: mpsc::UnboundedReceiver<Result<A, Status>>) -> Answers<A> {
    let mut broken = false;
    Box::pin(UnboundedReceiverStream::new(receiver).take_while(move |answer| {
        let go_on = !broken;
        broken |= answer.is_err();
        go_on
    }))
}

#[tonic::async_trait]
impl Consensus for TestSidecar {
    type ProposeStream = Answers<ProposeResponse>;
    type ReadBarrierStream = Answers<ReadBarrierResponse>;
    type LeaseStream = Answers<LeaseGrant>;

    async fn propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let sidecar = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(ProposeRequest { id, payload, .. })) = requests.next().await {
                sidecar.shared.proposals.fetch_add(1, Ordering::SeqCst);
                let proposal = Proposal::decode(&payload).expect("well-formed proposal");
                let fate = (sidecar.shared.behaviour.lock().expect("lock").fate)(&proposal);
                if let Proposal::Batch(batch) = &proposal
                    && fate.is_ambiguous()
                {
                    let keys = batch.ops.iter().map(|op| op.command.key().clone().into_bytes());
                    sidecar.shared.ambiguous.lock().expect("lock").extend(keys);
                }
                let (sidecar, sender) = (sidecar.clone(), sender.clone());
                sidecar.shared.busy.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    match sidecar.meet(fate, payload).await {
                        Ok(None) => {}
                        Ok(outcome) => drop(sender.send(Ok(ProposeResponse { id, outcome }))),
                        Err(status) => drop(sender.send(Err(status))),
                    }
                    sidecar.shared.busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Response::new(answers(receiver)))
    }

    async fn read_barrier(
        &self,
        request: Request<Streaming<ReadBarrierRequest>>,
    ) -> Result<Response<Self::ReadBarrierStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let sidecar = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(ReadBarrierRequest { id, .. })) = requests.next().await {
                sidecar.shared.barriers.fetch_add(1, Ordering::SeqCst);
                let committed = sidecar.committed();
                let (pause, answer) = (sidecar.shared.behaviour.lock().expect("lock").barrier)(committed);
                let sender = sender.clone();
                tokio::spawn(async move {
                    // Those without a pause are answered in their order.
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    let answer = match answer {
                        Ok(next_index) => Ok(Barrier::NextIndex(next_index)),
                        // There is no other way to say in this type that the stream shall break.
                        Err(RefusedReason::Unspecified) => Err(Status::unavailable("the test breaks the stream")),
                        Err(reason) => Ok(Barrier::Refused(Refused { reason: reason.into(), message: String::new() })),
                    };
                    let _ = sender.send(answer.map(|outcome| ReadBarrierResponse { id, outcome: Some(outcome) }));
                });
            }
        });
        Ok(Response::new(answers(receiver)))
    }

    async fn lease(&self, request: Request<Streaming<LeaseAck>>) -> Result<Response<Self::LeaseStream>, Status> {
        let mut acks = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.shared.leases.lock().expect("lock") = Leases { grants: Some(sender), acks: Vec::new() };
        let sidecar = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(ack)) = acks.next().await {
                sidecar.shared.leases.lock().expect("lock").acks.push(ack);
            }
        });
        Ok(Response::new(answers(receiver)))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<ConsensusStatus>, Status> {
        Ok(Response::new(self.shared.status.lock().expect("lock").clone()))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        match request.into_inner().name.as_str() {
            "" => Err(Status::invalid_argument("a name is needed")),
            name => Ok(Response::new(JoinResponse { result: format!("joined {name}") })),
        }
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        Err(Status::not_found(format!("no member {}", request.into_inner().name)))
    }
}
