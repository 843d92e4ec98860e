//! A process dies at each failpoint, in each role, under a checked load, and comes back: nothing acknowledged is lost, the
//! history is linearizable, the replicas are equal.
//!
//! The programs are those of `scripts/planted.sh`. By default some of the cycles are made, chosen by the seed; with
//! `RAFTKV_TEST_FULL=1` every failpoint in every role, and more than 200 cycles in all.

mod group;
mod places;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_kv::SlotSet;
use raftkv_tests::{
    BulkLoad, Cluster, Deaths, Failpoints, Load, Registers, Seed, Shards, Tolerance, eventually, eventually_within,
    figure, full_from_env, planted_programs,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use group::{CLIENTS, Cycle, DEATH_PATIENCE, ENOUGH, Group, KEYS, equal, leave_behind, progress};
use places::Role::{self, Follower, Leader};
use places::{Event, MOVE_PLACES, PLACES, SWAP_RENAMES, Side, place};

/// Cycles of each of the two tests of one group, when nothing is left to the seed.
const FULL_CYCLES: usize = 100;
/// And when some are chosen.
const SOME_CYCLES: usize = 8;
/// Cycles of the test of moves when some are chosen.
const SOME_MOVES: usize = 4;
/// Slots of each move.
const SLOTS: usize = 300;
/// Every failpoint in the source is in one of the tables here, and the other way round.
#[test]
fn no_failpoint_is_left_out() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for part in ["crates/store/src", "engine/src", "sidecar/src"] {
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

/// The engine of a follower dies when it is told to make a received snapshot live. It comes back with less than its sidecar has seen
/// applied, and with the snapshot; while its sidecar is refused for the moment, it might bring the engine the lost entries, and
/// the snapshot go live between two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_lost_entries_and_gets_a_snapshot_is_brought_one_thing_at_a_time() -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let builder = Cluster::builder().programs(programs).env("RAFTKV_LOG_RETAIN", "256KiB");
    let cluster = builder.start().await?;
    let leader = cluster.leader().await?;
    let follower = cluster.others(&leader).into_iter().next().context("a follower")?;
    let all = [cluster.node(1).client(), cluster.node(2).client(), cluster.node(3).client()];
    let kept: Vec<_> = cluster.others(&follower).iter().map(|node| node.client()).collect();
    // Several messages of them, all in the memory of the engines.
    let lost = BulkLoad { puts: 160, keys: 160, value_bytes: 64 * 1024, batch: 1, prefix: "lost/".to_owned() };
    lost.run(&all).await?;
    equal(cluster.nodes()).await?;
    follower.kill();
    let missed = BulkLoad { puts: 16, keys: 16, prefix: "missed/".to_owned(), ..lost.clone() };
    let (left, written) =
        tokio::join!(leave_behind(&cluster, cluster.nodes(), &follower), async { missed.run(&kept).await });
    written?;
    left?;

    let place = "engine::swap::requested";
    let deaths = Deaths::of(follower.engine());
    follower.engine().set_env("FAILPOINTS", format!("{place}=1*die"));
    follower.start()?;
    let refusals = "engine::swap::requested=5*return(not now); engine::store::before_commit=sleep(500)";
    follower.engine().set_env("FAILPOINTS", refusals);
    eventually_within(DEATH_PATIENCE, "the engine dies there", || async {
        deaths.at(place)?;
        deaths.start_again()
    })
    .await?;
    let starts = follower.sidecar().starts();
    follower.engine().set_env("FAILPOINTS", "");
    eventually("the snapshot is live", || async {
        ensure!(follower.sidecar().starts() == starts, "the sidecar has ended: {:?}", follower.sidecar().exits());
        ensure!(std::fs::read_to_string(follower.sidecar().log())?.contains("the snapshot is live"), "not yet");
        Ok(())
    })
    .await?;
    Failpoints::of_engine(&follower).set("engine::store::before_commit=off").await?;
    eventually("the node is ready again", || follower.ready()).await?;
    equal(cluster.nodes()).await?;
    ensure!(follower.sidecar().starts() == starts, "the sidecar has ended: {:?}", follower.sidecar().exits());
    lost.check(&follower.client(), 16).await?;
    missed.check(&follower.client(), 4).await?;
    cluster.finish().await
}

/// A fourth node dies when it begins to get the data, and stays dead. It has no vote, so it goes at once, and nobody else waits for
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_node_that_dies_is_removed_at_once_and_holds_up_nobody() -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let builder = Cluster::builder().programs(programs).env("RAFTKV_LOG_RETAIN", "256KiB").unsupervised();
    let mut cluster = builder.start().await?;
    let fourth = cluster.add_node().await?;
    let data = BulkLoad { puts: 24, keys: 24, value_bytes: 64 * 1024, batch: 1, prefix: "data/".to_owned() };
    data.run(&cluster.nodes()[..3].iter().map(|node| node.client()).collect::<Vec<_>>()).await?;
    let leader = cluster.leader().await?;
    eventually("only a snapshot helps who is new", || async {
        leader.compact().await?.success()?;
        ensure!(leader.status().await?.node.purged > Some(1), "the log is whole");
        Ok(())
    })
    .await?;
    let place = "sidecar::peer::before_snapshot";
    let deaths = Deaths::of(fourth.sidecar());
    fourth.sidecar().set_env("FAILPOINTS", format!("{place}=1*die"));
    fourth.start()?;
    eventually_within(DEATH_PATIENCE, "the fourth node dies there", || async { deaths.at(place) }).await?;
    fourth.kill();
    let status = leader.status().await?;
    ensure!(status.members.len() == 4 && status.voters().len() == 3, "a learner: {:?}", status.members);

    // Another change first: a voter that is asked to join again has nothing to wait for.
    let other = cluster.others(&leader).into_iter().find(|node| node.index() <= 3).context("a voter")?;
    let begin = Instant::now();
    leader.join(&other).await?.success().context("another change")?;
    leader.remove(fourth.name()).await?.success().context("the removal")?;
    let took = begin.elapsed();
    println!("both took {took:?}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    let status = leader.status().await?;
    ensure!(status.members.len() == 3, "{:?}", status.members);
    // The join that waited for it ends for good: it does not bring the node back.
    eventually("the join has ended", || async {
        let logs = std::fs::read_to_string(leader.sidecar().log())?;
        ensure!(logs.contains("was removed before it had all data"), "not yet");
        Ok(())
    })
    .await?;
    ensure!(leader.status().await?.members.len() == 3, "it is back");
    cluster.finish().await
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
