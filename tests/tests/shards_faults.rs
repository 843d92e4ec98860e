//! Processes die at each step of a move while clients read and write: the move ends one way or the other, and nothing is lost
//! or applied twice.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use raftkv_kv::SlotSet;
use raftkv_tests::{
    Admin, Load, Registers, Router, Seed, Shards, Tolerance, clients_from_env, eventually, eventually_within, figure,
    full_from_env,
};
use rand::seq::SliceRandom;

/// The steps of a move, before each of which the coordinator can be held.
const STEPS: [&str; 12] = [
    "begin-import",
    "begin-export",
    "copy-page",
    "record-fencing",
    "fence",
    "copy-fenced",
    "commit",
    "record-committed",
    "release",
    "record-released",
    "purge-source",
    "record-finished",
];
/// How long the coordinator waits at the step: longer than it takes to see that it does, and to find out who leads.
const PAUSE_MS: u64 = 1_500;
/// How many combinations are tested by default: a minute.
const SOME: usize = 6;
/// Slots of each move.
const SLOTS: usize = 300;
/// Keys that stay as they are.
const BASE_KEYS: u64 = 1_000;
/// Keys that the clients read and write: so many in the slots that move, and half as many in any slot.
const REGISTERS: usize = 32;
/// From the kill to the end of the move: elections, the coordinator's lease and its backoff, several times over.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    SourcesLeader,
    TargetsLeader,
    Coordinator,
    MetaLeader,
}

const VICTIMS: [Victim; 4] = [Victim::SourcesLeader, Victim::TargetsLeader, Victim::Coordinator, Victim::MetaLeader];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_whoever_dies_at_whichever_step_nothing_is_lost() -> anyhow::Result<()> {
    let seed = Seed::from_env();
    let mut table: Vec<_> = STEPS.iter().flat_map(|step| VICTIMS.map(|victim| (*step, victim))).collect();
    table.shuffle(&mut seed.rng(0));
    if !full_from_env() {
        table = chosen(table);
    }
    println!("{} of {} combinations: {table:?}", table.len(), STEPS.len() * VICTIMS.len());

    // The map is in the first group; slots move between the other two.
    let shards = Shards::builder().groups(3).routers(2).start().await?;
    let base = Load::start("base/", BASE_KEYS, 16, shards.clients()).report().await?;
    let ids = (shards.group_id(2).await?, shards.group_id(3).await?);
    let workers = clients_from_env()?;
    let (mut operations, mut unknown, mut longest) = (0, 0, Duration::ZERO);
    for (number, (step, victim)) in table.into_iter().enumerate() {
        let what = format!("{number}: {victim:?} dies at {step}");
        let at = Instant::now();
        // There, then back.
        let (source, target, to) = if number % 2 == 0 { (2, 3, ids.1) } else { (3, 2, ids.0) };
        let slots = shards.admin().slots_of(shards.group_id(source).await?).await?.first(SLOTS);
        let mut keys = Shards::keys_in(&slots, &format!("moving-{number}/"), REGISTERS);
        keys.extend((0..REGISTERS / 2).map(|key| format!("any-{number}/{key}")));
        let registers = Registers::start(keys, workers, shards.clients(), Tolerance::Faults, seed);
        let ended = one(&shards, step, victim, [source, target], &slots, to).await.with_context(|| what.clone())?;
        let so_far = registers.done();
        eventually("the clients go on", || async {
            ensure!(registers.done() > so_far + 200 || registers.healthy().is_err(), "{} operations", registers.done());
            Ok(())
        })
        .await
        .with_context(|| what.clone())?;
        let report = registers.check().await.with_context(|| what.clone())?;
        base.check(&shards.spread().await.with_context(|| what.clone())?)?;
        println!("{what}: the move is {ended} after {:.1?}; {report:?}", at.elapsed());
        operations += report.operations;
        unknown += report.unknown;
        longest = longest.max(report.longest_wait);
    }
    figure("operations checked for linearizability through deaths in moves", operations);
    figure("of them of unknown outcome", unknown);
    figure("longest wait of a client", format!("{longest:.1?}"));
    let repeated = base.repeat(&shards.clients(), 100).await?;
    figure("repeats answered from memory", repeated);
    shards.finish().await
}

/// Some combinations, each victim as often as the others, with as many different steps as there are.
fn chosen(table: Vec<(&'static str, Victim)>) -> Vec<(&'static str, Victim)> {
    let mut some: Vec<(&'static str, Victim)> = Vec::new();
    for round in 0..SOME {
        let victim = VICTIMS[round % VICTIMS.len()];
        let is_new = |step: &str| some.iter().all(|(known, _)| *known != step);
        let found = table.iter().find(|(step, other)| *other == victim && is_new(step));
        some.extend(found.copied());
    }
    some
}

/// One move with one death in it. Returns how it ended.
async fn one(
    shards: &Shards,
    step: &str,
    victim: Victim,
    [source, target]: [usize; 2],
    slots: &SlotSet,
    to: u32,
) -> anyhow::Result<String> {
    let mut holds = format!("{step}:{PAUSE_MS}");
    if step == "copy-fenced" {
        // There is something to copy only if something changed after all was copied and before the fence.
        holds += ",fence:400";
    }
    shards.restart_routers("RAFTKV_MOVE_PAUSE_AT", &holds).await?;
    let admin = shards.admin();
    // Found out before, for an election takes longer than the pause.
    let node = match victim {
        Victim::SourcesLeader => Some(shards.group(source).leader().await?),
        Victim::TargetsLeader => Some(shards.group(target).leader().await?),
        Victim::MetaLeader => Some(shards.group(1).leader().await?),
        Victim::Coordinator => None,
    };
    let logs: Vec<_> = shards.routers().iter().map(|router| log_of(router).len()).collect();
    let operation = admin.move_slots(slots, to).await?;
    let coordinator = held_before(shards, &logs, step).await?;
    match &node {
        Some(node) => node.kill(),
        None => coordinator.process().kill(),
    }
    // At whichever router lives.
    let admin = shards.routers().iter().find(|router| router.process().pid().is_some()).context("a router")?.admin();
    let over = over(&admin, operation).await?;
    match &node {
        Some(node) => node.start()?,
        None => coordinator.process().start()?,
    }
    shards.whole().await?;
    // Wholly there, or wholly where they were.
    let source = shards.group_id(source).await?;
    let owner = if over == "done" { to } else { source };
    ensure!(shards.admin().slots_of(owner).await?.contains_all(slots), "{over}, but group {owner} has not the slots");
    Ok(over)
}

/// Waits until a router says in its log, which was so long before, that it holds the move. Returns which.
async fn held_before<'a>(shards: &'a Shards, logs: &[usize], step: &str) -> anyhow::Result<&'a Router> {
    let place = format!("place=\"{step}\"");
    eventually(&format!("the move is held before {step}"), || async {
        let holds = |router: &Router, from: usize| {
            let log = log_of(router);
            let new = log.get(from..).unwrap_or_default();
            new.lines().any(|line| line.contains("held before this") && line.contains(&place))
        };
        let holder = shards.routers().iter().zip(logs).find(|(router, from)| holds(router, **from));
        holder.map(|(router, _)| router).ok_or_else(|| anyhow!("no router says so"))
    })
    .await
}

fn log_of(router: &Router) -> String {
    std::fs::read_to_string(router.process().log()).unwrap_or_default()
}

async fn over(admin: &Admin, operation: u64) -> anyhow::Result<String> {
    eventually_within(END_PATIENCE, "the move ends", || async {
        let view = admin.operation(operation).await?;
        ensure!(view.is_over(), "{view:?}");
        ensure!(view.state == "done" || view.state == "cancelled" || view.state == "failed", "{view:?}");
        Ok(view.state)
    })
    .await
}
