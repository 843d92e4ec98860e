//! An hour in which nothing happens, by the group's clock. It is run by hand, for CI does not wait an hour:
//!
//! `cargo test --release -p raftkv-tests --test cluster -- --ignored --exact idle_hour::an_idle_hour_is_an_hour_by_the_groups_clock`

use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_tests::{Cluster, Node, Put, eventually, figure};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// After so much of it the leader dies, or all nodes restart.
const UNTIL_DEATH: Duration = Duration::from_secs(50 * 60);
/// What may be missing after a leader's death: the time in which nobody led, and what it had counted and told nobody.
const MISSING_AFTER_DEATH: Duration = Duration::from_secs(2);
/// And after all nodes have restarted: what was counted since the last tick, too, and what the restart took.
const MISSING_AFTER_RESTART: Duration = Duration::from_secs(60);
/// An answer tells a moment that has passed.
const ANSWER: Duration = Duration::from_millis(100);

async fn clock_of(node: &Node) -> anyhow::Result<Duration> {
    Ok(Duration::from_millis(node.group_peer()?.describe().await?.0.clock_ms))
}

/// A group with a clock, and something that ends by it a day later.
async fn begun() -> anyhow::Result<(Cluster, Instant, Duration)> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    eventually("the group has its clock", || async {
        let (described, _) = leader.group_peer()?.describe().await?;
        ensure!(described.cluster_version >= 2, "version {}", described.cluster_version);
        Ok(())
    })
    .await?;
    ensure!(matches!(leader.client().put_with("a", "1", "", Some("once")).await, Put::Acked { .. }));
    let before = clock_of(&leader).await?;
    Ok((cluster, Instant::now(), before))
}

/// Waits for the end of the hour, writes, and compares.
async fn ended(cluster: &Cluster, begin: Instant, before: Duration, missing: Duration, of: &str) -> anyhow::Result<()> {
    tokio::time::sleep(HOUR.saturating_sub(begin.elapsed())).await;
    let leader = cluster.leader().await?;
    eventually("the group takes a write", || async { leader.client().put("b", "1").await?.acked() }).await?;
    let passed = clock_of(&leader).await?.saturating_sub(before);
    let real = begin.elapsed();
    figure(&format!("the group's clock after {of}"), format!("{passed:.2?} of {real:.2?}"));
    ensure!(passed + missing >= real && passed <= real + ANSWER, "{passed:.2?} of {real:.2?} after {of}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an hour"]
async fn an_idle_hour_is_an_hour_by_the_groups_clock() -> anyhow::Result<()> {
    let (bereaved, begin, before) = begun().await?;
    let (restarted, other_begin, other_before) = begun().await?;
    // The subject is time that passes.
    tokio::time::sleep(UNTIL_DEATH).await;
    let leader = bereaved.leader().await?;
    leader.kill();
    bereaved.leader_other_than(&leader).await?;
    leader.start()?;
    for node in restarted.nodes() {
        node.kill();
    }
    for node in restarted.nodes() {
        node.start()?;
    }
    ended(&bereaved, begin, before, MISSING_AFTER_DEATH, "a leader's death").await?;
    ended(&restarted, other_begin, other_before, MISSING_AFTER_RESTART, "a restart of all nodes").await?;
    bereaved.finish().await?;
    restarted.finish().await
}
