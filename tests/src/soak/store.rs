//! [`Store`]: the store under test in a soak.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;
use raftkv_kv::SlotSet;

use super::kind::Shape;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::faultfs::{FaultFs, NamePromise};
use crate::node::Node;
use crate::partition::Partition;
use crate::process::{Exit, Process};
use crate::proxy::{Proxy, Senders};
use crate::router::Router;
use crate::shards::Shards;
use crate::wait::eventually_within;

/// Number of slots that move back and forth: half of the first group's initial slots.
const MOBILE_SLOTS: usize = 4_096;
/// Expected exit codes: success, or the loss of another process. See docs/guides/operate.md.
const EXPECTED_EXITS: [i32; 3] = [0, 69, 75];
/// Exit code after a disk error.
const EXIT_IOERR: i32 = 74;
const SIGKILL: i32 = 9;
/// Log messages of bugs.
const PANICS: [&str; 2] = ["panicked at", "runtime::panic"];
/// Small enough for frequent log purges and snapshots.
const LOG: &str = "2MiB";

/// A store of a given shape, with locks and faults for a soak.
#[derive(Debug)]
pub(super) struct Store {
    // Dropped before the disks, because the processes have open files there.
    body: Body,
    disks: Vec<Arc<Mutex<FaultFs>>>,
    /// A client connection that can be cut.
    pub(super) link: Link,
    /// Per group and node: lock held by a fault of the node.
    pub(super) nodes: Vec<Vec<tokio::sync::Mutex<()>>>,
    /// Per group: lock held by a fault that keeps a node down until the others have made progress. Two such faults
    /// would leave a single node of three, and each would wait for the other's end.
    pub(super) absences: Vec<tokio::sync::Mutex<()>>,
    /// Per group: lock held by a network fault.
    pub(super) networks: Vec<tokio::sync::Mutex<()>>,
    /// Per router: lock held by a fault of the router.
    pub(super) routers: Vec<tokio::sync::Mutex<()>>,
    /// Lock held during a slot move.
    pub(super) moves: tokio::sync::Mutex<()>,
    /// The slots that move; empty without shards.
    pub(super) mobile: SlotSet,
    kept: bool,
}

#[derive(Debug)]
enum Body {
    Plain(Box<Cluster>),
    Sharded(Box<Shards>),
    /// Being shut down.
    Over,
}

/// A proxy between a client and the store.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) partition: Partition,
    client: Client,
    _proxy: Proxy,
}

impl Link {
    async fn to(target: SocketAddr) -> anyhow::Result<Self> {
        // Free a moment ago; no other program uses this loopback address.
        let at =
            std::net::TcpListener::bind("127.0.0.77:0").and_then(|free| free.local_addr()).context("a free port")?;
        let partition = Partition::default();
        let proxy = Proxy::start(at, target, 1, partition.clone(), Senders::default()).await?;
        Ok(Self { partition, client: Client::unshared(at), _proxy: proxy })
    }
}

impl Store {
    /// Starts a store.
    pub(super) async fn start(shape: Shape) -> anyhow::Result<Self> {
        let mut disks = Vec::new();
        let env = [("RAFTKV_SNAPSHOT_AFTER", LOG), ("RAFTKV_LOG_RETAIN", LOG), ("RAFTKV_LOG_MAX", "4MiB")];
        let (body, target) = match shape {
            Shape::Plain => {
                let builder = Cluster::builder().partitionable();
                let mut cluster = env.iter().fold(builder, |it, (name, value)| it.env(name, *value)).create().await?;
                for node in cluster.nodes() {
                    // Without FUSE, the machine's own disk is used; the plan has left out disk faults.
                    let Some(disk) = FaultFs::mount(node.dir(), NamePromise::Directory)? else { break };
                    disks.push(Arc::new(Mutex::new(disk)));
                }
                cluster.nodes().iter().try_for_each(|node| node.start())?;
                cluster.whole(cluster.nodes().len()).await?;
                cluster.expect_fatal();
                let target = cluster.node(1).http_address();
                (Body::Plain(Box::new(cluster)), target)
            }
            Shape::Sharded => {
                let builder = Shards::builder().groups(2).routers(2).partitionable();
                let mut shards = env.iter().fold(builder, |it, (name, value)| it.env(name, *value)).start().await?;
                shards.expect_fatal();
                let target = shards.router(1).http_address();
                (Body::Sharded(Box::new(shards)), target)
            }
        };
        let mut store = Self {
            disks,
            link: Link::to(target).await?,
            nodes: Vec::new(),
            absences: Vec::new(),
            networks: Vec::new(),
            routers: Vec::new(),
            moves: tokio::sync::Mutex::default(),
            mobile: SlotSet::new(),
            kept: true,
            body,
        };
        let nodes: Vec<_> = store.groups().iter().map(|group| group.nodes().len()).collect();
        store.absences = nodes.iter().map(|_| tokio::sync::Mutex::default()).collect();
        store.networks = nodes.iter().map(|_| tokio::sync::Mutex::default()).collect();
        store.nodes =
            nodes.into_iter().map(|nodes| (0..nodes).map(|_| tokio::sync::Mutex::default()).collect()).collect();
        if let Some(shards) = store.shards() {
            let mobile = shards.admin().slots_of(1).await?.first(MOBILE_SLOTS);
            store.routers = shards.routers().iter().map(|_| tokio::sync::Mutex::default()).collect();
            store.mobile = mobile;
        }
        Ok(store)
    }

    /// The groups of the store.
    pub(super) fn groups(&self) -> &[Cluster] {
        match &self.body {
            Body::Plain(cluster) => std::slice::from_ref(&**cluster),
            Body::Sharded(shards) => shards.groups(),
            Body::Over => &[],
        }
    }

    /// Groups and routers of a sharded store.
    pub(super) fn shards(&self) -> Option<&Shards> {
        match &self.body {
            Body::Sharded(shards) => Some(shards),
            Body::Plain(_) | Body::Over => None,
        }
    }

    /// The disk of a node.
    pub(super) fn disk(&self, node: &Node) -> anyhow::Result<Arc<Mutex<FaultFs>>> {
        self.disks.get(node.index() - 1).cloned().context("the node has no disk of the harness")
    }

    /// Clients of all nodes, or of all routers.
    pub(super) fn direct(&self) -> Vec<Client> {
        match &self.body {
            Body::Plain(cluster) => cluster.nodes().iter().map(|node| node.client()).collect(),
            Body::Sharded(shards) => shards.clients(),
            Body::Over => Vec::new(),
        }
    }

    /// The clients of [`direct`](Self::direct), and a client with a connection that can be cut.
    pub(super) fn clients(&self) -> Vec<Client> {
        let mut clients = self.direct();
        clients.push(self.link.client.clone());
        clients
    }

    /// A key per group, in a slot that never moves.
    pub(super) async fn resident_keys(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        let Some(shards) = self.shards() else { return Ok(vec![format!("{prefix}0")]) };
        let mut keys = Vec::new();
        for number in 1..=shards.groups().len() {
            let id = shards.group_id(number).await?;
            let resident = shards.admin().slots_of(id).await?.difference(&self.mobile);
            keys.extend(Shards::keys_in(&resident, prefix, 1));
        }
        Ok(keys)
    }

    /// Waits until all nodes and routers are ready and every group has all members.
    pub(super) async fn whole(&self, patience: Duration) -> anyhow::Result<()> {
        let whole = async {
            match &self.body {
                Body::Plain(cluster) => cluster.whole(cluster.nodes().len()).await,
                Body::Sharded(shards) => shards.whole().await,
                Body::Over => Ok(()),
            }
        };
        tokio::time::timeout(patience, whole).await.map_err(|_| anyhow!("the store is not whole after {patience:?}"))?
    }

    /// Compares the state hashes of each group's replicas at equal positions, until all replicas are at the same
    /// position. Returns the number of compared pairs. Writes must have stopped.
    pub(super) async fn hashes_agree(&self, patience: Duration) -> anyhow::Result<u64> {
        let mut compared = 0;
        for (number, group) in self.groups().iter().enumerate() {
            let differ = std::cell::RefCell::new(None);
            let pairs = eventually_within(patience, "the replicas are at one position", || async {
                let described = try_join_all(group.nodes().iter().map(|node| async move {
                    let (description, _) = node.group_peer()?.describe().await?;
                    anyhow::Ok((node.name().to_owned(), description.applied_next_index, description.state_hash))
                }))
                .await?;
                let mut pairs = 0;
                for (at, (name, position, hash)) in described.iter().enumerate() {
                    for (other, _, other_hash) in described[at + 1..].iter().filter(|other| other.1 == *position) {
                        pairs += 1;
                        if hash != other_hash {
                            let what = format!("{name} and {other} differ at position {position}");
                            *differ.borrow_mut() = Some(what);
                            return Ok(0);
                        }
                    }
                }
                ensure!(pairs == described.len() * (described.len() - 1) / 2, "{described:?}");
                Ok(pairs)
            })
            .await?;
            if let Some(what) = differ.take() {
                return Err(anyhow!("VIOLATION: the state of replicas of group {}: {what}", number + 1));
            }
            compared += pairs as u64;
        }
        Ok(compared)
    }

    /// Directory for histories of violations.
    pub(super) fn dir(&self) -> PathBuf {
        self.groups().first().map(Cluster::dir).unwrap_or_default()
    }

    fn processes(&self) -> Vec<&Process> {
        let nodes = self.groups().iter().flat_map(Cluster::nodes);
        let routers = self.shards().map(Shards::routers).unwrap_or_default();
        nodes.flat_map(|node| [node.engine(), node.sidecar()]).chain(routers.iter().map(Router::process)).collect()
    }

    /// Finds process behaviour forbidden under any fault: panics, and exits without an expected reason.
    pub(super) fn misdeeds(&self) -> Vec<String> {
        let mut found = Vec::new();
        for process in self.processes() {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            let panics = log.lines().filter(|line| PANICS.iter().any(|panic| line.contains(panic)));
            found.extend(panics.take(3).map(|line| format!("{} logged: {line}", process.name())));
            let expected = |exit: &Exit| {
                exit.signal == Some(SIGKILL)
                    || exit.code.is_some_and(|code| EXPECTED_EXITS.contains(&code))
                    || (exit.code == Some(EXIT_IOERR) && !self.disks.is_empty())
            };
            let odd: Vec<_> = process.exits().into_iter().filter(|exit| !expected(exit)).collect();
            if !odd.is_empty() {
                found.push(format!("{} ended by itself: {odd:?}", process.name()));
            }
        }
        found
    }

    /// Ends the store after successful checks and removes the files.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.kept = false;
        self.kill();
        self.disks.clear();
        match std::mem::replace(&mut self.body, Body::Over) {
            Body::Plain(cluster) => cluster.finish().await,
            Body::Sharded(shards) => shards.finish().await,
            Body::Over => Ok(()),
        }
    }

    fn kill(&self) {
        for node in self.groups().iter().flat_map(Cluster::nodes) {
            node.kill();
        }
    }
}

/// Locks a disk, even after a panic of another holder.
pub(super) fn locked(disk: &Mutex<FaultFs>) -> MutexGuard<'_, FaultFs> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        self.kill();
        for (disk, node) in self.disks.iter().zip(self.groups().iter().flat_map(Cluster::nodes)) {
            // Keeps the data of a failed soak beside the logs.
            let kept = self.dir().join(format!("{}-disk", node.name()));
            if let Err(error) = locked(disk).copy_to(&kept) {
                println!("the disk of {} cannot be kept: {error:#}", node.name());
            }
        }
        self.disks.clear();
    }
}
