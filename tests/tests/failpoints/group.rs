//! [`Group`]: a group whose processes die at failpoints, cycle after cycle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;
use raftkv_tests::{
    BulkLoad, Client, Cluster, Contents, Deaths, Failpoints, Load, Node, Process, Registers, RegistersReport, Seed,
    Tolerance, eventually, eventually_within, figure,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::places::Role::{self, Leader};
use super::places::{BOTH, Event, Place, place};

/// Clients and keys of the registers of one cycle.
pub(super) const CLIENTS: usize = 6;
pub(super) const KEYS: usize = 6;
/// Clients that put keys to be counted.
const WRITERS: usize = 2;
/// From the order to die to the death: a purge waits for the next second, an install for a member to be forgotten.
pub(super) const DEATH_PATIENCE: Duration = Duration::from_secs(45);
/// Between two attempts to bring the process to the place.
const NUDGE: Duration = Duration::from_millis(100);
/// Operations that must be answered before the death and again after it.
pub(super) const ENOUGH: u64 = 40;
/// What a process ends with when the disk fails.
const EXIT_IO: i32 = 74;
const SIGKILL: i32 = 9;

/// The process of a node that a failpoint belongs to.
fn process_of<'a>(node: &'a Node, name: &str) -> &'a Process {
    if name.starts_with("engine::") { node.engine() } else { node.sidecar() }
}

fn failpoints_of(node: &Node, name: &str) -> Failpoints {
    if name.starts_with("engine::") { Failpoints::of_engine(node) } else { Failpoints::of_sidecar(node) }
}

/// One death and what comes after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cycle {
    pub(super) place: Place,
    pub(super) role: Role,
    /// How often it is passed before the process dies.
    pub(super) skip: u64,
}

/// Three nodes, and a fourth that comes and goes.
pub(super) struct Group {
    pub(super) cluster: Cluster,
    fourth: Arc<Node>,
    seed: Seed,
    rng: StdRng,
    cycles: usize,
    operations: usize,
    puts: usize,
    longest: Duration,
}

impl Group {
    pub(super) async fn start(programs: PathBuf, seed: Seed) -> anyhow::Result<Self> {
        // A log so short that it is purged all the time, and long enough that a node which was away for a moment needs no
        // snapshot.
        let builder = Cluster::builder().programs(programs).env("RAFTKV_LOG_RETAIN", "256KiB");
        let mut cluster = builder.env("RAFTKV_SNAPSHOT_AFTER", "128KiB").start().await?;
        let fourth = cluster.add_node().await?;
        let (cycles, operations, puts, longest) = (0, 0, 0, Duration::ZERO);
        Ok(Self { cluster, fourth, seed, rng: seed.rng(90), cycles, operations, puts, longest })
    }

    /// The three that are always there.
    fn nodes(&self) -> &[Arc<Node>] {
        &self.cluster.nodes()[..3]
    }

    fn clients(&self) -> Vec<Client> {
        self.nodes().iter().map(|node| node.client()).collect()
    }

    pub(super) async fn cycle(&mut self, Cycle { place, role, skip }: Cycle) -> anyhow::Result<()> {
        self.cycles += 1;
        let number = self.cycles;
        let at = Instant::now();
        let what = format!("{number}: the {role:?} dies at {}", place.name);
        let prefix = format!("{number}/");
        let keys = (0..KEYS).map(|key| format!("register/{prefix}{key}")).collect();
        let seed = self.seed.part(number as u64);
        let registers = Registers::start(keys, CLIENTS, self.clients(), Tolerance::Faults, seed);
        let load = Load::start(&prefix, u64::from(u32::MAX), WRITERS, self.clients());
        progress(&registers, ENOUGH).await.with_context(|| what.clone())?;
        let victim = self.death(place, role, skip).await.with_context(|| what.clone())?;
        let died = at.elapsed();
        self.recovered(&victim, place, &registers).await.with_context(|| what.clone())?;
        let (report, puts) = self.right(registers, load, &prefix).await.with_context(|| what.clone())?;
        println!(
            "{what}: dead after {died:.1?}, all is well after {:.1?}: {} operations, {puts} puts",
            at.elapsed(),
            report.operations
        );
        self.operations += report.operations;
        self.puts += puts;
        self.longest = self.longest.max(report.longest_wait);
        Ok(())
    }

    /// Brings a process to the place. Returns the node that it belongs to, when it has died there and was started again.
    async fn death(&mut self, place: Place, role: Role, skip: u64) -> anyhow::Result<Arc<Node>> {
        let leader = self.cluster.leader().await?;
        let others: Vec<_> = self.nodes().iter().filter(|node| node.index() != leader.index()).cloned().collect();
        let follower = others.choose(&mut self.rng).context("a follower")?.clone();
        let victim = if role == Leader { leader.clone() } else { follower.clone() };
        // Who stands for election is the one that dies, or the other one.
        let successor = others.choose(&mut self.rng).context("a follower")?.clone();
        let orders = format!("{}={skip}*off->1*die", place.name);
        let process = process_of(&victim, place.name);
        let deaths = Deaths::of(process);

        if place.event == Event::Install {
            let away = if role == Leader { &follower } else { &victim };
            away.kill();
            leave_behind(&self.cluster, self.nodes(), away).await?;
            if role == Leader {
                failpoints_of(&victim, place.name).set(&orders).await?;
                away.start()?;
            } else {
                // It may come to the place before anybody could tell it over its socket.
                process.set_env("FAILPOINTS", orders);
                away.start()?;
                process.set_env("FAILPOINTS", "");
            }
        } else {
            failpoints_of(&victim, place.name).set(&orders).await?;
        }
        let died = eventually_within(DEATH_PATIENCE, "the process dies there", || async {
            deaths.at(place.name)?;
            deaths.start_again()
        });
        let nudges = async {
            loop {
                // What is asked of a process that dies fails; that it dies is what counts.
                let _ = self.nudge(place.event, &victim, &successor).await;
                tokio::time::sleep(NUDGE).await;
            }
        };
        tokio::select! {
            died = died => died?,
            _ = nudges => {}
        }
        Ok(victim)
    }

    async fn nudge(&self, event: Event, victim: &Node, successor: &Node) -> anyhow::Result<()> {
        match event {
            Event::Load | Event::Install => {}
            Event::Election => {
                let path = format!("/transfer-leader?to={}", successor.name());
                // Asked of the third node where there is one, for it lives.
                let asked = self.nodes().iter().find(|node| node.index() != victim.index()).context("another node")?;
                asked.management().post(&path, "application/json", "").await?;
            }
            Event::Compaction => {
                victim.compact().await?;
            }
            Event::Segment => {
                let (puts, value_bytes) = (288, 64 * 1024);
                let bulk = BulkLoad { puts, keys: puts, value_bytes, batch: 8, prefix: "bulk/".to_owned() };
                bulk.run(&self.clients()).await?;
                victim.compact().await?;
            }
            Event::Change => {
                self.fourth.start()?;
            }
        }
        Ok(())
    }

    /// Waits until all serve again.
    async fn recovered(&self, victim: &Node, place: Place, registers: &Registers) -> anyhow::Result<()> {
        let so_far = registers.done();
        eventually("the node is ready again", || async {
            process_of(victim, place.name).start()?;
            victim.ready().await
        })
        .await?;
        progress(registers, so_far + ENOUGH).await?;
        if place.event == Event::Change {
            self.fourth_comes_and_goes().await?;
        }
        eventually("three voters are ready", || async {
            for node in self.nodes() {
                let status = node.status().await?;
                ensure!(status.members.len() == 3 && status.voters().len() == 3, "{:?}", status.members);
                node.ready().await?;
            }
            Ok(())
        })
        .await
    }

    /// The change that was interrupted is brought to its end, then undone.
    async fn fourth_comes_and_goes(&self) -> anyhow::Result<()> {
        self.fourth.start()?;
        eventually("the fourth node is a voter", || async {
            let status = self.cluster.leader().await?.status().await?;
            ensure!(status.voters().contains(&self.fourth.name()), "{:?}", status.members);
            self.fourth.ready().await
        })
        .await?;
        eventually("the fourth node is no member any more", || async {
            let leader = self.cluster.leader().await?;
            let asked = if leader.index() == self.fourth.index() { self.cluster.node(1) } else { &leader };
            let _ = asked.remove(self.fourth.name()).await?;
            let status = asked.status().await?;
            ensure!(status.members.len() == 3, "{:?}", status.members);
            Ok(())
        })
        .await?;
        self.fourth.wipe()
    }

    /// Ends the clients and checks all that they saw and what is there now.
    async fn right(&self, registers: Registers, load: Load, prefix: &str) -> anyhow::Result<(RegistersReport, usize)> {
        load.end();
        let checked = registers.check().await?;
        let report = load.report().await?;
        equal(self.nodes()).await?;
        let mut first: Option<Contents> = None;
        for node in self.nodes() {
            let contents = Contents::read(&node.client(), prefix, "stale").await?;
            report.check(&contents).with_context(|| format!("at {}", node.name()))?;
            let difference = first.get_or_insert_with(|| contents.clone()).difference(&contents);
            ensure!(difference.is_empty(), "{} serves something else: {difference}", node.name());
        }
        Ok((checked, report.acked()))
    }

    pub(super) async fn failure(&mut self, name: &'static str, role: Role) -> anyhow::Result<()> {
        self.cycles += 1;
        let prefix = format!("{}/", self.cycles);
        let keys = (0..KEYS).map(|key| format!("register/{prefix}{key}")).collect();
        let seed = self.seed.part(self.cycles as u64);
        let registers = Registers::start(keys, CLIENTS, self.clients(), Tolerance::Faults, seed);
        let load = Load::start(&prefix, u64::from(u32::MAX), WRITERS, self.clients());
        progress(&registers, ENOUGH).await?;
        let leader = self.cluster.leader().await?;
        let other = self.nodes().iter().find(|node| node.index() != leader.index()).context("a follower")?.clone();
        let victim = if role == Leader { leader } else { other };
        let process = process_of(&victim, name);
        let ended = process.exits().len();
        failpoints_of(&victim, name).set(&format!("{name}=1*return(the disk is gone)")).await?;
        eventually_within(DEATH_PATIENCE, "the process ends", || async {
            if name.starts_with("engine::") {
                let _ = victim.compact().await;
            }
            let exits = process.exits();
            let exit = exits.get(ended).ok_or_else(|| anyhow!("it runs"))?;
            ensure!(exit.code == Some(EXIT_IO), "it ended as {exit:?}");
            Ok(())
        })
        .await?;
        let place = place(name, Event::Load, BOTH, 0);
        self.recovered(&victim, place, &registers).await?;
        self.right(registers, load, &prefix).await.map(drop)
    }

    /// Whatever the other process of a node does: who was not killed never ends.
    fn nobody_else_ended(&self) -> anyhow::Result<()> {
        for node in self.cluster.nodes() {
            for process in [node.engine(), node.sidecar()] {
                let exits = process.exits();
                let odd = exits.iter().find(|exit| exit.signal != Some(SIGKILL));
                ensure!(odd.is_none(), "{} ended as {odd:?}", process.name());
            }
        }
        Ok(())
    }

    pub(super) async fn finish(self, of: &str, took: Duration) -> anyhow::Result<()> {
        self.nobody_else_ended()?;
        figure(&format!("crash and recovery cycles {of}"), self.cycles);
        figure(
            &format!("crash and recovery cycles a minute {of}"),
            format!("{:.1}", self.cycles as f64 * 60.0 / took.as_secs_f64()),
        );
        figure(&format!("operations checked for linearizability {of}"), self.operations);
        figure(&format!("puts acknowledged and found on every node {of}"), self.puts);
        figure(&format!("longest wait of a client {of}"), format!("{:.1?}", self.longest));
        self.cluster.finish().await
    }
}

/// Waits until none of `nodes` has the log any more that a node would need which was killed.
pub(super) async fn leave_behind(cluster: &Cluster, nodes: &[Arc<Node>], away: &Node) -> anyhow::Result<()> {
    // It has no more than the leader has by now; what it said of itself before may be too little.
    let last = cluster.leader().await?.status().await?.node.last_log;
    for node in nodes.iter().filter(|node| node.index() != away.index()) {
        eventually("the log is purged beyond what a node has that is away", || async {
            node.compact().await?.success()?;
            let purged = node.status().await?.node.purged;
            ensure!(purged > last, "up to {purged:?}, it has {last:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until all nodes have applied the same; then their states must have the same hash.
pub(super) async fn equal(nodes: &[Arc<Node>]) -> anyhow::Result<()> {
    let hashes = eventually("all nodes have applied the same", || async {
        let found = try_join_all(nodes.iter().map(|node| async move {
            let description = node.group_peer()?.describe().await?.0;
            let last = node.status().await?.node.last_log.map_or(0, |last| last + 1);
            anyhow::Ok((last, description.applied_next_index, description.state_hash))
        }))
        .await?;
        let end = found.iter().map(|(last, ..)| *last).max().unwrap_or_default();
        ensure!(found.iter().all(|(_, applied, _)| *applied == end), "(end of the log, applied, hash): {found:?}");
        Ok(found)
    })
    .await?;
    ensure!(hashes.iter().all(|(.., hash)| *hash == hashes[0].2), "equal positions, other states: {hashes:?}");
    Ok(())
}

pub(super) async fn progress(registers: &Registers, operations: u64) -> anyhow::Result<()> {
    eventually(&format!("{operations} operations are done"), || async {
        // A client that has given up says why when it is asked.
        ensure!(registers.done() >= operations || registers.healthy().is_err(), "{} are", registers.done());
        Ok(())
    })
    .await
}
