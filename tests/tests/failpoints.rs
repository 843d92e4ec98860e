//! A process dies at each failpoint, in each role, under a checked load, and comes back: nothing acknowledged is lost, the
//! history is linearizable, the replicas are equal.
//!
//! The programs are those of `scripts/planted.sh`. By default some of the cycles are made, chosen by the seed; with
//! `RAFTKV_TEST_FULL=1` every failpoint in every role, and more than 200 cycles in all.

mod places;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;
use raftkv_kv::SlotSet;
use raftkv_tests::{
    BulkLoad, Client, Cluster, Contents, Deaths, Failpoints, Load, Node, Process, Registers, RegistersReport, Seed,
    Shards, Tolerance, eventually, eventually_within, figure, full_from_env, planted_programs,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use places::Role::{self, Follower, Leader};
use places::{BOTH, Event, MOVE_PLACES, PLACES, Place, SWAP_RENAMES, Side, place};

/// Cycles of each of the two tests of one group, when nothing is left to the seed.
const FULL_CYCLES: usize = 100;
/// And when some are chosen.
const SOME_CYCLES: usize = 8;
/// Cycles of the test of moves when some are chosen.
const SOME_MOVES: usize = 4;
/// Clients and keys of the registers of one cycle.
const CLIENTS: usize = 6;
const KEYS: usize = 6;
/// Clients that put keys to be counted.
const WRITERS: usize = 2;
/// From the order to die to the death: a purge waits for the next second, an install for a member to be forgotten.
const DEATH_PATIENCE: Duration = Duration::from_secs(45);
/// Between two attempts to bring the process to the place.
const NUDGE: Duration = Duration::from_millis(100);
/// Operations that must be answered before the death and again after it.
const ENOUGH: u64 = 40;
/// Slots of each move.
const SLOTS: usize = 300;
/// What a process ends with when the disk fails.
const EXIT_IO: i32 = 74;
/// And when it asks to be started again.
const EXIT_TEMPFAIL: i32 = 75;
const SIGKILL: i32 = 9;
/// What a sidecar says whose engine has died between receiving a snapshot and making it live.
const LOST_SNAPSHOT: &str = "no snapshot is staged";

/// The process of a node that a failpoint belongs to.
fn process_of<'a>(node: &'a Node, name: &str) -> &'a Process {
    if name.starts_with("engine::") { node.engine() } else { node.sidecar() }
}

fn failpoints_of(node: &Node, name: &str) -> Failpoints {
    if name.starts_with("engine::") { Failpoints::of_engine(node) } else { Failpoints::of_sidecar(node) }
}

/// Every failpoint in the source is in one of the tables here, and the other way round.
#[test]
fn no_failpoint_is_left_out() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for part in ["engine/src", "sidecar/src"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part), &mut found)?;
    }
    let mut known: Vec<_> = PLACES.iter().map(|place| place.name).chain(SWAP_RENAMES).collect();
    known.extend(MOVE_PLACES.iter().map(|(name, _)| *name));
    known.sort_unstable();
    found.sort_unstable();
    ensure!(found == known, "in the source: {found:#?}, in the tables: {known:#?}");
    Ok(())
}

/// The names of failpoints in the files of a directory: texts such as `"engine::store::before_commit"`.
fn collect(dir: &Path, found: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let names = text.split('"').filter(|text| {
                let is_ours = text.starts_with("engine::") || text.starts_with("sidecar::");
                is_ours && text.split("::").count() == 3 && !text.contains(char::is_whitespace)
            });
            found.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}

/// One death and what comes after it.
#[derive(Debug, Clone, Copy)]
struct Cycle {
    place: Place,
    role: Role,
    /// How often it is passed before the process dies.
    skip: u64,
}

/// Three nodes, and a fourth that comes and goes.
struct Group {
    cluster: Cluster,
    fourth: Arc<Node>,
    seed: Seed,
    rng: StdRng,
    cycles: usize,
    operations: usize,
    puts: usize,
    longest: Duration,
}

impl Group {
    async fn start(programs: PathBuf, seed: Seed) -> anyhow::Result<Self> {
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

    async fn cycle(&mut self, Cycle { place, role, skip }: Cycle) -> anyhow::Result<()> {
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
            self.leave_behind(away).await?;
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

    /// Kills a node and waits until nobody has the log any more that it would need.
    async fn leave_behind(&self, away: &Node) -> anyhow::Result<()> {
        away.kill();
        // It has no more than the leader has by now; what it said of itself before may be too little.
        let last = self.cluster.leader().await?.status().await?.node.last_log;
        for node in self.nodes().iter().filter(|node| node.index() != away.index()) {
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

    /// A sidecar whose engine died with a received snapshot starts again, and says why. No other last word is tolerated.
    fn only_lost_snapshots_are_fatal(&mut self) -> anyhow::Result<()> {
        for node in self.cluster.nodes() {
            // Nothing was started here.
            let Ok(logs) = node.logs() else { continue };
            let is_last_word = |line: &&str| line.contains("fatal:") || line.contains("panic");
            let other = logs.lines().filter(is_last_word).find(|line| !line.contains(LOST_SNAPSHOT));
            ensure!(other.is_none(), "{} logged: {other:?}", node.name());
            for process in [node.engine(), node.sidecar()] {
                let exits = process.exits();
                let odd = exits.iter().find(|exit| exit.signal != Some(SIGKILL) && exit.code != Some(EXIT_TEMPFAIL));
                ensure!(odd.is_none(), "{} ended as {odd:?}", process.name());
            }
        }
        self.cluster.expect_fatal();
        Ok(())
    }

    async fn finish(mut self, of: &str, took: Duration) -> anyhow::Result<()> {
        self.only_lost_snapshots_are_fatal()?;
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

/// Waits until all nodes have applied the same; then their states must have the same hash.
async fn equal(nodes: &[Arc<Node>]) -> anyhow::Result<()> {
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

async fn progress(registers: &Registers, operations: u64) -> anyhow::Result<()> {
    eventually(&format!("{operations} operations are done"), || async {
        // A client that has given up says why when it is asked.
        ensure!(registers.done() >= operations || registers.healthy().is_err(), "{} are", registers.done());
        Ok(())
    })
    .await
}

/// Every place in every role, in an order of the seed's; and then, up to `cycles`, those again that take the least time.
fn planned(program: &str, cycles: usize, rng: &mut StdRng) -> Vec<Cycle> {
    let ours = PLACES.iter().filter(|place| place.name.starts_with(program));
    let mut all: Vec<_> =
        ours.flat_map(|&place| place.roles.iter().map(move |&role| Cycle { place, role, skip: 0 })).collect();
    all.shuffle(rng);
    let quick = |cycle: &&Cycle| matches!(cycle.place.event, Event::Load | Event::Election | Event::Compaction);
    let again: Vec<_> = all.iter().filter(quick).copied().collect();
    let more = again.iter().cycle().take(cycles.saturating_sub(all.len())).copied().collect::<Vec<_>>();
    all.extend(more);
    for cycle in &mut all {
        cycle.skip = rng.random_range(0..=cycle.place.skip);
    }
    all
}

async fn cycles(program: &str) -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let seed = Seed::from_env();
    let mut plan = planned(program, FULL_CYCLES, &mut seed.rng(91));
    if !full_from_env() {
        println!("{SOME_CYCLES} of {} cycles, chosen by the seed", plan.len());
        plan.truncate(SOME_CYCLES);
    }
    let mut group = Group::start(programs, seed).await?;
    let start = Instant::now();
    for cycle in plan {
        group.cycle(cycle).await?;
    }
    let of = format!("of {program}s");
    group.finish(&of, start.elapsed()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_sidecar_that_dies_anywhere_comes_back() -> anyhow::Result<()> {
    cycles("sidecar").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_an_engine_that_dies_anywhere_comes_back() -> anyhow::Result<()> {
    cycles("engine").await
}

/// The pointer to the live generation is changed at a start, too. A process that dies there again and again has still one
/// whole state or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_while_it_changes_the_pointer_has_one_state_or_the_other() -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let mut group = Group::start(programs, Seed::from_env()).await?;
    let start = Instant::now();
    for name in SWAP_RENAMES {
        let place = place(name, Event::Install, &[Follower], 1);
        // The first passing is at the start, the second one when the snapshot is installed.
        for skip in [0, 1] {
            group.cycle(Cycle { place, role: Follower, skip }).await?;
        }
    }
    group.finish("of engines at the pointer", start.elapsed()).await
}

/// What could not be written or made durable is not tried again: the process ends, and comes back with what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_ends_the_process_and_nothing_is_lost() -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let mut group = Group::start(programs, Seed::from_env()).await?;
    for name in ["sidecar::wal::before_write", "sidecar::wal::before_fsync", "engine::store::before_persist"] {
        for role in [Leader, Follower] {
            group.failure(name, role).await.with_context(|| format!("{name} fails at the {role:?}"))?;
        }
    }
    // Each said so as its last word.
    group.cluster.expect_fatal();
    group.cluster.finish().await
}

impl Group {
    async fn failure(&mut self, name: &'static str, role: Role) -> anyhow::Result<()> {
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
}

/// Two groups between which slots move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_an_engine_that_dies_at_any_step_of_a_move_comes_back() -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let seed = Seed::from_env();
    let mut plan: Vec<_> = MOVE_PLACES.iter().flat_map(|&place| [Leader, Follower].map(|role| (place, role))).collect();
    plan.shuffle(&mut seed.rng(92));
    if !full_from_env() {
        println!("{SOME_MOVES} of {} cycles, chosen by the seed", plan.len());
        plan.truncate(SOME_MOVES);
    }
    let shards = Shards::builder().programs(programs).groups(2).start().await?;
    let base = Load::start("base/", 1_000, 16, shards.clients()).report().await?;
    let ids = [shards.group_id(1).await?, shards.group_id(2).await?];
    let (start, cycles, mut operations) = (Instant::now(), plan.len(), 0);
    for (number, ((name, side), role)) in plan.into_iter().enumerate() {
        let what = format!("{number}: the {role:?} of the {side:?} dies at {name}");
        let at = Instant::now();
        // There, then back.
        let (source, target) = if number % 2 == 0 { (1, 2) } else { (2, 1) };
        let slots = shards.admin().slots_of(ids[source - 1]).await?.first(SLOTS);
        let mut keys = Shards::keys_in(&slots, &format!("moving-{number}/"), KEYS);
        keys.extend((0..KEYS).map(|key| format!("any-{number}/{key}")));
        let registers = Registers::start(keys, CLIENTS, shards.clients(), Tolerance::Faults, seed.part(number as u64));
        progress(&registers, ENOUGH).await.with_context(|| what.clone())?;
        let group = shards.group(if side == Side::Source { source } else { target });
        death_in_move(&shards, group, name, role, &slots, ids[target - 1]).await.with_context(|| what.clone())?;
        progress(&registers, registers.done() + ENOUGH).await.with_context(|| what.clone())?;
        let report = registers.check().await.with_context(|| what.clone())?;
        base.check(&shards.spread().await.with_context(|| what.clone())?).with_context(|| what.clone())?;
        for group in shards.groups() {
            equal(group.nodes()).await.with_context(|| what.clone())?;
        }
        println!("{what}: all is well after {:.1?}; {report:?}", at.elapsed());
        operations += report.operations;
    }
    figure("crash and recovery cycles of engines in moves", cycles);
    figure(
        "crash and recovery cycles a minute of engines in moves",
        format!("{:.1}", cycles as f64 * 60.0 / start.elapsed().as_secs_f64()),
    );
    figure("operations checked for linearizability of engines in moves", operations);
    shards.finish().await
}

async fn death_in_move(
    shards: &Shards,
    group: &Cluster,
    name: &str,
    role: Role,
    slots: &SlotSet,
    to: u32,
) -> anyhow::Result<()> {
    let leader = group.leader().await?;
    let victim = match role {
        Leader => leader,
        Follower => group.others(&leader).into_iter().next().context("a follower")?,
    };
    let deaths = Deaths::of(victim.engine());
    Failpoints::of_engine(&victim).set(&format!("{name}=1*die")).await?;
    let operation = shards.admin().move_slots(slots, to).await?;
    eventually_within(DEATH_PATIENCE, "the engine dies there", || async {
        deaths.at(name)?;
        deaths.start_again()
    })
    .await?;
    eventually("the node is ready again", || victim.ready()).await?;
    shards.admin().done(operation).await?;
    ensure!(shards.admin().slots_of(to).await?.contains_all(slots), "the move is done, but the slots are not there");
    shards.whole().await
}
