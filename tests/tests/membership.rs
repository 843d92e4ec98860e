//! Nodes come and go while clients write.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use raftkv_tests::{BulkLoad, Client, Cluster, Load, Node, eventually, eventually_within, figure, human_bytes};
use reqwest::StatusCode;

/// Size of the data that a new node must take over, in MiB.
const SIZE: &str = "RAFTKV_TEST_SNAPSHOT_MIB";
const DEFAULT_SIZE: u64 = 1024;
/// No process may ever take more memory.
const MEMORY_LIMIT: u64 = 400 * 1000 * 1000;
/// For a join by snapshot of the whole data, on a slow disk.
const JOIN_PATIENCE: Duration = Duration::from_secs(300);

fn size() -> anyhow::Result<u64> {
    match std::env::var(SIZE) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(DEFAULT_SIZE),
    }
}

/// Prints the most memory that each process ever took; fails when one took too much.
fn check_memory(nodes: &[std::sync::Arc<Node>]) -> anyhow::Result<()> {
    for node in nodes {
        for process in [node.engine(), node.sidecar()] {
            let peak = process.memory()?.peak;
            figure(&format!("peak memory of {}", process.name()), human_bytes(peak));
            ensure!(peak < MEMORY_LIMIT, "{} took {} of memory", process.name(), human_bytes(peak));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_fourth_node_joins_by_snapshot_under_load_and_leaves() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder()
        .env("RAFTKV_LOG_RETAIN", "8MiB")
        .env("RAFTKV_LOG_MAX", "64MiB")
        .env("RAFTKV_SNAPSHOT_AFTER", "8MiB")
        .start()
        .await?;
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    let puts = size()? * 16;
    let bulk = BulkLoad { puts, keys: puts, value_bytes: 64 * 1024, batch: 32, prefix: "bulk/".to_owned() };
    let took = bulk.run(&clients).await?;
    figure("data held by the group", human_bytes(bulk.bytes()));
    figure(
        "loaded in",
        format!("{took:.1?}, {} a second", human_bytes((bulk.bytes() as f64 / took.as_secs_f64()) as u64)),
    );
    for node in cluster.nodes() {
        node.compact().await?.success()?;
        eventually("the log is compacted", || async {
            let status = node.status().await?.node;
            ensure!(status.purged.is_some_and(|purged| purged > 0), "nothing is purged: {status:?}");
            Ok(())
        })
        .await?;
    }
    check_memory(cluster.nodes())?;

    let load = Load::start("while/", 1_000_000, 8, clients.clone());
    let fourth = cluster.add_node().await?;
    let at = Instant::now();
    fourth.start()?;
    joined(&cluster, &fourth, 4).await?;
    figure("the fourth node is a voter and ready after", format!("{:.1?}", at.elapsed()));
    ensure!(
        fourth.logs()?.contains("the snapshot is live"),
        "the fourth node did not get a snapshot: the log must have been enough"
    );
    eventually("writes go on", || async {
        ensure!(load.acked() > 100, "{} puts", load.acked());
        Ok(())
    })
    .await?;
    load.end();
    let report = load.report().await?;
    figure("puts while it joined", report.acked());
    figure("longest gap without a put while it joined", format!("{:.1?}", report.longest_gap()));
    bulk.check(&fourth.client(), 16).await?;
    check_memory(cluster.nodes())?;
    report.check(&raftkv_tests::Contents::read(&fourth.client(), "while/", "linearizable").await?)?;

    cluster.follower().await?.remove("node4").await?.success()?;
    for node in cluster.nodes().iter().filter(|node| node.name() != "node4") {
        eventually("three voters are left", || async {
            let status = node.status().await?;
            ensure!(status.voters() == ["node1", "node2", "node3"], "{:?}", status.members);
            Ok(())
        })
        .await?;
    }
    clients[0].put("after", "it left").await?.acked()?;
    fourth.kill();
    cluster.whole(3).await?;
    bulk.check(&clients[1], 64).await?;
    figure("disk of node1", human_bytes(cluster.node(1).disk_bytes()));
    cluster.finish().await
}

async fn joined(cluster: &Cluster, node: &Node, voters: usize) -> anyhow::Result<()> {
    eventually_within(JOIN_PATIENCE, &format!("{} has joined", node.name()), || async {
        let status = cluster.node(2).status().await?;
        ensure!(status.voters().len() == voters, "the voters are {:?}", status.voters());
        ensure!(status.voters().contains(&node.name()), "the voters are {:?}", status.voters());
        node.ready().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_returns_under_its_name_with_a_new_id() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let load = Load::start("k", 2_000, 16, clients);
    let report = load.report().await?;
    // Each once: the node that was told to bootstrap, too, and whoever leads.
    for node in cluster.nodes() {
        let before = node.status().await?;
        let at = Instant::now();
        node.wipe()?;
        node.start()?;
        let after = eventually(&format!("{} is back", node.name()), || async {
            node.ready().await?;
            let status = node.status().await?;
            ensure!(status.voters() == ["node1", "node2", "node3"], "{:?}", status.members);
            ensure!(status.members.len() == 3, "{:?}", status.members);
            Ok(status)
        })
        .await?;
        figure(&format!("{} wiped, a voter and ready again after", node.name()), format!("{:.1?}", at.elapsed()));
        ensure!(after.node.raft_id != before.node.raft_id, "it came back with the id it had");
        ensure!(after.cluster_id == before.cluster_id, "it is in another cluster: {after:?}");
        cluster.whole(3).await?;
        report.check_alone(&cluster.converged().await?)?;
    }
    cluster.finish().await
}

/// The log no longer reaches back to where the engine stands: what a store that cannot be opened any more leads to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_engine_lost_its_state_joins_anew() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().env("RAFTKV_LOG_RETAIN", "64KiB").start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let report = Load::start("k", 4_000, 16, clients).report().await?;
    let leader = cluster.leader().await?;
    let victims = [leader.clone(), cluster.others(&leader)[0].clone()];
    for node in victims {
        node.compact().await?.success()?;
        let before = eventually("the log is compacted", || async {
            let status = node.status().await?;
            ensure!(status.node.purged.is_some_and(|purged| purged > 0), "nothing is purged: {:?}", status.node);
            Ok(status)
        })
        .await?;
        // The purge is durable with what the log takes after it; a node that dies before then still has all of the log.
        node.client().delete("nothing").await?.expect(StatusCode::NOT_FOUND)?;
        cluster.converged().await?;
        let at = Instant::now();
        node.kill();
        std::fs::remove_dir_all(node.dir().join("engine"))?;
        node.start()?;
        eventually(&format!("{} is back", node.name()), || async {
            node.ready().await?;
            let status = node.status().await?;
            ensure!(status.voters() == ["node1", "node2", "node3"], "{:?}", status.members);
            ensure!(status.node.raft_id != before.node.raft_id, "it came back with the id it had");
            ensure!(status.cluster_id == before.cluster_id, "it is in another cluster: {status:?}");
            Ok(())
        })
        .await?;
        figure(
            &format!("{} lost its store, a voter and ready again after", node.name()),
            format!("{:.1?}", at.elapsed()),
        );
        cluster.whole(3).await?;
        report.check_alone(&cluster.converged().await?)?;
    }
    // Each sidecar that gave up its log said so as its last word.
    cluster.expect_fatal();
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_given_to_whom_it_is_asked_for() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    for node in cluster.nodes() {
        let path = format!("/transfer-leader?to={}", node.name());
        cluster.node(1).management().post(&path, "application/json", "").await?.success()?;
        let leader = cluster.leader().await?;
        ensure!(leader.name() == node.name(), "{} leads, {} was asked for", leader.name(), node.name());
        node.client().put("led-by", node.name()).await?.acked()?;
    }
    let refused = cluster.node(1).management().post("/transfer-leader?to=nobody", "application/json", "").await?;
    ensure!(refused.status.is_client_error(), "{refused}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_shrinks_to_one_and_grows_again() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.node(1).client().put("k", "three").await?.acked()?;
    for name in ["node3", "node2"] {
        cluster.node(1).remove(name).await?.success()?;
    }
    let alone = cluster.node(1);
    eventually("node1 is alone", || async {
        let status = alone.status().await?;
        (status.voters() == ["node1"]).then_some(()).ok_or_else(|| anyhow!("{:?}", status.members))
    })
    .await?;
    for index in [2, 3] {
        cluster.node(index).kill();
    }
    alone.client().put("k", "one").await?.acked()?;
    // Who was removed comes back as a new node: with nothing of before.
    for index in [2, 3] {
        let node = cluster.node(index);
        node.wipe()?;
        node.start()?;
    }
    cluster.whole(3).await?;
    cluster.node(2).client().put("k", "three again").await?.acked()?;
    ensure!(cluster.node(3).client().get("k").await?.text()? == "three again");
    cluster.converged().await?;
    cluster.finish().await
}
