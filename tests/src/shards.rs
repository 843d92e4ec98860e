//! [`Shards`]: several groups behind routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;
use raftkv_kv::{SLOTS, SlotSet, slot_of};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::binaries::binary_in;
use crate::client::Client;
use crate::cluster::{Cluster, ClusterBuilder, NEVER_LOGGED, Registration};
use crate::contents::Contents;
use crate::files::tail;
use crate::group_peer::Held;
use crate::loopback::Loopback;
use crate::process::Process;
use crate::router::Router;
use crate::supervisor::Supervisor;
use crate::wait::eventually;

const HTTP_PORT: u16 = 8000;
/// Lines of each log printed after a failed test.
const LINES_SHOWN: usize = 25;

/// Configuration of a sharded store.
#[derive(Debug, Clone)]
pub struct ShardsBuilder {
    groups: usize,
    routers: usize,
    nodes: usize,
    env: Vec<(String, String)>,
    programs: Option<PathBuf>,
    router_env: Vec<(String, String)>,
    partitionable: bool,
    /// Address block of the routers; group number n uses the block n above.
    block: Option<[u8; 2]>,
    /// Archive of the nodes' data, for each group.
    data: Vec<PathBuf>,
}

/// Groups of nodes and routers, as processes on loopback. Processes are restarted after an exit, unless killed for good.
#[derive(Debug)]
pub struct Shards {
    settings: ShardsBuilder,
    /// The first group holds the slot map.
    groups: Vec<Cluster>,
    routers: Vec<Router>,
    finished: bool,
    supervisor: Option<Supervisor>,
    loopback: Loopback,
    dir: Option<TempDir>,
}

impl ShardsBuilder {
    /// Sets the initial number of groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Sets the number of routers.
    pub fn routers(mut self, routers: usize) -> Self {
        self.routers = routers;
        self
    }

    /// Sets the number of nodes per group.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets an environment variable for all processes of nodes.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Runs the programs in `dir`.
    pub fn programs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.programs = Some(dir.into());
        self
    }

    /// Sets an environment variable for all routers.
    pub fn router_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.router_env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts a proxy in front of each raft port, to allow partitions within a group.
    pub fn partitionable(mut self) -> Self {
        self.partitionable = true;
        self
    }

    /// Uses the addresses of the block 127.x.y.0/24 for routers, and of 127.x.y+n.0/24 for group number n.
    pub fn block(mut self, block: [u8; 2]) -> Self {
        self.block = Some(block);
        self
    }

    /// Unpacks the data directories n1, n2 and so on for each group from the group's archive.
    pub fn data(mut self, archives: Vec<PathBuf>) -> Self {
        self.data = archives;
        self
    }

    /// Starts all processes and waits until all groups share the slots evenly. With existing data, slots do not move.
    pub async fn start(self) -> anyhow::Result<Shards> {
        let dir = tempfile::Builder::new().prefix("rks").tempdir().context("make a directory for the logs")?;
        let loopback = match self.block {
            Some(block) => Loopback::reserve_block(block).await?,
            None => Loopback::reserve()?,
        };
        let mut shards = Shards {
            groups: Vec::new(),
            routers: Vec::new(),
            finished: false,
            supervisor: Some(Supervisor::start()),
            loopback,
            dir: Some(dir),
            settings: self,
        };
        for number in 1..=shards.settings.groups {
            shards.create_group(number).await?;
        }
        for _ in 0..shards.settings.routers {
            shards.add_router()?;
        }
        for node in shards.groups.iter().flat_map(|group| group.nodes()) {
            node.start()?;
        }
        shards.whole().await?;
        if shards.settings.data.is_empty() {
            shards.admin().settled(shards.groups.len()).await?;
        }
        Ok(shards)
    }
}

impl Shards {
    /// Two groups of three nodes and a single router, by default.
    pub fn builder() -> ShardsBuilder {
        ShardsBuilder {
            groups: 2,
            routers: 1,
            nodes: 3,
            env: Vec::new(),
            programs: None,
            router_env: Vec::new(),
            partitionable: false,
            block: None,
            data: Vec::new(),
        }
    }

    /// Starts the nodes of a new group, which registers with the routers, and waits until the group is complete. A
    /// share of the slots moves there automatically. Returns the group number.
    pub async fn add_group(&mut self) -> anyhow::Result<usize> {
        let number = self.groups.len() + 1;
        self.create_group(number).await?;
        for node in self.group(number).nodes() {
            node.start()?;
        }
        self.group(number).whole(self.settings.nodes).await?;
        Ok(number)
    }

    async fn create_group(&mut self, number: usize) -> anyhow::Result<()> {
        let settings = &self.settings;
        let mut builder: ClusterBuilder =
            Cluster::builder().nodes(settings.nodes).named_after((number - 1) * settings.nodes);
        for (name, value) in &settings.env {
            builder = builder.env(name, value);
        }
        if let Some(dir) = &settings.programs {
            builder = builder.programs(dir);
        }
        if settings.partitionable {
            builder = builder.partitionable();
        }
        if let Some([first, second]) = settings.block {
            builder = builder.block([first, second + number as u8]);
        }
        if let Some(archive) = settings.data.get(number - 1) {
            builder = builder.data(archive);
        }
        if number > 1 {
            let routers = (1..=settings.routers).map(|index| self.router_address(index)).collect();
            builder = builder.registers(Registration { routers, group: group_name(number) });
        }
        self.groups.push(builder.create().await?);
        Ok(())
    }

    fn router_address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.loopback.node(index), HTTP_PORT))
    }

    /// Starts an additional router.
    pub fn add_router(&mut self) -> anyhow::Result<()> {
        let router = self.router_of(1)?;
        if let Some(supervisor) = &self.supervisor {
            supervisor.add(Arc::clone(&router.process));
        }
        router.process.start()?;
        self.routers.push(router);
        Ok(())
    }

    /// Starts a router that is configured with group number `group` as the meta group. The router is not part of
    /// [`routers`](Self::routers), and is killed when dropped.
    pub fn misled_router(&self, group: usize) -> anyhow::Result<Router> {
        let router = self.router_of(group)?;
        router.process.start()?;
        Ok(router)
    }

    /// The group addresses of a group's nodes, as configured in routers.
    pub fn meta(&self, group: usize) -> String {
        let meta: Vec<_> = self.group(group).nodes().iter().map(|node| node.group_address().to_string()).collect();
        meta.join(",")
    }

    /// Creates the next router without starting the process.
    fn router_of(&self, group: usize) -> anyhow::Result<Router> {
        let index = self.routers.len() + 1;
        let name = format!("router{index}");
        let http = self.router_address(index);
        let root = self.dir.as_ref().context("the store is over")?.path();
        let process = Arc::new(Process::new(
            name.clone(),
            binary_in(self.settings.programs.as_deref(), "raftkv-router")?,
            root.join(format!("{name}.log")),
        ));
        process.set_env("RAFTKV_META", self.meta(group));
        process.set_env("RAFTKV_HTTP_LISTEN", http.to_string());
        process.set_env("RAFTKV_ROUTER_ID", &name);
        process.set_env("RAFTKV_REPLICAS", self.settings.nodes.to_string());
        for (name, value) in &self.settings.router_env {
            process.set_env(name, value);
        }
        Ok(Router { name, http, process })
    }

    /// Group number `number`, counted from 1; the first group holds the slot map.
    pub fn group(&self, number: usize) -> &Cluster {
        &self.groups[number - 1]
    }

    /// The groups.
    pub fn groups(&self) -> &[Cluster] {
        &self.groups
    }

    /// The id of a group, found by name.
    pub async fn group_id(&self, number: usize) -> anyhow::Result<u32> {
        if number == 1 {
            return Ok(1);
        }
        Ok(self.admin().cluster().await?.group(&group_name(number))?.id)
    }

    /// Router number `index`, counted from 1.
    pub fn router(&self, index: usize) -> &Router {
        &self.routers[index - 1]
    }

    /// The routers.
    pub fn routers(&self) -> &[Router] {
        &self.routers
    }

    /// Clients of all routers.
    pub fn clients(&self) -> Vec<Client> {
        self.routers.iter().map(Router::client).collect()
    }

    /// Administration through the last router, because tests kill the first router.
    pub fn admin(&self) -> Admin {
        self.router(self.routers.len()).admin()
    }

    /// Waits until every running node and router is ready.
    pub async fn whole(&self) -> anyhow::Result<()> {
        try_join_all(self.groups.iter().map(|group| group.whole(group.nodes().len()))).await?;
        let running = self.routers.iter().filter(|router| router.process.pid().is_some());
        try_join_all(
            running
                .map(|router| async move { eventually(&format!("{} is ready", router.name), || router.ready()).await }),
        )
        .await?;
        Ok(())
    }

    /// Waits until every slot is served by exactly one group and no move is unfinished. Then checks that each key is
    /// stored only in the group serving its slot, and that routers list exactly these keys. Writes must have stopped.
    /// Returns a router's listing.
    pub async fn spread(&self) -> anyhow::Result<Contents> {
        let held = eventually("each key is in one group and nothing is left of moves", || async {
            let mut held: BTreeMap<usize, Held> = BTreeMap::new();
            for (at, group) in self.groups.iter().enumerate() {
                if group.nodes().iter().all(|node| node.engine().pid().is_none()) {
                    continue;
                }
                let leader = group.leader().await?;
                let here = leader.group_peer()?.held().await?;
                ensure!(here.ownership.purge.is_none(), "group {} still purges", at + 1);
                ensure!(
                    here.ownership.incoming.is_none() && here.ownership.outgoing.is_none(),
                    "group {} still moves",
                    at + 1
                );
                held.insert(at + 1, here);
            }
            let all = held.values().fold(SlotSet::new(), |all, held| all.union(&held.served));
            ensure!(all.len() == usize::from(SLOTS), "only the slots {all} are served");
            Ok(held)
        })
        .await?;
        let mut served = SlotSet::new();
        let mut keys = BTreeSet::new();
        for (number, held) in &held {
            ensure!(!served.overlaps(&held.served), "group {number} serves slots that another one serves as well");
            served = served.union(&held.served);
            for key in &held.keys {
                ensure!(held.served.contains(slot_of(key.as_bytes())), "{key} does not belong to group {number}");
                ensure!(keys.insert(key.clone()), "{key} is in two groups");
            }
            ensure!(
                held.stored == held.keys.len() as u64,
                "group {number} stores {} keys and serves {}",
                held.stored,
                held.keys.len()
            );
        }
        let mut first: Option<Contents> = None;
        for router in self.routers.iter().filter(|router| router.process.pid().is_some()) {
            let contents = Contents::read(&router.client(), "", "linearizable").await?;
            let listed: BTreeSet<_> = contents.entries.keys().cloned().collect();
            ensure!(
                listed == keys,
                "{} lists other keys than the groups hold: {:?}",
                router.name,
                listed.symmetric_difference(&keys).take(10).collect::<Vec<_>>()
            );
            first.get_or_insert(contents);
        }
        first.context("no router runs")
    }

    /// Kills all processes, restarts them and waits until all are ready.
    pub async fn restart(&self) -> anyhow::Result<()> {
        for router in &self.routers {
            router.process.kill();
        }
        for node in self.groups.iter().flat_map(|group| group.nodes()) {
            node.kill();
        }
        for node in self.groups.iter().flat_map(|group| group.nodes()) {
            node.start()?;
        }
        for router in &self.routers {
            router.process.start()?;
        }
        self.whole().await
    }

    /// Restarts the routers with an environment variable set: routers have no data to lose.
    pub async fn restart_routers(&self, name: &str, value: &str) -> anyhow::Result<()> {
        for router in &self.routers {
            router.process.kill();
            router.process.set_env(name, value);
            router.process.start()?;
        }
        self.whole().await
    }

    /// Allows intended exits of processes: fatal messages in the logs are no bug in this test.
    pub fn expect_fatal(&mut self) {
        self.groups.iter_mut().for_each(Cluster::expect_fatal);
    }

    /// Returns `count` keys with `prefix` and a slot in `slots`, in distinct slots as far as possible.
    pub fn keys_in(slots: &SlotSet, prefix: &str, count: usize) -> Vec<String> {
        let mut used = BTreeSet::new();
        let numbers = 0u64..;
        numbers
            .map(|number| format!("{prefix}{number}"))
            .filter(|key| {
                let slot = slot_of(key.as_bytes());
                slots.contains(slot) && (used.len() >= slots.len() || used.insert(slot))
            })
            .take(count)
            .collect()
    }

    /// Ends the store after a successful test: checks the logs for bugs and removes the files.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.supervisor = None;
        for router in &self.routers {
            router.process.kill();
            let log = std::fs::read_to_string(router.process.log()).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| NEVER_LOGGED.iter().any(|never| line.contains(never))) {
                return Err(anyhow!("{} logged: {line}", router.name));
            }
        }
        for group in std::mem::take(&mut self.groups) {
            group.finish().await?;
        }
        self.finished = true;
        Ok(())
    }
}

/// Group name in the registration with routers.
fn group_name(number: usize) -> String {
    format!("group{number}")
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.supervisor = None;
        for router in &self.routers {
            router.process.kill();
        }
        if self.finished {
            return;
        }
        let Some(dir) = self.dir.take() else { return };
        let dir = dir.keep();
        println!("the test did not finish; the routers' logs are kept in {}", dir.display());
        for router in &self.routers {
            println!("--- {} ended as {:?}; end of its log:", router.name, router.process.exits());
            println!("{}", tail(router.process.log(), LINES_SHOWN));
        }
    }
}
