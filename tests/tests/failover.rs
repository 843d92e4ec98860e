//! Processes die while clients write: nothing acknowledged is lost, nothing is applied twice.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use raftkv_tests::{Cluster, Contents, Load, eventually, figure};

const PUTS: u64 = 100_000;
const WORKERS: usize = 48;
const KILLS: u64 = 10;
/// Repeated with their `Idempotency-Key` after the load.
const REPEATS: usize = 1_000;
const QUICK_KILLS: usize = 5;
/// A member that only waits for silence stands after this at the earliest.
const SILENCE: Duration = Duration::from_millis(800);
/// The service objective for a leader's death is stricter; this is what a machine busy with other tests must keep.
const LONGEST_GAP: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_leaders_die_ten_times_under_load() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let load = Load::start("k", PUTS, WORKERS, clients.clone());
    for kill in 1..=KILLS {
        // Spread evenly over the load, which therefore never ends before the last of them.
        let enough = kill * PUTS / (KILLS + 1);
        progress(&load, enough).await?;
        let leader = cluster.leader().await?;
        leader.kill();
        let at = Instant::now();
        cluster.leader_other_than(&leader).await?;
        progress(&load, load.acked() + 500).await?;
        println!("killed {}; others lead and 500 more puts done after {:.1?}", leader.name(), at.elapsed());
        leader.start()?;
        eventually("the killed leader is back", || leader.ready()).await?;
    }
    ensure!(load.acked() < PUTS, "the load ended before the last leader was killed");
    let report = load.report().await?;
    figure("puts acknowledged", report.acked());
    figure("puts of unknown outcome", report.unknown());
    figure("puts that took more than one attempt", report.repeated());
    figure("puts per second, kills included", format!("{:.0}", report.acked() as f64 / report.elapsed.as_secs_f64()));
    let mut gaps: Vec<_> = report.gaps().collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    gaps.truncate(KILLS as usize);
    figure("longest gap without an acknowledged put", format!("{:.2?}", report.longest_gap()));
    figure("the ten longest gaps", format!("{gaps:.2?}"));

    cluster.whole(3).await?;
    for node in cluster.nodes() {
        let contents = Contents::read(&node.client(), "", "linearizable").await?;
        let applied = report.check_alone(&contents)?;
        println!("{}: {} keys, {applied} of unknown outcome were applied", node.name(), contents.len());
    }
    let contents = cluster.converged().await?;
    report.check_alone(&contents)?;
    let start = Instant::now();
    report.get_each(&clients, WORKERS).await?;
    figure("linearizable gets per second", format!("{:.0}", report.acked() as f64 / start.elapsed().as_secs_f64()));
    let repeated = report.repeat(&clients, REPEATS).await?;
    let after = cluster.converged().await?;
    ensure!(after == contents, "repeats changed something: {}", after.difference(&contents));
    figure("repeats answered from memory", repeated);
    ensure!(report.longest_gap() < LONGEST_GAP, "no put for {:.1?}", report.longest_gap());
    cluster.finish().await
}

/// Seen by its connections, and not by its silence, which takes members a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_process_has_ended_is_replaced_at_once() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let mut gaps = Vec::new();
    for round in 0..QUICK_KILLS {
        let load = Load::start(&format!("r{round}-"), 1_000_000, 8, clients.clone());
        progress(&load, 200).await?;
        let leader = cluster.leader().await?;
        leader.kill();
        cluster.leader_other_than(&leader).await?;
        progress(&load, load.acked() + 200).await?;
        load.end();
        gaps.push(load.report().await?.longest_gap());
        leader.start()?;
        cluster.whole(3).await?;
    }
    gaps.sort_unstable();
    figure("gaps without an acknowledged put", format!("{gaps:.2?}"));
    // A busy machine may make one of them long.
    let median = gaps[gaps.len() / 2];
    ensure!(median < SILENCE, "no put for {median:.2?} in the median: members waited for silence");
    cluster.finish().await
}

/// Nothing tells the others but its silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_after_its_silence() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().start().await?;
    let mut gaps = Vec::new();
    for round in 0..QUICK_KILLS {
        let leader = cluster.leader().await?;
        let clients: Vec<_> = cluster.others(&leader).iter().map(|node| node.client()).collect();
        let load = Load::start(&format!("r{round}-"), 1_000_000, 8, clients);
        progress(&load, 200).await?;
        cluster.isolate(&leader);
        cluster.leader_other_than(&leader).await?;
        progress(&load, load.acked() + 200).await?;
        load.end();
        gaps.push(load.report().await?.longest_gap());
        cluster.heal();
        cluster.whole(3).await?;
    }
    gaps.sort_unstable();
    figure("gaps without an acknowledged put", format!("{gaps:.2?}"));
    let median = gaps[gaps.len() / 2];
    ensure!(median < 3 * SILENCE, "no put for {median:.2?} in the median");
    cluster.finish().await
}

async fn progress(load: &Load, puts: u64) -> anyhow::Result<()> {
    eventually(&format!("{puts} puts are acknowledged"), || async {
        ensure!(load.acked() >= puts || load.is_done(), "{} are", load.acked());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_killed_comes_back_by_itself() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let load = Load::start("k", 1_000_000, 16, clients.clone());
    progress(&load, 500).await?;

    for (what, of_leader) in [("engine", true), ("engine", false), ("sidecar", true), ("sidecar", false)] {
        let node = if of_leader { cluster.leader().await? } else { cluster.follower().await? };
        let process = if what == "engine" { node.engine() } else { node.sidecar() };
        let starts = process.starts();
        let at = Instant::now();
        process.crash();
        eventually("it is started again", || async {
            (process.starts() > starts).then_some(()).ok_or(anyhow!("not yet"))
        })
        .await?;
        eventually("the node is ready again", || node.ready()).await?;
        let role = if of_leader { "the leader" } else { "a follower" };
        figure(&format!("killed the {what} of {role}, the node is ready again after"), format!("{:.1?}", at.elapsed()));
        progress(&load, load.acked() + 500).await?;
    }

    let at = Instant::now();
    for node in cluster.nodes() {
        node.crash();
    }
    let before = load.acked();
    progress(&load, before + 500).await?;
    figure("killed all nodes at once, 500 more puts are acknowledged after", format!("{:.1?}", at.elapsed()));

    load.end();
    let report = load.report().await?;
    cluster.whole(3).await?;
    let contents = cluster.converged().await?;
    let applied = report.check_alone(&contents)?;
    figure("puts acknowledged", report.acked());
    figure("puts of unknown outcome", format!("{}, of which {applied} were applied", report.unknown()));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_of_the_leader_hands_over_without_a_failed_write() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    // Through the others: the node that stops refuses its own clients.
    let clients: Vec<_> = cluster.others(&leader).iter().map(|node| node.client()).collect();
    let load = Load::start("k", 1_000_000, 8, clients);
    progress(&load, 500).await?;
    let exits = leader.stop().await?;
    ensure!(exits.iter().all(|exit| exit.code == Some(0)), "the processes ended as {exits:?}");
    progress(&load, load.acked() + 500).await?;
    load.end();
    let report = load.report().await?;
    figure("longest gap over a graceful stop of the leader", format!("{:.0?}", report.longest_gap()));
    ensure!(report.unknown() == 0, "{} puts have an unknown outcome", report.unknown());
    leader.start()?;
    cluster.whole(3).await?;
    report.check_alone(&cluster.converged().await?)?;
    cluster.finish().await
}

/// A sidecar without its engine keeps the log: it makes a majority with the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_its_engine_still_counts_for_the_majority() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let others = cluster.others(&leader);
    others[0].engine().kill();
    // Long enough for whatever fills up while nothing is applied.
    let clients = vec![leader.client()];
    Load::start("before", 5_000, 16, clients.clone()).report().await?;
    others[1].kill();
    let load = Load::start("after", 5_000, 16, clients);
    let report = tokio::time::timeout(Duration::from_secs(60), load.report()).await.context("writes stand still")??;
    figure("longest gap with one engine and one node gone", format!("{:.0?}", report.longest_gap()));
    let status = leader.status().await?;
    ensure!(status.node.leads(), "the leader had to give up: {:?}", status.node);

    others[0].engine().start()?;
    others[1].start()?;
    cluster.whole(3).await?;
    let contents = cluster.converged().await?;
    report.check(&contents)?;
    cluster.finish().await
}

/// What an engine has applied is in its memory first. Its sidecar lives on and brings it again what a crash has taken, also where
/// nothing is written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_alone_gets_back_what_it_lost() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let report = Load::start("k", 5_000, 16, clients).report().await?;
    let contents = cluster.converged().await?;
    for node in cluster.nodes() {
        let (engines, sidecars) = (node.engine().starts(), node.sidecar().starts());
        let at = Instant::now();
        node.engine().crash();
        eventually("its engine is back", || async {
            ensure!(node.engine().starts() > engines);
            node.ready().await
        })
        .await?;
        let now = Contents::read(&node.client(), "", "linearizable").await?;
        println!("{}: has everything again after {:.1?}", node.name(), at.elapsed());
        ensure!(now == contents, "{}: {}", node.name(), now.difference(&contents));
        ensure!(node.logs()?.contains("the engine has everything again"), "{} had lost nothing", node.name());
        ensure!(node.sidecar().starts() == sidecars, "the sidecar of {} had to start again", node.name());
    }
    report.check(&cluster.converged().await?)?;
    cluster.finish().await
}
