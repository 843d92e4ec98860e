//! The log is compacted: the disk holds the data, not its history, and a restart takes seconds.

use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_tests::{BulkLoad, Client, Cluster, eventually, figure, human_bytes};

const PUTS: u64 = 1_000_000;
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 1024;
/// The data is 10 MB; the log keeps 64 MiB for members that were away, a store its memtables and what it has not
/// compacted yet. The history is a gigabyte.
const DISK_LIMIT: u64 = 400 * 1000 * 1000;
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// Of two requests for a snapshot each.
const ROUNDS: usize = 20;
/// For a snapshot of next to nothing.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_million_puts_over_ten_thousand_keys_leave_megabytes() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    let bulk = BulkLoad { puts: PUTS, keys: KEYS, value_bytes: VALUE_BYTES, batch: 1_000, prefix: "k".to_owned() };
    let took = bulk.run(&clients).await?;
    figure("puts of 1 KiB in batches of 1000 a second", format!("{:.0}", PUTS as f64 / took.as_secs_f64()));
    figure("history written", human_bytes(bulk.bytes()));

    for node in cluster.nodes() {
        eventually(&format!("the disk of {} holds megabytes", node.name()), || async {
            let bytes = node.disk_bytes();
            ensure!(bytes < DISK_LIMIT, "it holds {}", human_bytes(bytes));
            Ok(())
        })
        .await?;
        figure(&format!("disk of {}", node.name()), human_bytes(node.disk_bytes()));
    }
    let revision = cluster.converged().await?.store_revision;
    ensure!(revision == PUTS, "{PUTS} puts were acknowledged, the store stands at revision {revision}");

    for node in cluster.nodes() {
        node.kill();
        let at = Instant::now();
        node.start()?;
        eventually(&format!("{} is ready again", node.name()), || node.ready()).await?;
        figure(&format!("{} killed and ready again after", node.name()), format!("{:.1?}", at.elapsed()));
        ensure!(at.elapsed() < RESTART_LIMIT, "a restart took {:.1?}", at.elapsed());
    }
    cluster.whole(3).await?;
    for client in &clients {
        bulk.check(client, 10).await?;
    }
    cluster.converged().await?;
    cluster.finish().await
}

/// Openraft makes the state durable once at a time and does not hear of more meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_snapshot_while_one_is_made_gets_his_own() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let node = cluster.node(1);
    for round in 0..ROUNDS {
        node.client().put("first", round.to_string()).await?.acked()?;
        let first = async { node.compact().await?.success() };
        let second = async {
            node.client().put("second", "x".repeat(64 * 1024)).await?.acked()?;
            let at = Instant::now();
            node.compact().await?.success()?;
            Ok(at.elapsed())
        };
        let (_, took) = tokio::try_join!(first, second)?;
        ensure!(took < SNAPSHOT_LIMIT, "a state of some kilobytes is durable after {took:.1?} only, in round {round}");
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_is_not_waited_for_by_a_snapshot_on_request() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let node = cluster.follower().await?;
    node.client().put("k", "v").await?.acked()?;
    node.engine().pause()?;
    let began = Instant::now();
    let answer = node.compact().await;
    let took = began.elapsed();
    node.engine().resume()?;
    let answer = answer?;
    ensure!(answer.problem_code() == "engine_gone", "{answer}");
    ensure!(took < SNAPSHOT_LIMIT, "the refusal took {took:?}");
    eventually("it is made durable once the engine answers", || async { node.compact().await?.success().map(drop) })
        .await?;
    cluster.finish().await
}
