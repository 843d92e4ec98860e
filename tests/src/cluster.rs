//! [`Cluster`]: nodes of a single group, as processes on separate loopback addresses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use futures::future::{join_all, try_join_all};
use tempfile::TempDir;

use crate::archive;
use crate::binaries::binary_in;
use crate::contents::Contents;
use crate::files::tail;
use crate::lan::Lan;
use crate::loopback::Loopback;
use crate::node::Node;
use crate::partition::{Flow, FlowCounts, Partition, Weather};
use crate::process::{Exit, Process};
use crate::proxy::{Proxy, Senders};
use crate::supervisor::Supervisor;
use crate::wait::{eventually, eventually_within};

const HTTP_PORT: u16 = 8080;
const RAFT_PORT: u16 = 8088;
/// Second raft port, for a node with a changed address.
const OTHER_RAFT_PORT: u16 = RAFT_PORT + 1;
const MANAGEMENT_PORT: u16 = 6000;
const GROUP_PORT: u16 = 50_053;
/// Lines of each log printed after a failed test.
const LINES_SHOWN: usize = 25;
/// Log messages of bugs, forbidden in every test.
pub(crate) const NEVER_LOGGED: [&str; 3] = ["panicked at", "runtime::panic", "fatal:"];
/// Exit code of a process that requests a restart.
const EXIT_TEMPFAIL: i32 = 75;
const SIGKILL: i32 = 9;

/// Configuration of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    nodes: usize,
    env: Vec<(String, String)>,
    /// Directory of the programs; default: the programs under test.
    programs: Option<PathBuf>,
    partitionable: bool,
    /// Network on which each node is a separate host.
    lan: Option<Arc<Lan>>,
    supervised: bool,
    /// Number of nodes in other groups of the store, whose numbers precede the numbers here.
    named_after: usize,
    /// Routers that assign the nodes to a group; without routers, nodes discover each other.
    registers: Option<Registration>,
    /// A fixed address block instead of a random choice.
    block: Option<[u8; 2]>,
    /// Archive with the data directories n1, n2 and so on.
    data: Option<PathBuf>,
}

/// Settings for nodes that are assigned to a group by routers.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    /// HTTP addresses of the routers.
    pub(crate) routers: Vec<SocketAddr>,
    /// Group name.
    pub(crate) group: String,
}

/// A group of nodes, with fault injection on the links between nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Arc<Node>>,
    settings: ClusterBuilder,
    partition: Partition,
    proxies: Vec<Proxy>,
    senders: Senders,
    fatal_allowed: bool,
    finished: bool,
    // Fields below are dropped in order of declaration, after `drop` has killed the processes.
    supervisor: Option<Supervisor>,
    loopback: Loopback,
    dir: Option<TempDir>,
}

/// A node with a changed raft address.
#[derive(Debug)]
pub(crate) struct Readdressed {
    node: Arc<Node>,
    /// Address for peers.
    pub(crate) address: SocketAddr,
    _proxy: Proxy,
}

impl Drop for Readdressed {
    fn drop(&mut self) {
        set_raft_addresses(&self.node, self.node.raft, self.node.raft_advertised);
    }
}

fn set_raft_addresses(node: &Node, listen: SocketAddr, advertised: SocketAddr) {
    node.sidecar.set_env("RAFTKV_RAFT_LISTEN", listen.to_string());
    node.sidecar.set_env("RAFTKV_RAFT_ADVERTISE", advertised.to_string());
}

impl ClusterBuilder {
    /// Sets the initial number of nodes.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets a variable for all processes.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Runs the programs in `dir`.
    pub fn programs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.programs = Some(dir.into());
        self
    }

    /// Puts a proxy in front of each raft port, to allow partitions.
    pub fn partitionable(mut self) -> Self {
        self.partitionable = true;
        self
    }

    /// Puts each node on this network as a separate host.
    pub fn lan(mut self, lan: Arc<Lan>) -> Self {
        self.lan = Some(lan);
        self
    }

    /// Disables restarts of processes after an exit.
    pub fn unsupervised(mut self) -> Self {
        self.supervised = false;
        self
    }

    /// Starts node numbers after this number of nodes.
    pub(crate) fn named_after(mut self, nodes: usize) -> Self {
        self.named_after = nodes;
        self
    }

    /// Makes the nodes ask routers for their group; the first node bootstraps a new group.
    pub(crate) fn registers(mut self, registration: Registration) -> Self {
        self.registers = Some(registration);
        self
    }

    /// Uses the addresses of the block 127.x.y.0/24, as recorded in the archive of [`data`](Self::data).
    pub fn block(mut self, block: [u8; 2]) -> Self {
        self.block = Some(block);
        self
    }

    /// Unpacks the data directories n1, n2 and so on from this archive.
    pub fn data(mut self, archive: impl Into<PathBuf>) -> Self {
        self.data = Some(archive.into());
        self
    }

    /// Starts the nodes; waits until each node is ready and lists all nodes as voters.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        let cluster = self.create().await?;
        for node in &cluster.nodes {
            node.start()?;
        }
        cluster.whole(cluster.nodes.len()).await?;
        Ok(cluster)
    }

    /// Creates the nodes without starting any.
    pub async fn create(self) -> anyhow::Result<Cluster> {
        // Short prefix: the path of a Unix socket is limited to 107 bytes.
        let dir = tempfile::Builder::new().prefix("rkv").tempdir().context("make a directory for the data")?;
        let loopback = match self.block {
            Some(block) => Loopback::reserve_block(block).await?,
            None => Loopback::reserve()?,
        };
        if let Some(data) = &self.data {
            archive::unpack(data, dir.path()).await?;
        }
        let supervisor = self.supervised.then(Supervisor::start);
        let mut cluster = Cluster {
            nodes: Vec::new(),
            partition: Partition::default(),
            proxies: Vec::new(),
            senders: Senders::default(),
            fatal_allowed: false,
            finished: false,
            supervisor,
            loopback,
            dir: Some(dir),
            settings: self,
        };
        for _ in 0..cluster.settings.nodes {
            cluster.add_node().await?;
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// Three nodes, supervised, without proxies, by default.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            nodes: 3,
            env: Vec::new(),
            programs: None,
            partitionable: false,
            lan: None,
            supervised: true,
            named_after: 0,
            registers: None,
            block: None,
            data: None,
        }
    }

    /// Creates a node configured to join the initial nodes, without starting the node.
    pub async fn add_node(&mut self) -> anyhow::Result<Arc<Node>> {
        let index = self.nodes.len() + 1;
        let root = self.dir.as_ref().context("the cluster is over")?.path().to_owned();
        let name = format!("node{}", self.settings.named_after + index);
        let dir = root.join(format!("n{index}"));
        if self.settings.data.is_none() || !dir.is_dir() {
            fs::create_dir(&dir)?;
        }
        let ip = self.ip(index);
        let raft = SocketAddr::from((ip, RAFT_PORT));
        let raft_advertised = match self.settings.partitionable {
            true => SocketAddr::from((self.loopback.proxy(index), RAFT_PORT)),
            false => raft,
        };
        let programs = self.settings.programs.as_deref();
        let process = |program: &str, role: &str| -> anyhow::Result<Arc<Process>> {
            let log = root.join(format!("{name}-{role}.log"));
            Ok(Arc::new(Process::new(format!("{name}'s {role}"), binary_in(programs, program)?, log)))
        };
        let node = Arc::new(Node {
            index,
            dir,
            http: SocketAddr::from((ip, HTTP_PORT)),
            management: SocketAddr::from((ip, MANAGEMENT_PORT)),
            group: SocketAddr::from((ip, GROUP_PORT)),
            raft,
            raft_advertised,
            engine: process("raftkv-engine", "engine")?,
            sidecar: process("raftkv-sidecar", "sidecar")?,
            name,
        });
        if let Some(lan) = &self.settings.lan {
            node.engine.set_wrapper(lan.wrapper(index));
            node.sidecar.set_wrapper(lan.wrapper(index));
        }
        self.configure(&node);
        if self.settings.partitionable {
            let proxy =
                Proxy::start(raft_advertised, raft, index, self.partition.clone(), Arc::clone(&self.senders)).await?;
            self.proxies.push(proxy);
            let sender = (index, Arc::clone(&node.sidecar));
            self.senders.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        if let Some(supervisor) = &self.supervisor {
            supervisor.add(Arc::clone(&node.engine));
            supervisor.add(Arc::clone(&node.sidecar));
        }
        self.nodes.push(Arc::clone(&node));
        Ok(node)
    }

    fn ip(&self, index: usize) -> Ipv4Addr {
        match &self.settings.lan {
            Some(lan) => lan.node(index),
            None => self.loopback.node(index),
        }
    }

    /// Changes the peer address of a stopped node, from the next start.
    pub fn move_raft(&self, node: &Node, to_port: u16) {
        let address = SocketAddr::from((node.raft.ip(), to_port)).to_string();
        node.sidecar.set_env("RAFTKV_RAFT_LISTEN", &address);
        node.sidecar.set_env("RAFTKV_RAFT_ADVERTISE", &address);
    }

    fn configure(&self, node: &Node) {
        let join: Vec<_> = (1..=self.settings.nodes)
            .map(|index| SocketAddr::from((self.ip(index), MANAGEMENT_PORT)).to_string())
            .collect();
        let bootstrap = if node.index == 1 { "true" } else { "false" };
        for process in [&node.engine, &node.sidecar] {
            for (name, value) in &self.settings.env {
                process.set_env(name, value);
            }
            process.set_env("NODE_ID", &node.name);
            process.set_env("RAFTKV_DATA_DIR", node.dir.to_string_lossy());
            process.set_env("RAFTKV_HTTP_ADVERTISE", node.http.to_string());
            process.set_env("RAFTKV_GROUP_ADVERTISE", node.group.to_string());
        }
        node.engine.set_env("RAFTKV_GROUP_LISTEN", node.group.to_string());
        node.engine.set_env("RAFTKV_HTTP_LISTEN", node.http.to_string());
        node.sidecar.set_env("BOOTSTRAP", bootstrap);
        match &self.settings.registers {
            None => node.sidecar.set_env("JOIN_ADDR", join.join(",")),
            Some(Registration { routers, group }) => {
                let routers: Vec<_> = routers.iter().map(SocketAddr::to_string).collect();
                node.sidecar.set_env("RAFTKV_ROUTER", routers.join(","));
                node.sidecar.set_env("RAFTKV_GROUP", group);
            }
        }
        set_raft_addresses(node, node.raft, node.raft_advertised);
        node.sidecar.set_env("RAFTKV_MANAGEMENT_LISTEN", node.management.to_string());
        node.sidecar.set_env("RAFTKV_MANAGEMENT_ADVERTISE", node.management.to_string());
    }

    /// Node number `index`, counted from 1.
    pub fn node(&self, index: usize) -> &Arc<Node> {
        &self.nodes[index - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// All nodes except `than`.
    pub fn others(&self, than: &Node) -> Vec<Arc<Node>> {
        self.nodes.iter().filter(|node| node.index != than.index).cloned().collect()
    }

    /// Waits for a leader, as reported by the leader, and returns the node.
    pub async fn leader(&self) -> anyhow::Result<Arc<Node>> {
        self.leader_among(&self.nodes).await
    }

    /// Waits for a leader other than `node`.
    pub async fn leader_other_than(&self, node: &Node) -> anyhow::Result<Arc<Node>> {
        self.leader_among(&self.others(node)).await
    }

    async fn leader_among(&self, nodes: &[Arc<Node>]) -> anyhow::Result<Arc<Node>> {
        eventually("there is a leader", || async {
            let statuses = join_all(nodes.iter().map(|node| node.status())).await;
            // Two nodes may claim leadership: the node with the higher term leads.
            nodes
                .iter()
                .zip(statuses)
                .filter_map(|(node, status)| Some((status.ok().filter(|status| status.node.leads())?.node.term, node)))
                .max_by_key(|(term, _)| *term)
                .map(|(_, node)| Arc::clone(node))
                .ok_or_else(|| anyhow!("no node leads"))
        })
        .await
    }

    /// A follower; waits for a leader first.
    pub async fn follower(&self) -> anyhow::Result<Arc<Node>> {
        let leader = self.leader().await?;
        self.others(&leader).into_iter().next().context("the leader is alone")
    }

    /// Waits until every running node is ready and lists `voters` voters.
    pub async fn whole(&self, voters: usize) -> anyhow::Result<()> {
        let running = self.nodes.iter().filter(|node| node.sidecar.pid().is_some());
        try_join_all(running.map(|node| async move {
            eventually(&format!("{} is ready and knows {voters} voters", node.name), || async {
                let status = node.status().await?;
                ensure!(status.voters().len() == voters, "it knows the voters {:?}", status.voters());
                ensure!(status.members.len() == voters, "it knows {} members", status.members.len());
                node.ready().await
            })
            .await
        }))
        .await?;
        Ok(())
    }

    /// Waits until all running nodes have applied the same log position, then checks for equal contents and returns the
    /// contents. Writes must have stopped.
    pub async fn converged(&self) -> anyhow::Result<Contents> {
        let running: Vec<_> = self.nodes.iter().filter(|node| node.engine.pid().is_some()).collect();
        eventually_within(Duration::from_secs(120), "all nodes have applied the same", || async {
            let statuses = try_join_all(running.iter().map(|node| node.status())).await?;
            let applied: Vec<_> = statuses.iter().map(|status| status.node.applied).collect();
            let last = statuses.iter().map(|status| status.node.last_log).max();
            ensure!(applied.iter().all(|position| Some(*position) == last), "applied {applied:?} of {last:?}");
            Ok(())
        })
        .await?;
        let mut first: Option<Contents> = None;
        for node in running {
            let contents = Contents::read(&node.client(), "", "stale").await?;
            match &first {
                None => first = Some(contents),
                Some(first) => {
                    let difference = first.difference(&contents);
                    ensure!(difference.is_empty(), "{} serves something else: {difference}", node.name);
                    ensure!(
                        first.store_revision == contents.store_revision,
                        "{} is at revision {} and not {}",
                        node.name,
                        contents.store_revision,
                        first.store_revision
                    );
                }
            }
        }
        first.context("no node runs")
    }

    /// Drops all messages between a node and the others, in both directions.
    pub fn isolate(&self, node: &Node) {
        for other in self.others(node) {
            self.cut(node, &other, Flow::Silent);
            self.cut(&other, node, Flow::Silent);
        }
    }

    /// Sets the flow from one node to another. The opposite direction is unchanged.
    pub fn cut(&self, from: &Node, to: &Node, flow: Flow) {
        assert!(self.settings.partitionable, "the cluster was not built to be partitionable");
        self.partition.set(from.index, to.index, flow);
    }

    /// Sets the network quality between all nodes.
    pub fn set_weather(&self, weather: Weather) {
        assert!(self.settings.partitionable, "the cluster was not built to be partitionable");
        self.partition.set_weather(weather);
    }

    /// Limits the total traffic of a node to this rate, sent and received.
    pub fn set_slow_link(&self, node: &Node, bytes_per_second: u64) {
        assert!(self.settings.partitionable, "the cluster was not built to be partitionable");
        self.partition.set_slow_link(node.index, bytes_per_second);
    }

    /// Drops messages between nodes in pieces larger than this number of bytes; 0 = no limit.
    pub fn set_largest(&self, bytes: usize) {
        assert!(self.settings.partitionable, "the cluster was not built to be partitionable");
        self.partition.set_largest(bytes);
    }

    /// Changes the peer address of a node, from the next start. Dropping the result restores the original address, from
    /// the following start.
    pub(crate) async fn readdressed(&self, node: &Arc<Node>) -> anyhow::Result<Readdressed> {
        assert!(self.settings.partitionable, "the cluster was not built to be partitionable");
        let other = |address: SocketAddr| SocketAddr::new(address.ip(), OTHER_RAFT_PORT);
        let (raft, advertised) = (other(node.raft), other(node.raft_advertised));
        let senders = Arc::clone(&self.senders);
        let proxy = Proxy::start(advertised, raft, node.index, self.partition.clone(), senders).await?;
        set_raft_addresses(node, raft, advertised);
        Ok(Readdressed { node: Arc::clone(node), address: advertised, _proxy: proxy })
    }

    /// Counts of injected network faults so far.
    pub fn flow_counts(&self) -> FlowCounts {
        self.partition.counts()
    }

    /// Opens all flows and restores full network quality.
    pub fn heal(&self) {
        self.partition.heal();
    }

    /// Allows intended exits of processes: fatal messages in the logs are no bug in this test.
    pub fn expect_fatal(&mut self) {
        self.fatal_allowed = true;
    }

    /// Directory with all files of this cluster.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default()
    }

    /// Ends the cluster after a successful test: checks the logs for bugs and removes the files.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.supervisor = None;
        for node in &self.nodes {
            node.kill();
            let logs = node.logs().unwrap_or_default();
            if !self.fatal_allowed
                && let Some(line) = logs.lines().find(|line| NEVER_LOGGED.iter().any(|never| line.contains(never)))
            {
                return Err(anyhow!("{} logged: {line}", node.name));
            }
            for process in [&node.engine, &node.sidecar] {
                let expected =
                    |exit: &Exit| exit.signal == Some(SIGKILL) || matches!(exit.code, Some(0 | EXIT_TEMPFAIL));
                let odd: Vec<_> = process.exits().into_iter().filter(|exit| !expected(exit)).collect();
                ensure!(self.fatal_allowed || odd.is_empty(), "{} ended by itself: {odd:?}", process.name());
            }
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor = None;
        for node in &self.nodes {
            node.kill();
        }
        if self.finished {
            return;
        }
        let Some(dir) = self.dir.take() else { return };
        // Kept for inspection.
        let dir = dir.keep();
        println!("the test did not finish; data and logs are kept in {}", dir.display());
        for process in self.nodes.iter().flat_map(|node| [&node.engine, &node.sidecar]) {
            println!("--- {} ended as {:?}; end of its log:", process.name(), process.exits());
            println!("{}", tail(process.log(), LINES_SHOWN));
        }
    }
}
