//! [`GroupClient`]: one group, over whichever of its nodes is best asked.

mod calls;
mod lane;
mod nodes;
mod reader;
mod scout;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use raftkv_backend::{BackendError, Consistency, Entry, ListRequest};
use raftkv_kv::{Key, MoveId, Op, Outcome, SlotSet, SystemAnswer, SystemCommand};
use raftkv_link::peer::Peer;
use raftkv_link::proposer::Proposer;
use raftkv_link::stream_link::StreamLink;
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse, UpgradeAction, UpgradeRequest, UpgradeStatus};
use raftkv_proto::group::{self, Description, ExportPage, ExportRequest, GetSystemKeyRequest};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use calls::Calls;
pub use nodes::Identity;
use nodes::Nodes;
pub use reader::Found;
use reader::{Reader, on_the_wire};
use scout::Scout;

/// What is left of writes once a client of a group is stopped gets this long: their clients are gone.
const WRITE_GRACE: Duration = Duration::from_millis(500);

/// A part of what a group has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPage {
    /// In key order; only of slots that are served.
    pub entries: Vec<Entry>,
    /// Where the next page starts, inclusive; `None` = that was all.
    pub next: Option<Bytes>,
    /// Of the group when the page was read.
    pub store_revision: u64,
    /// The slots that the group served when the page was read.
    pub served: SlotSet,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupClient").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Speaks to one group: finds its leader, follows it, and asks again where asking again is safe. Cloning is cheap and shares
/// the connections.
///
/// All errors are those of [`BackendError`]: after `Unavailable`, `Overloaded`, `DiskFull` and `ShuttingDown` nothing is
/// applied, now or later; `Rejected` is what the node itself refuses.
#[derive(Debug, Clone)]
pub struct GroupClient {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    nodes: Nodes,
    proposer: Proposer,
    reader: Reader,
    calls: Calls,
    stop: Shutdown,
    write_seconds: metrics::Histogram,
    read_seconds: metrics::Histogram,
}

/// The tasks behind a [`GroupClient`], to be waited for after it was stopped.
#[derive(Debug)]
pub struct GroupTasks(Vec<JoinHandle<()>>);

impl GroupTasks {
    /// Returns when all have ended; soon after the client was stopped.
    pub async fn ended(self) {
        for task in self.0 {
            if let Err(error) = task.await {
                tracing::error!("a task of a group's client failed: {error}");
            }
        }
    }
}

impl GroupClient {
    /// Starts the tasks behind it. They end soon after `stop`, or when [`stop`](Self::stop) is called.
    ///
    /// `name` is for messages and metrics. With an `identity`, nodes of other groups refuse its calls; without one, whatever
    /// group is at the addresses is spoken to. Must be called within a tokio runtime.
    pub fn start(
        name: &str,
        addresses: Vec<String>,
        identity: Option<Identity>,
        stop: &Shutdown,
    ) -> (Self, GroupTasks) {
        let stop = stop.child();
        let nodes = Nodes::new(addresses, identity);
        let on_trouble = Arc::new(Notify::new());
        let peer = Peer::group(name.to_owned(), Arc::clone(&on_trouble));
        let (proposer, proposer_task) = Proposer::start(proposals(&nodes, &peer), stop.clone(), WRITE_GRACE);
        let (reader, mut tasks) = Reader::start(&nodes, &peer, &stop);
        let scout = Scout::new(name.to_owned(), nodes.clone(), on_trouble);
        tasks.push(tokio::spawn(scout.run(stop.clone())));
        tasks.push(proposer_task);
        let calls = Calls { nodes: nodes.clone(), trouble: peer.trouble() };
        let seconds = |op: &'static str| metrics::histogram!("raftkv_router_group_request_seconds", "group" => name.to_owned(), "op" => op);
        let (write_seconds, read_seconds) = (seconds("write"), seconds("read"));
        let name = name.to_owned();
        let shared = Shared { name, nodes, proposer, reader, calls, stop, write_seconds, read_seconds };
        (Self { shared: Arc::new(shared) }, GroupTasks(tasks))
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Replaces the configured addresses. Those learned from the group itself stay.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.shared.nodes.set_configured(addresses);
    }

    /// The address in use.
    pub fn target(&self) -> Option<String> {
        self.shared.nodes.target().map(|node| node.address)
    }

    /// All addresses, configured and learned.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.nodes.addresses()
    }

    /// Ends its tasks; what waits hears of it.
    pub fn stop(&self) {
        self.shared.stop.trigger();
    }

    /// Applies the operations in order, in one log entry, once; one outcome per operation. Returns by the deadline.
    ///
    /// # Errors
    /// On any but [`BackendError::OutcomeUnknown`] nothing is applied, now or later.
    pub async fn write(&self, ops: Vec<Op>, deadline: Instant) -> Result<Vec<Outcome>, BackendError> {
        let since = Instant::now();
        let outcomes = self.shared.proposer.propose(ops, deadline).await;
        self.shared.write_seconds.record(since.elapsed().as_secs_f64());
        outcomes
    }

    /// Applies a system command; proposed again after a lost answer. A refusal by the group's state is an answer.
    pub async fn system(&self, command: SystemCommand, deadline: Instant) -> Result<SystemAnswer, BackendError> {
        self.shared.proposer.system(command, deadline).await
    }

    /// Reads a system key, linearizable: its version (0 = there is none) and its document.
    pub async fn system_key(&self, key: Bytes, deadline: Instant) -> Result<(u64, Bytes), BackendError> {
        let message = |timeout_ms| GetSystemKeyRequest { key: key.clone(), timeout_ms };
        let asked = self
            .shared
            .calls
            .ask(deadline, message, |mut rpc, request| async move { rpc.get_system_key(request).await });
        asked.await.map(|found| (found.version, found.value))
    }

    /// Reads one key.
    pub async fn get(&self, key: &Key, consistency: Consistency, deadline: Instant) -> Result<Found, BackendError> {
        let since = Instant::now();
        let found = self.shared.reader.get(key, consistency, deadline).await;
        self.shared.read_seconds.record(since.elapsed().as_secs_f64());
        found
    }

    /// Reads a page of the keys that the group serves.
    pub async fn list(
        &self,
        request: &ListRequest,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<GroupPage, BackendError> {
        let message = |timeout_ms| group::ListRequest {
            consistency: on_the_wire(consistency).into(),
            timeout_ms,
            start: request.start.clone(),
            end: request.end.clone(),
            limit: u32::try_from(request.limit).unwrap_or(u32::MAX),
            max_bytes: request.max_bytes as u64,
            keys_only: request.keys_only,
        };
        let asked = self.shared.calls.ask(deadline, message, |mut rpc, request| async move { rpc.list(request).await });
        let page = asked.await?;
        let served = page.served.iter().map(|range| {
            let slot = |slot: u32| u16::try_from(slot).unwrap_or(u16::MAX);
            SlotSet::range(slot(range.first), slot(range.last))
        });
        Ok(GroupPage {
            served: served.fold(SlotSet::new(), |all, range| all.union(&range)),
            entries: page.entries.into_iter().map(|stored| lane::entry(stored, request.keys_only)).collect(),
            next: page.next,
            store_revision: page.store_revision,
        })
    }

    /// A page of what a move exports from here.
    pub async fn export(
        &self,
        move_id: MoveId,
        cursor: Bytes,
        max_bytes: u32,
        deadline: Instant,
    ) -> Result<ExportPage, BackendError> {
        let message = |timeout_ms| ExportRequest { move_id, cursor: cursor.clone(), max_bytes, timeout_ms };
        self.shared.calls.ask(deadline, message, |mut rpc, request| async move { rpc.export(request).await }).await
    }

    /// Shows, holds or raises the group's cluster version. Each of these may be asked for again: it names what is to be, not a step.
    pub async fn upgrade(&self, action: UpgradeAction, deadline: Instant) -> Result<UpgradeStatus, BackendError> {
        let message = |timeout_ms| UpgradeRequest { action: action.into(), timeout_ms };
        self.shared.calls.ask(deadline, message, |mut rpc, request| async move { rpc.upgrade(request).await }).await
    }

    /// How the node in use is, asked once.
    pub async fn describe(&self, deadline: Instant) -> Result<Description, BackendError> {
        match self.shared.nodes.target() {
            Some(node) => self.shared.calls.describe(&node, deadline).await,
            None => Err(BackendError::Unavailable("no address of the group is known".to_owned())),
        }
    }

    /// How each node is, asked once, by address; the configured addresses first. Two addresses may be one node.
    pub async fn describe_all(&self, deadline: Instant) -> Vec<(String, Result<Description, BackendError>)> {
        let ask = |address: String| async move {
            let described = match self.shared.nodes.node(&address) {
                Some(node) => self.shared.calls.describe(&node, deadline).await,
                None => Err(BackendError::Rejected(format!("{address:?} is no address"))),
            };
            (address, described)
        };
        join_all(self.shared.nodes.addresses().into_iter().map(ask)).await
    }
}

fn proposals(nodes: &Nodes, peer: &Peer) -> StreamLink<ProposeRequest, ProposeResponse> {
    let nodes = nodes.clone();
    let moves = nodes.moves();
    StreamLink::to(peer.clone(), moves, move |requests| {
        let nodes = nodes.clone();
        async move {
            let node = nodes.target().ok_or_else(|| Status::unavailable("no address of the group is known"))?;
            let request = nodes.request(ReceiverStream::new(requests));
            Ok(nodes.streams(&node).propose(request).await?.into_inner())
        }
        .boxed()
    })
}
