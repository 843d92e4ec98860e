//! `raftkv local`: what it prints, what it keeps running and what it leaves behind.

use anyhow::{Context, anyhow, ensure};
use raftkv_tests::{Client, Contents, LocalCluster, LocalNode, eventually, signal};
use reqwest::StatusCode;
use rustix::process::Signal;

fn pid(node: &LocalNode, role: &str) -> anyhow::Result<u32> {
    let pid = if role == "engine" { node.engine_pid } else { node.sidecar_pid };
    pid.with_context(|| format!("the {role} of {} does not run", node.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_prints_where_everything_is_and_restarts_what_dies() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(3, &[]).await?;
    let printed = &cluster.printed;
    ensure!(cluster.state()? == *printed, "cluster.json and the line that was printed differ");
    ensure!(printed.routers.is_empty());
    for (number, node) in printed.nodes.iter().enumerate() {
        ensure!(node.name == format!("node{}", number + 1) && !node.group.is_empty(), "{node:?}");
        ensure!(node.dir.starts_with(cluster.dir()) && node.dir.is_dir(), "{node:?}");
        pid(node, "engine")?;
        pid(node, "sidecar")?;
    }
    // Healthy when the line is printed: no waiting here.
    let [first, second, third] = &printed.nodes[..] else { anyhow::bail!("three nodes: {printed:?}") };
    first.client().put("k", "v").await?.acked()?;
    for node in [second, third] {
        ensure!(node.client().get("k").await?.text()? == "v");
    }
    for role in ["engine", "sidecar"] {
        let dead = pid(&cluster.state()?.nodes[1], role)?;
        signal(dead, Signal::KILL)?;
        eventually(&format!("the {role} is started again"), || async {
            let now = pid(&cluster.state()?.nodes[1], role)?;
            ensure!(now != dead, "it is still process {dead}");
            second.client().get("k").await?.success()
        })
        .await?;
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_restart_what_dies_stays_dead_and_the_others_serve() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(3, &["--no-restart"]).await?;
    let nodes = cluster.printed.nodes.clone();
    nodes[0].client().put("k", "v").await?.acked()?;
    let (engine, sidecar) = (pid(&nodes[0], "engine")?, pid(&nodes[0], "sidecar")?);
    signal(sidecar, Signal::KILL)?;
    signal(engine, Signal::KILL)?;
    eventually("cluster.json says that it is dead", || async {
        let node = &cluster.state()?.nodes[0];
        (node.engine_pid.is_none() && node.sidecar_pid.is_none()).then_some(()).ok_or_else(|| anyhow!("{node:?}"))
    })
    .await?;
    eventually("the others serve", || async { nodes[1].client().put("k", "w").await?.acked() }).await?;
    ensure!(nodes[2].client().get("k").await?.text()? == "w");
    ensure!(cluster.state()?.nodes[0].engine_pid.is_none(), "it was started again");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(1, &[]).await?;
    let node = &cluster.printed.nodes[0];
    let revision = node.client().put("k", "v").await?.acked()?;
    ensure!(node.client().get("k").await?.revision()? == revision);
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_share_the_keys_behind_a_router_that_is_restarted() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(1, &["--groups", "2"]).await?;
    let [router] = &cluster.printed.routers[..] else { anyhow::bail!("one router: {:?}", cluster.printed) };
    let [first, second] = &cluster.printed.nodes[..] else { anyhow::bail!("two nodes: {:?}", cluster.printed) };
    ensure!(first.group != second.group, "{:?}", cluster.printed);
    let client = Client::new(&router.http);
    // Both groups have keys when the line is printed: no waiting here.
    for number in 0..100 {
        client.put(&format!("k{number}"), number.to_string()).await?.acked()?;
    }
    for node in [first, second] {
        let held = Contents::keys(&node.client(), "k", "linearizable").await?.len();
        // Alone or, when it passes lists on, all of them.
        ensure!(held > 20, "{} lists {held} of 100 keys", node.name);
    }
    let dead = router.pid.context("the router runs")?;
    signal(dead, Signal::KILL)?;
    eventually("the router is started again", || async {
        let now = cluster.state()?.routers[0].pid.context("it does not run")?;
        ensure!(now != dead, "it is still process {dead}");
        client.get("k7").await?.success()
    })
    .await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_stays_out_and_holds_up_no_later_start() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(3, &[]).await?;
    let [first, second, third] = &cluster.printed.nodes[..] else { anyhow::bail!("{:?}", cluster.printed) };
    first.client().put("k", "v").await?.acked()?;
    let path = format!("/leave?peerID={}", second.name);
    let management = Client::new(&third.management);
    eventually("it is removed", || async {
        let answer = management.post(&path, "text/plain", String::new()).await?;
        // Asked again it is not a member.
        ensure!(answer.status.is_success() || answer.status == StatusCode::NOT_FOUND, "{answer}");
        let status: serde_json::Value = management.get_path("/status").await?.json()?;
        ensure!(status["members"].as_array().is_some_and(|members| members.len() == 2), "{status}");
        Ok(())
    })
    .await?;

    let cluster = cluster.restart(3, &["--ready-timeout", "40s"]).await?;
    let [first, second, third] = &cluster.printed.nodes[..] else { anyhow::bail!("{:?}", cluster.printed) };
    ensure!(second.removed && !first.removed && !third.removed, "{:?}", cluster.printed);
    ensure!(cluster.state()? == cluster.printed, "cluster.json and the line that was printed differ");
    first.client().put("k", "w").await?.acked()?;
    ensure!(third.client().get("k").await?.text()? == "w");
    // It runs, so that it can be taken in again.
    let path = format!("/join?peerID={}&peerAddress={}", second.name, second.raft);
    Client::new(&first.management).post(&path, "text/plain", String::new()).await?.success()?;
    eventually("it serves again", || async {
        let answer = second.client().get("k").await?.success()?;
        ensure!(answer.text()? == "w");
        Ok(())
    })
    .await?;
    let cluster = cluster.restart(3, &[]).await?;
    ensure!(cluster.printed.nodes.iter().all(|node| !node.removed), "{:?}", cluster.printed);
    cluster.stop().await
}
