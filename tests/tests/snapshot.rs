//! A snapshot on its way: damaged, cut short or of another format, it is refused and changes nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use raftkv_proto::state_machine::SnapshotChunk;
use raftkv_proto::state_machine::snapshot_chunk::Kind;
use raftkv_runtime::grpc::Endpoint;
use raftkv_sidecar::engine::client::EngineClient;
use raftkv_tests::{BulkLoad, Cluster, Load, Process, Seed, Weather, binary, eventually_within, figure};
use rand::RngExt;

const PUTS: u64 = 3_000;
const FLIPS: usize = 60;

fn engine_client(dir: &std::path::Path) -> anyhow::Result<EngineClient> {
    Ok(EngineClient::new(&Endpoint::unix(dir.join("engine.sock"))?)?)
}

/// The bytes of a chunk that carry the state.
fn data_of(chunk: &SnapshotChunk) -> usize {
    match &chunk.kind {
        Some(Kind::Data(data)) => data.len(),
        _ => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(6);
    let cluster = Cluster::builder().nodes(1).start().await?;
    let node = cluster.node(1);
    Load::start("k", PUTS, 16, vec![node.client()]).report().await?;
    let chunks: Vec<SnapshotChunk> =
        engine_client(node.dir())?.snapshot_out().await?.try_collect().await.context("take a snapshot")?;
    figure("bytes of the snapshot", chunks.iter().map(data_of).sum::<usize>());

    // An engine of its own, with no group.
    let dir = tempfile::Builder::new().prefix("rks").tempdir()?;
    let engine = Process::new("the engine", binary("raftkv-engine")?, dir.path().join("engine.log"));
    engine.set_env("NODE_ID", "alone");
    engine.set_env("RAFTKV_DATA_DIR", dir.path().to_string_lossy());
    engine.set_env("RAFTKV_HTTP_LISTEN", "127.0.0.1:0");
    engine.set_env("RAFTKV_GROUP_LISTEN", "127.0.0.1:0");
    engine.start()?;
    let client = engine_client(dir.path())?;
    let patience = Duration::from_secs(30);
    eventually_within(patience, "the engine answers", || async { Ok(client.position().await?) }).await?;

    for flip in 0..FLIPS {
        let mut damaged = chunks.clone();
        let with_data: Vec<_> = (0..damaged.len()).filter(|at| data_of(&damaged[*at]) > 0).collect();
        let at = with_data[rng.random_range(0..with_data.len())];
        if let Some(Kind::Data(data)) = &mut damaged[at].kind {
            let mut bytes = data.to_vec();
            let byte = rng.random_range(0..bytes.len());
            bytes[byte] ^= 1 << rng.random_range(0..8);
            *data = bytes.into();
        }
        refused(&client, damaged).await.with_context(|| format!("flip {flip}"))?;
    }
    let mut other_format = chunks.clone();
    if let Some(Kind::Header(header)) = &mut other_format[0].kind {
        header.format += 1;
    }
    refused(&client, other_format).await.context("another format")?;
    for end in [0, 1, chunks.len() / 2, chunks.len() - 1] {
        refused(&client, chunks[..end].to_vec()).await.with_context(|| format!("{end} of {} chunks", chunks.len()))?;
    }
    ensure!(engine.starts() == 1 && engine.pid().is_some(), "a bad snapshot ended the engine");
    ensure!(client.position().await?.next_index == 0, "a bad snapshot changed the state");

    // Undamaged it is taken.
    let staged = client.snapshot_in(futures::stream::iter(chunks)).await?;
    let position = client.activate(staged.token).await?;
    ensure!(position.next_index > 0);
    ensure!(client.status().await?.keys == PUTS, "{:?}", client.status().await?);
    cluster.finish().await
}

/// What is on its way fills every buffer between the leader and a member for longer than a dead peer takes to be noticed, heartbeats
/// of that connection included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_arrives_over_a_link_that_takes_long_for_it() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().env("RAFTKV_LOG_RETAIN", "256KiB").start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let data = BulkLoad { puts: 8, keys: 8, value_bytes: 64 * 1024, batch: 1, prefix: "data/".to_owned() };
    data.run(&clients).await?;
    let wiped = cluster.follower().await?;
    wiped.wipe()?;
    let leader = cluster.leader().await?;
    eventually_within(Duration::from_secs(30), "only a snapshot helps who is empty", || async {
        leader.compact().await?.success()?;
        ensure!(leader.status().await?.node.purged > Some(1), "the log is whole");
        Ok(())
    })
    .await?;
    cluster.set_weather(Weather { bytes_per_second: data.bytes() / 12, ..Weather::default() });
    let begin = Instant::now();
    wiped.start()?;
    eventually_within(Duration::from_secs(60), "the snapshot is live", || async {
        ensure!(std::fs::read_to_string(wiped.sidecar().log())?.contains("the snapshot is live"), "not yet");
        Ok(())
    })
    .await?;
    figure("seconds for a snapshot over a slow link", format!("{:.1}", begin.elapsed().as_secs_f64()));
    cluster.heal();
    eventually_within(Duration::from_secs(30), "the wiped node is ready", || wiped.ready()).await?;
    data.check(&wiped.client(), 1).await?;
    let log = std::fs::read_to_string(cluster.leader().await?.sidecar().log())?;
    let begun = log.lines().filter(|line| line.contains("sending a snapshot")).count();
    ensure!(begun == 1 && log.contains("the snapshot has arrived"), "begun {begun} times");
    cluster.finish().await
}

async fn refused(client: &EngineClient, chunks: Vec<SnapshotChunk>) -> anyhow::Result<()> {
    match client.snapshot_in(futures::stream::iter(chunks).boxed()).await {
        Err(refused) => {
            ensure!(refused.code() != tonic::Code::Unavailable, "the engine is gone: {refused}");
            Ok(())
        }
        Ok(staged) => anyhow::bail!("it was taken as {staged:?}"),
    }
}
