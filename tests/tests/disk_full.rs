//! Disks that are filled by the store itself: values are refused in time, no process ends, and deletes give the space back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use futures::stream::{self, TryStreamExt};
use raftkv_tests::{Client, Cluster, Put, SmallDisk, eventually_within, figure, human_bytes};

const MIB: u64 = 1024 * 1024;
const VALUE_BYTES: usize = 900_000;
const WRITERS: u64 = 6;
/// A node is full when this many values in a row were refused there.
const REFUSALS: u64 = 5;
/// A key that is there all the time.
const KEPT: &str = "kept";
const PATIENCE: Duration = Duration::from_secs(60);
/// Deletes give the space back within this, with no other help.
const RECLAIMED_WITHIN: Duration = Duration::from_secs(30);

/// Does not compress.
fn noise(mut x: u64) -> String {
    (0..VALUE_BYTES)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(33 + ((x >> 33) % 90) as u8)
        })
        .collect()
}

fn name(n: u64) -> String {
    format!("fill/{n:05}")
}

/// Puts values until each writer's node refuses them. Gives the number of keys that were used, and what was free on the disk of each
/// writer's node when it refused the first.
async fn fill(cluster: &Cluster, disks: &[SmallDisk]) -> anyhow::Result<(u64, Vec<u64>)> {
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    let free = try_join_all((0..WRITERS).map(|writer| {
        let node = (writer % 3) as usize;
        let (client, next) = (cluster.nodes()[node].client(), &next);
        // There is one, or one for each node.
        let disk = &disks[node % disks.len()];
        async move {
            let mut first = None;
            let mut refusals = 0;
            while refusals < REFUSALS {
                ensure!(begin.elapsed() < PATIENCE, "values are still taken, or their outcome is unknown");
                let n = next.fetch_add(1, Ordering::Relaxed);
                match client.put_with(&name(n), noise(n), "?timeout=10s", None).await {
                    Put::Refused(why) if why.starts_with("507") => {
                        refusals += 1;
                        first.get_or_insert(disk.free_bytes()?);
                    }
                    Put::Acked { .. } => refusals = 0,
                    Put::Unknown(_) | Put::Refused(_) => {}
                }
            }
            first.context("it has refused one")
        }
    }))
    .await?;
    Ok((next.load(Ordering::Relaxed), free))
}

async fn delete(client: &Client, key: &str) -> anyhow::Result<()> {
    eventually_within(PATIENCE, &format!("{key} is deleted"), || async {
        let answer = client.delete(key).await?;
        ensure!(answer.status.is_success() || answer.status.as_u16() == 404, "{answer}");
        Ok(())
    })
    .await
}

/// No process has ended, by itself or otherwise.
fn all_live(cluster: &Cluster) -> anyhow::Result<()> {
    for process in cluster.nodes().iter().flat_map(|node| [node.engine(), node.sidecar()]) {
        ensure!(process.exits().is_empty() && process.starts() == 1, "{} ended: {:?}", process.name(), process.exits());
    }
    Ok(())
}

async fn fills_and_drains(cluster: &Cluster, disks: &[SmallDisk]) -> anyhow::Result<()> {
    ensure!(matches!(cluster.node(1).client().put(KEPT, "1").await?, Put::Acked { .. }), "the first value is taken");
    cluster.converged().await?;
    for round in 1..=2 {
        let (keys, free) = fill(cluster, disks).await.with_context(|| format!("fill, round {round}"))?;
        all_live(cluster)?;
        let least = free.into_iter().min().context("a writer")?;
        figure("keys written until 507", keys);
        figure("free at the first 507, at the least", human_bytes(least));
        // Later, compactions of what was removed may be under way on one disk and done on another.
        ensure!(round > 1 || least > MIB, "only {} were left when the first value was refused", human_bytes(least));
        for node in cluster.nodes() {
            let answer = node.client().get_stale(KEPT).await?;
            ensure!(answer.status.is_success(), "{} does not read: {answer}", node.name());
        }

        let begin = Instant::now();
        let client = cluster.node(1).client();
        stream::iter((0..keys).map(|n| anyhow::Ok((client.clone(), name(n)))))
            .try_for_each_concurrent(16, |(client, key)| async move { delete(&client, &key).await })
            .await?;
        let deleted = begin.elapsed();
        let begin = Instant::now();
        for node in cluster.nodes() {
            let (client, key) = (node.client(), format!("after/{}", node.name()));
            let what = format!("{} takes values again", node.name());
            eventually_within(RECLAIMED_WITHIN, &what, || async {
                match client.put_with(&key, noise(7), "?timeout=5s", None).await {
                    Put::Acked { .. } => Ok(()),
                    other => bail!("{other:?}"),
                }
            })
            .await?;
        }
        figure("deleting all took", format!("{deleted:.1?}"));
        figure("space was back after", format!("{:.1?}", begin.elapsed()));
        all_live(cluster)?;
    }
    cluster.converged().await?;
    all_live(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nodes_on_small_disks_of_their_own_refuse_in_time_and_recover_by_themselves() -> anyhow::Result<()> {
    // Unmounted after the processes have ended, whatever happens.
    let mut disks = Vec::new();
    let cluster = Cluster::builder().create().await?;
    for index in 1..=3 {
        let Some(disk) = SmallDisk::make(300 * MIB)? else { return cluster.finish().await };
        disk.hold(&cluster, index)?;
        disks.push(disk);
    }
    for node in cluster.nodes() {
        node.start()?;
    }
    cluster.whole(3).await?;
    fills_and_drains(&cluster, &disks).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nodes_that_share_a_small_disk_refuse_in_time_and_recover_by_themselves() -> anyhow::Result<()> {
    let Some(disk) = SmallDisk::make(500 * MIB)? else { return Ok(()) };
    let disks = [disk];
    let cluster = Cluster::builder().create().await?;
    for index in 1..=3 {
        disks[0].hold(&cluster, index)?;
    }
    for node in cluster.nodes() {
        node.start()?;
    }
    cluster.whole(3).await?;
    fills_and_drains(&cluster, &disks).await?;
    cluster.finish().await
}
