//! [`Forwarder`]: one stream of numbered requests to the leader, shared by all who wait for an answer;
//! [`LeaderForwarder`]: the one to whoever leads now.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::peers::{Lane, Peers, RaftClient};
use crate::raft::types::{Member, NodeId};

/// Requests waiting to be sent; beyond that, callers wait.
const QUEUE: usize = 1_024;
/// How long the stream may take to open.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);
/// The leader answers every request within the deadline that it names, two seconds at most for an engine's: a stream on which
/// requests wait and no answer has come for longer carries nothing.
const STALL_DEADLINE: Duration = Duration::from_millis(3_000);
/// How often that is looked at.
const STALL_LOOK: Duration = Duration::from_millis(250);

/// A message with a number chosen by the caller's side of the stream.
pub trait Numbered: Send + 'static {
    /// The number.
    fn id(&self) -> u64;
    /// Sets the number.
    fn set_id(&mut self, id: u64);
}

macro_rules! numbered {
    ($($message:ty),+) => {$(
        impl Numbered for $message {
            fn id(&self) -> u64 {
                self.id
            }
            fn set_id(&mut self, id: u64) {
                self.id = id;
            }
        }
    )+};
}
numbered!(
    raftkv_proto::consensus::ProposeRequest,
    raftkv_proto::consensus::ProposeResponse,
    raftkv_proto::consensus::ReadBarrierRequest,
    raftkv_proto::consensus::ReadBarrierResponse
);

/// Why a forwarded request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardError {
    /// It never left this node.
    NotSent,
    /// It may have reached the leader.
    Lost,
}

/// A stream to one leader. When it breaks, everything in flight is [`ForwardError::Lost`] and the forwarder is
/// closed: the owner makes another.
pub struct Forwarder<Q, A> {
    queue: mpsc::Sender<(Q, oneshot::Sender<Result<A, ForwardError>>)>,
}

impl<Q: Numbered, A: Numbered> Forwarder<Q, A> {
    /// Opens a stream with `open` in a task that ends with the stream or with this forwarder. When the stream carries nothing
    /// any more it is ended, and the connection behind it is given up.
    fn start<F, O>(path: Path, open: F) -> Self
    where
        F: FnOnce(ReceiverStream<Q>) -> O + Send + 'static,
        O: Future<Output = Result<Streaming<A>, Status>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(waiting, path, open));
        Self { queue }
    }

    /// Whether its stream has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Sends a request and waits for its answer, until `gone` says that none will come.
    pub async fn call(&self, request: Q, gone: impl Future<Output = ()>) -> Result<A, ForwardError> {
        let (reply, answer) = oneshot::channel();
        if self.queue.send((request, reply)).await.is_err() {
            return Err(ForwardError::NotSent);
        }
        tokio::select! {
            biased;
            // Dropped unanswered = the task ended before it took this one off the queue.
            answer = answer => answer.unwrap_or(Err(ForwardError::NotSent)),
            () = gone => Err(ForwardError::Lost),
        }
    }
}

/// The connection behind a stream.
struct Path {
    peers: Peers,
    address: String,
}

impl Path {
    /// The connection, and its bytes that the other host has acknowledged.
    async fn acknowledged(&self) -> Option<(u64, u64)> {
        let (peers, address) = (self.peers.clone(), self.address.clone());
        let read = tokio::task::spawn_blocking(move || peers.reading(&address, Lane::Forward)).await.ok()?;
        read.map(|reading| (reading.connection, reading.acknowledged))
    }

    fn give_up(&self) {
        self.peers.drop_connection(&self.address, Lane::Forward);
    }
}

/// A leader, where it is, and the forwarder to it.
struct Current<Q, A> {
    leader: NodeId,
    address: String,
    forwarder: Arc<Forwarder<Q, A>>,
}

/// The forwarder to whoever leads now.
pub struct LeaderForwarder<Q, A> {
    current: Mutex<Option<Current<Q, A>>>,
}

impl<Q, A> Default for LeaderForwarder<Q, A> {
    fn default() -> Self {
        Self { current: Mutex::new(None) }
    }
}

impl<Q: Numbered, A: Numbered> LeaderForwarder<Q, A> {
    /// The forwarder to `leader`; where there is none, or it is closed, one whose stream `open` opens.
    pub fn to<F, O>(&self, peers: &Peers, leader: NodeId, member: &Member, open: F) -> Arc<Forwarder<Q, A>>
    where
        F: FnOnce(RaftClient, Request<ReceiverStream<Q>>) -> O + Send + 'static,
        O: Future<Output = Result<Streaming<A>, Status>> + Send + 'static,
    {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current
            && current.leader == leader
            && current.address == member.raft_address
            && !current.forwarder.is_closed()
        {
            return current.forwarder.clone();
        }
        let address = member.raft_address.clone();
        let path = Path { peers: peers.clone(), address: address.clone() };
        let (peers, to) = (peers.clone(), address.clone());
        let forwarder = Arc::new(Forwarder::start(path, move |requests| async move {
            let client = peers.client(&to, Lane::Forward).map_err(|error| Status::unavailable(error.to_string()))?;
            open(client, peers.request(leader, requests)).await
        }));
        *current = Some(Current { leader, address, forwarder: forwarder.clone() });
        forwarder
    }
}

type Waiting<Q, A> = mpsc::Receiver<(Q, oneshot::Sender<Result<A, ForwardError>>)>;

async fn run<Q, A, F, O>(mut waiting: Waiting<Q, A>, path: Path, open: F)
where
    Q: Numbered,
    A: Numbered,
    F: FnOnce(ReceiverStream<Q>) -> O,
    O: Future<Output = Result<Streaming<A>, Status>>,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut answers = match tokio::time::timeout(OPEN_DEADLINE, open(ReceiverStream::new(receiver))).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(status)) => {
            tracing::debug!(%status, "the leader refuses the stream");
            return;
        }
        Err(_) => {
            tracing::debug!("the leader does not answer");
            path.give_up();
            return;
        }
    };
    let mut in_flight: HashMap<u64, oneshot::Sender<Result<A, ForwardError>>> = HashMap::new();
    let mut next_id = 1;
    // When the oldest request that nobody has answered or given up was sent, or the last answer came.
    let mut waits_since: Option<Instant> = None;
    let mut moved = None;
    let mut look = tokio::time::interval(STALL_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // A request may be lost in a path that drops large packets: then all behind it wait, too, and only a new connection
            // carries them.
            _ = look.tick(), if waits_since.is_some() => {
                if waits_since.is_some_and(|since| since.elapsed() >= STALL_DEADLINE) {
                    // What is large takes long on a slow link, but it moves.
                    let now = path.acknowledged().await;
                    if moved.is_some_and(|moved| now.is_none_or(|now| now <= moved)) {
                        tracing::debug!(in_flight = in_flight.len(), "the stream to the leader carries nothing any more");
                        path.give_up();
                        break;
                    }
                    moved = now.or(Some((0, 0)));
                    waits_since = Some(Instant::now() - STALL_DEADLINE / 2);
                }
            }
            request = waiting.recv() => {
                let Some((mut request, reply)) = request else { break };
                // The caller has given up already: sending it would only make its outcome unknown.
                if reply.is_closed() {
                    continue;
                }
                request.set_id(next_id);
                if sender.send(request).await.is_err() {
                    let _ = reply.send(Err(ForwardError::Lost));
                    break;
                }
                in_flight.insert(next_id, reply);
                next_id += 1;
                waits_since.get_or_insert_with(Instant::now);
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if let Some(reply) = in_flight.remove(&answer.id()) {
                        let _ = reply.send(Ok(answer));
                    }
                    (waits_since, moved) = ((!in_flight.is_empty()).then(Instant::now), None);
                }
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(%status, "the stream to the leader broke");
                    break;
                }
            },
        }
    }
    for (_, reply) in in_flight {
        let _ = reply.send(Err(ForwardError::Lost));
    }
}
