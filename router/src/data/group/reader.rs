//! [`Reader`]: reads keys of a group, many callers in one request.

use std::time::{Duration, Instant};

use futures::FutureExt;
use raftkv_backend::{BackendError, Consistency, Entry};
use raftkv_kv::Key;
use raftkv_link::budget::Budget;
use raftkv_link::peer::Peer;
use raftkv_link::stream_link::StreamLink;
use raftkv_link::trouble::Trouble;
use raftkv_proto::group::{self, ReadRequest, ReadResponse};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::lane::{Lane, PendingRead};
use super::nodes::Nodes;

/// Reads of one group that may wait for an answer; the next one is told to come back. More than the connections that are
/// served by default, so that it is memory that is bounded, not concurrency.
const MAX_WAITING_READS: usize = 16 * 1024;
/// When a reader that was turned away should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a group says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// What it is, `None` = there is no such key; and the group's revision at that moment.
    Here {
        /// The key with its value.
        entry: Option<Entry>,
        /// Of the group, not comparable with another group's.
        store_revision: u64,
    },
    /// The group does not serve the key's slot.
    WrongGroup,
}

/// Reads over the stream to a group: callers who come while an answer is under way share the next request. Cloning shares
/// the lanes.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    linearizable: mpsc::UnboundedSender<PendingRead>,
    quorum: mpsc::UnboundedSender<PendingRead>,
    stale: mpsc::UnboundedSender<PendingRead>,
    waiting: Budget,
}

impl Reader {
    /// Starts the tasks behind it, which end at once after `stop`.
    pub(super) fn start(nodes: &Nodes, peer: &Peer, stop: &Shutdown) -> (Self, Vec<JoinHandle<()>>) {
        let mut tasks = Vec::new();
        let mut lane = |consistency| {
            let (sender, reads) = mpsc::unbounded_channel();
            let lane = Lane::new(consistency, link(nodes.clone(), peer.clone()), reads);
            tasks.push(tokio::spawn(lane.run(stop.clone())));
            sender
        };
        let reader = Self {
            linearizable: lane(group::Consistency::Linearizable),
            quorum: lane(group::Consistency::Quorum),
            stale: lane(group::Consistency::Stale),
            waiting: Budget::new(MAX_WAITING_READS),
        };
        (reader, tasks)
    }

    /// Reads a key; a lost answer is asked for again. Returns by the deadline, with `Unavailable`.
    pub(super) async fn get(
        &self,
        key: &Key,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Found, BackendError> {
        let lane = match consistency {
            Consistency::Linearizable => &self.linearizable,
            Consistency::Quorum => &self.quorum,
            Consistency::Stale => &self.stale,
        };
        let Some(_share) = self.waiting.take(1) else {
            metrics::counter!("raftkv_router_reads_shed_total").increment(1);
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (reply, answer) = oneshot::channel();
        let read = PendingRead { key: key.clone().into_bytes(), deadline, reply: Some(reply) };
        if lane.send(read).is_err() {
            return Err(BackendError::ShuttingDown);
        }
        // The lane answers by the deadline: no timer here.
        answer.await.unwrap_or(Err(BackendError::ShuttingDown))
    }
}

/// The name of a freshness on the wire between processes.
pub(super) fn on_the_wire(consistency: Consistency) -> group::Consistency {
    match consistency {
        Consistency::Linearizable => group::Consistency::Linearizable,
        Consistency::Quorum => group::Consistency::Quorum,
        Consistency::Stale => group::Consistency::Stale,
    }
}

fn link(nodes: Nodes, peer: Peer) -> StreamLink<ReadRequest, ReadResponse> {
    let moves = nodes.moves();
    StreamLink::to(peer, moves, move |requests| {
        let nodes = nodes.clone();
        async move {
            let node = nodes.target().ok_or_else(|| Status::unavailable("no address of the group is known"))?;
            let request = nodes.request(ReceiverStream::new(requests));
            Ok(nodes.streams(&node).read(request).await?.into_inner())
        }
        .boxed()
    })
}

/// What was the last trouble, for errors.
pub(super) fn too_late(trouble: &Trouble) -> BackendError {
    BackendError::Unavailable(trouble.explain("no node of the group answered the read in time"))
}
