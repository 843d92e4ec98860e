//! [`Forwarder`]: one stream of numbered requests to the leader, shared by all who wait for an answer;
//! [`LeaderForwarder`]: the one to whoever leads now.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::network::{Lane, Peers, RaftClient};
use crate::types::{Member, NodeId};

/// Requests waiting to be sent; beyond that, callers wait.
const QUEUE: usize = 1_024;
/// How long the stream may take to open.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);

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
    /// Opens a stream with `open` in a task that ends with the stream or with this forwarder.
    pub fn start<F, O>(open: F) -> Self
    where
        F: FnOnce(ReceiverStream<Q>) -> O + Send + 'static,
        O: Future<Output = Result<Streaming<A>, Status>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(waiting, open));
        Self { queue }
    }

    /// Whether its stream has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, request: Q) -> Result<A, ForwardError> {
        let (reply, answer) = oneshot::channel();
        if self.queue.send((request, reply)).await.is_err() {
            return Err(ForwardError::NotSent);
        }
        // Dropped unanswered = the task ended before it took this one off the queue.
        answer.await.unwrap_or(Err(ForwardError::NotSent))
    }
}

/// A leader and the forwarder to it.
type Current<Q, A> = (NodeId, Arc<Forwarder<Q, A>>);

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
        if let Some((to, forwarder)) = &*current
            && *to == leader
            && !forwarder.is_closed()
        {
            return forwarder.clone();
        }
        let (peers, address) = (peers.clone(), member.raft_address.clone());
        let forwarder = Arc::new(Forwarder::start(move |requests| async move {
            let client =
                peers.client(&address, Lane::Forward).map_err(|error| Status::unavailable(error.to_string()))?;
            open(client, peers.request(leader, requests)).await
        }));
        *current = Some((leader, forwarder.clone()));
        forwarder
    }
}

type Waiting<Q, A> = mpsc::Receiver<(Q, oneshot::Sender<Result<A, ForwardError>>)>;

async fn run<Q, A, F, O>(mut waiting: Waiting<Q, A>, open: F)
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
            return;
        }
    };
    let mut in_flight: HashMap<u64, oneshot::Sender<Result<A, ForwardError>>> = HashMap::new();
    let mut next_id = 1;
    loop {
        tokio::select! {
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
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if let Some(reply) = in_flight.remove(&answer.id()) {
                        let _ = reply.send(Ok(answer));
                    }
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
