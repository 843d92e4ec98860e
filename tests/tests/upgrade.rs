//! The cluster version: old and new programs in one group, the way there, the way back, and the end of the way back.
//!
//! Those with old programs need `RAFTKV_OLD_BIN_DIR`: `make test-upgrade FROM=COMMIT`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use raftkv_tests::{
    Cluster, Node, Registers, Seed, Shards, Tolerance, eventually, eventually_within, figure, new_programs,
    old_programs,
};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde_json::Value;

/// What is tested.
const HIGHEST: u64 = 3;
/// A version rises at the latest after this where nothing is in the way and nobody could go back: a look of the leader's engine.
const SOON: Duration = Duration::from_secs(5);
/// Keys that the clients read and write.
const REGISTERS: usize = 24;
const WORKERS: usize = 8;
/// Slots of a move.
const SLOTS: usize = 200;

/// `raftkv` with its defaults, one command after the other: none may fail.
struct Patient {
    over: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<anyhow::Result<usize>>,
}

impl Patient {
    /// Puts and gets at any of these addresses. The client is always the new one.
    fn start(program: &Path, endpoints: Vec<String>, name: &str) -> Self {
        let (program, name, over) = (program.join("raftkv"), name.to_owned(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let work = tokio::spawn(async move {
            let mut commands = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Each address comes first in turn: also that of a node which is down.
                let mut endpoints = endpoints.clone();
                let first = commands % endpoints.len();
                endpoints.rotate_left(first);
                let endpoint = format!("--endpoint={}", endpoints.join(","));
                let value = format!("value {commands}");
                for (arguments, printed) in
                    [(&["put", &name, &value][..], None), (&["get", &name][..], Some(value.as_str()))]
                {
                    let mut command = tokio::process::Command::new(&program);
                    command.env_clear().args(arguments).arg(&endpoint).stdin(Stdio::null()).kill_on_drop(true);
                    let output = command.output().await.context("raftkv")?;
                    let out = String::from_utf8_lossy(&output.stdout);
                    ensure!(
                        output.status.success() && printed.is_none_or(|printed| out.trim_end() == printed),
                        "{arguments:?} after {commands} commands: {output:?}"
                    );
                    commands += 1;
                }
            }
            Ok(commands)
        });
        Self { over, work }
    }

    /// How many commands it were.
    async fn end(self) -> anyhow::Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        self.work.await?
    }
}

/// How a group's cluster version stands, as any of its nodes says.
async fn upgrade(node: &Node) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&node.management().get_path("/upgrade").await?.success()?.body)?)
}

async fn order(node: &Node, what: &str) -> anyhow::Result<raftkv_tests::Answer> {
    Ok(node.management().post(&format!("/upgrade/{what}"), "application/json", "").await?)
}

async fn has_version(node: &Node, version: u64) -> anyhow::Result<()> {
    let document = upgrade(node).await?;
    ensure!(document["version"] == version, "{document}");
    Ok(())
}

/// All nodes have the same state: equal hashes at one position. Writes must have ended.
async fn same_state(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.converged().await?;
    let states = eventually("all nodes stand at one position", || async {
        let mut states = Vec::new();
        for node in cluster.nodes() {
            let (described, _) = node.group_peer()?.describe().await?;
            states.push((described.applied_next_index, described.state_hash));
        }
        ensure!(states.iter().all(|(at, _)| *at == states[0].0), "they stand at {states:?}");
        Ok(states)
    })
    .await?;
    ensure!(states.iter().all(|state| *state == states[0]), "at one position there are several states: {states:?}");
    Ok(())
}

/// Has a node run other programs.
async fn replace(cluster: &Cluster, node: &Node, programs: &Path) -> anyhow::Result<()> {
    node.stop().await?;
    node.set_programs(programs);
    node.start()?;
    cluster.whole(cluster.nodes().len()).await
}

/// Kills the leader's processes, which are started again by themselves, and waits for that.
async fn crash_leader(cluster: &Cluster) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    let starts = || (leader.engine().starts(), leader.sidecar().starts());
    let before = starts();
    leader.crash();
    eventually("it is started again", || async {
        let now = starts();
        ensure!(now.0 > before.0 && now.1 > before.1, "{now:?} after {before:?}");
        Ok(())
    })
    .await?;
    cluster.whole(cluster.nodes().len()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_group_has_the_highest_version_at_once_and_keeps_it() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    for node in cluster.nodes() {
        eventually_within(SOON, "the version is the highest", || has_version(node, HIGHEST)).await?;
        let document = upgrade(node).await?;
        ensure!(document["next"].is_null() && document["blocked"].is_null(), "{document}");
        ensure!(order(node, "finish").await?.status.is_success(), "what is done can be asked for again");
    }
    cluster.node(1).client().put("a", "1").await?.acked()?;
    for node in cluster.nodes() {
        node.kill();
    }
    for node in cluster.nodes() {
        node.start()?;
    }
    cluster.whole(3).await?;
    has_version(cluster.node(2), HIGHEST).await?;
    // A member that comes without data gets it with the state.
    let joiner = cluster.add_node().await?;
    joiner.start()?;
    cluster.whole(4).await?;
    eventually("it has the version, too", || async {
        let (described, _) = joiner.group_peer()?.describe().await?;
        ensure!(u64::from(described.cluster_version) == HIGHEST, "{described:?}");
        Ok(())
    })
    .await?;
    same_state(&cluster).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_new_groups_has_the_highest_version_at_once() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(2).nodes(1).start().await?;
    let document = eventually_within(SOON, "all groups have it", || async {
        let answer = shards.router(2).client().get_path("/v1/cluster/upgrade").await?.success()?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        let groups = document["groups"].as_array().context("groups")?.clone();
        ensure!(groups.len() == 2 && groups.iter().all(|group| group["version"] == HIGHEST), "{document}");
        Ok(document)
    })
    .await?;
    let routers = document["routers"].as_array().context("routers")?;
    ensure!(routers.iter().all(|router| router["version_max"] == HIGHEST), "{document}");
    ensure!(routers.iter().all(|router| router["version"] == env!("CARGO_PKG_VERSION")), "{document}");
    let answer = shards.router(1).client().post("/v1/cluster/upgrade/finish", "application/json", "").await?;
    ensure!(answer.status.is_success(), "{answer}");
    shards.finish().await
}

/// Old, new, old, new: node by node in random order, under checked load, with leaders that die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_group_goes_to_the_new_version_and_back_under_load() -> anyhow::Result<()> {
    let Some(old) = old_programs()? else { return Ok(()) };
    let (new, seed) = (new_programs()?, Seed::from_env());
    let mut rng = seed.rng(0);
    let mut cluster = Cluster::builder().programs(&old).start().await?;
    let clients = || cluster.nodes().iter().map(|node| node.client()).collect::<Vec<_>>();
    let endpoints: Vec<String> = cluster.nodes().iter().map(|node| node.http_address().to_string()).collect();
    let (mut operations, mut commands) = (0, 0);
    for (round, programs) in [&new, &old, &new].into_iter().enumerate() {
        let keys = (0..REGISTERS).map(|key| format!("round-{round}/{key}")).collect();
        let registers = Registers::start(keys, WORKERS, clients(), Tolerance::Faults, seed);
        let patient = Patient::start(&new, endpoints.clone(), "patient");
        let mut order_of_nodes: Vec<Arc<Node>> = cluster.nodes().to_vec();
        order_of_nodes.shuffle(&mut rng);
        for (number, node) in order_of_nodes.iter().enumerate() {
            replace(&cluster, node, programs).await.with_context(|| format!("round {round}, {}", node.name()))?;
            if rng.random_range(0..2) == 0 {
                crash_leader(&cluster).await?;
            }
            let leader = cluster.leader().await?;
            let is_new = order_of_nodes[..=number].iter().any(|node| node.index() == leader.index());
            if programs == &new && number < 2 && is_new {
                // A hold of the rounds before is as good a reason.
                let refused = order(&leader, "finish").await?;
                ensure!(refused.status == 409, "a group of old and new programs was raised: {refused}");
            }
        }
        let so_far = registers.done();
        eventually("the clients go on", || async {
            ensure!(registers.done() > so_far + 200 || registers.healthy().is_err(), "{} operations", registers.done());
            Ok(())
        })
        .await?;
        commands += patient.end().await.with_context(|| format!("round {round}"))?;
        operations += registers.check().await.with_context(|| format!("round {round}"))?.operations;
        same_state(&cluster).await.with_context(|| format!("round {round}"))?;
        if programs == &new {
            is_held(&cluster, round > 0).await.with_context(|| format!("round {round}"))?;
        }
    }
    figure("operations checked for linearizability through upgrades of a group", operations);
    figure("commands of raftkv meanwhile, none of which failed", commands);

    let any = cluster.node(1);
    ensure!(order(any, "release").await?.status.is_success(), "released");
    let done = order(any, "finish").await?;
    ensure!(done.status.is_success(), "{done}");
    has_version(any, HIGHEST).await?;
    any.client().put("after", "x").await?.acked()?;
    same_state(&cluster).await?;
    no_way_back(&mut cluster, &old, &new).await?;
    cluster.finish().await
}

/// A version that could rise is held, if it is not yet, and cannot be raised then.
async fn is_held(cluster: &Cluster, before: bool) -> anyhow::Result<()> {
    let any = cluster.node(2);
    let document = upgrade(any).await?;
    ensure!(document["version"] == 1 && document["next"] == 2 && document["held"] == before, "{document}");
    ensure!(order(any, "hold").await?.status.is_success(), "held");
    let document = upgrade(any).await?;
    ensure!(document["held"] == true && document["blocked"] == "it is held", "{document}");
    let refused = order(any, "finish").await?;
    ensure!(refused.status == 409 && refused.to_string().contains("it is held"), "{refused}");
    has_version(any, 1).await
}

/// An old program does not go on with a state that was raised, and the others do not need it.
async fn no_way_back(cluster: &mut Cluster, old: &Path, new: &Path) -> anyhow::Result<()> {
    cluster.expect_fatal();
    let node = cluster.follower().await?;
    node.stop().await?;
    node.set_programs(old);
    node.start()?;
    eventually("the old program says that it cannot go on", || async {
        ensure!(node.logs()?.contains(&format!("has format {HIGHEST}")), "nothing yet");
        Ok(())
    })
    .await?;
    cluster.leader().await?.client().put("without it", "x").await?.acked()?;
    node.kill();
    node.set_programs(new);
    node.start()?;
    cluster.whole(3).await?;
    same_state(cluster).await
}

/// Two groups and two routers, old, new, old, new, while a slot moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_store_goes_to_the_new_version_and_back_under_load() -> anyhow::Result<()> {
    let Some(old) = old_programs()? else { return Ok(()) };
    let (new, seed) = (new_programs()?, Seed::from_env());
    let mut rng = seed.rng(1);
    let shards = Shards::builder().groups(2).routers(2).programs(&old).start().await?;
    let ids = (shards.group_id(1).await?, shards.group_id(2).await?);
    let endpoints: Vec<String> = (1..=2).map(|router| shards.router(router).http_address().to_string()).collect();
    let (mut operations, mut commands) = (0, 0);
    for (round, programs) in [&new, &old, &new].into_iter().enumerate() {
        let (source, to) = if round % 2 == 0 { (ids.0, ids.1) } else { (ids.1, ids.0) };
        let slots = shards.admin().slots_of(source).await?.first(SLOTS);
        let mut keys = Shards::keys_in(&slots, &format!("moving-{round}/"), REGISTERS);
        keys.extend((0..REGISTERS / 2).map(|key| format!("any-{round}/{key}")));
        let registers = Registers::start(keys, WORKERS, shards.clients(), Tolerance::Faults, seed);
        let patient = Patient::start(&new, endpoints.clone(), "patient");
        // Nodes by their group's number, from 1, and routers as 0.
        let mut units: Vec<(usize, usize)> = (1..=2).flat_map(|group| (1..=3).map(move |node| (group, node))).collect();
        units.extend([(0, 1), (0, 2)]);
        units.shuffle(&mut rng);
        let moves_at = rng.random_range(0..units.len());
        let mut moving = None;
        for (number, (group, index)) in units.into_iter().enumerate() {
            if number == moves_at {
                moving = Some(shards.admin().move_slots(&slots, to).await?);
            }
            if group == 0 {
                let process = shards.router(index).process();
                process.stop().await?;
                process.set_programs(programs);
                process.start()?;
                eventually("the router is ready", || shards.router(index).ready()).await?;
            } else {
                let cluster = shards.group(group);
                replace(cluster, cluster.node(index), programs).await?;
                if rng.random_range(0..3) == 0 {
                    crash_leader(cluster).await?;
                }
            }
        }
        let operation = moving.context("a move was begun")?;
        let ended = shards.admin().over(operation).await.with_context(|| format!("round {round}"))?;
        ensure!(ended.state == "done", "the move ended otherwise: {ended:?}");
        commands += patient.end().await.with_context(|| format!("round {round}"))?;
        operations += registers.check().await.with_context(|| format!("round {round}"))?.operations;
        shards.spread().await?;
        for group in shards.groups() {
            same_state(group).await.with_context(|| format!("round {round}"))?;
        }
        if programs == &new && round == 0 {
            let held = shards.router(1).client().post("/v1/cluster/upgrade/hold", "application/json", "").await?;
            ensure!(held.status.is_success(), "{held}");
        }
    }
    figure("operations checked for linearizability through upgrades of a store", operations);
    figure("commands of raftkv meanwhile, none of which failed", commands);
    let client = shards.router(2).client();
    let refused = client.post("/v1/cluster/upgrade/finish", "application/json", "").await?;
    ensure!(refused.status == 409, "it is held: {refused}");
    for what in ["release", "finish"] {
        // The coordinating router may not have told the groups yet what the routers speak.
        eventually_within(Duration::from_secs(20), what, || async {
            let done = client.post(&format!("/v1/cluster/upgrade/{what}"), "application/json", "").await?;
            if !done.status.is_success() {
                bail!("{done}");
            }
            Ok(())
        })
        .await?;
    }
    for group in shards.groups() {
        has_version(group.node(1), HIGHEST).await?;
        same_state(group).await?;
    }
    let slots = shards.admin().slots_of(ids.0).await?.first(SLOTS);
    let operation = shards.admin().move_slots(&slots, ids.1).await?;
    shards.admin().done(operation).await?;
    shards.spread().await?;
    shards.finish().await
}
