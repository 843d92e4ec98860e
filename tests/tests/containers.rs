//! The same faults with real containers: what the image, its entrypoint and the engine's restart policy add.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_tests::{ContainerCluster, ContainerNode, Contents, Load, eventually, figure};
use reqwest::StatusCode;

async fn load(cluster: &ContainerCluster, prefix: &str, puts: u64, without: &str) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for node in cluster.nodes().iter().filter(|node| node.name != without) {
        clients.push(cluster.client(node).await?);
    }
    let report = Load::start(prefix, puts, 16, clients.clone()).report().await?;
    ensure!(report.acked() + report.unknown() == puts as usize);
    for client in &clients {
        report.check(&Contents::read(client, prefix, "linearizable").await?)?;
    }
    Ok(())
}

fn other_than<'a>(cluster: &'a ContainerCluster, name: &str) -> anyhow::Result<&'a ContainerNode> {
    cluster.nodes().iter().find(|node| node.name != name).context("another node")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_containers_die_are_cut_off_and_join() -> anyhow::Result<()> {
    let Some(mut cluster) = ContainerCluster::start().await? else { return Ok(()) };
    load(&cluster, "first/", 1_000, "").await?;

    // The leader's container is killed.
    let leader = cluster.leader_but("").await?;
    cluster.kill(&leader).await?;
    let at = Instant::now();
    let next = cluster.leader_but(&leader.name).await?;
    let client = cluster.client(&next).await?;
    eventually("a put succeeds", || async { client.put("k", "v").await?.acked() }).await?;
    figure("first put after the leader's container was killed", format!("{:.1?}", at.elapsed()));
    load(&cluster, "second/", 1_000, &leader.name).await?;
    cluster.restart(&leader).await?;
    cluster.whole(3).await?;

    // A process inside one dies: the container ends, and the engine starts it again.
    a_dead_process_ends_its_container(&cluster).await?;

    // One is cut off from the others, but not from its clients.
    let leader = cluster.leader_but("").await?;
    cluster.disconnect_node(&leader).await?;
    let client = cluster.client(&leader).await?;
    eventually("the old leader refuses writes", || async {
        let answer =
            raftkv_tests::Client::send(client.request(reqwest::Method::PUT, "/v1/kv/cut-off?timeout=1s").body("?"))
                .await?;
        answer.expect(StatusCode::SERVICE_UNAVAILABLE)
    })
    .await?;
    let at = Instant::now();
    client.get_with("k", "?timeout=1s").await?.expect(StatusCode::SERVICE_UNAVAILABLE)?;
    ensure!(at.elapsed() < Duration::from_secs(3), "the refusal took {:.1?}", at.elapsed());
    ensure!(client.get_stale("k").await?.text()? == "v");
    cluster.leader_but(&leader.name).await?;
    load(&cluster, "third/", 1_000, &leader.name).await?;
    cluster.connect_node(&leader).await?;
    cluster.whole(3).await?;

    // A fourth one joins.
    let at = Instant::now();
    let fourth = cluster.add(4).await?;
    cluster.whole(4).await?;
    figure("a fourth container is a voter and ready after", format!("{:.1?}", at.elapsed()));
    let client = cluster.client(&fourth).await?;
    for (prefix, puts) in [("first/", 1_000), ("second/", 1_000), ("third/", 1_000)] {
        let found = Contents::keys(&client, prefix, "linearizable").await?.len();
        ensure!(found >= puts - 16, "{found} keys below {prefix}");
    }
    cluster.remove().await;
    Ok(())
}

async fn a_dead_process_ends_its_container(cluster: &ContainerCluster) -> anyhow::Result<()> {
    let leader = cluster.leader_but("").await?;
    let node = other_than(cluster, &leader.name)?;
    for process in ["raftkv-engine", "raftkv-sidecar"] {
        let before = cluster.restarts(node).await?;
        cluster.kill_process(node, process).await?;
        eventually(&format!("the container of {} is started again", node.name), || async {
            let restarts = cluster.restarts(node).await?;
            ensure!(restarts > before, "it was started again {restarts} times");
            Ok(())
        })
        .await?;
        cluster.whole(3).await?;
    }
    Ok(())
}
