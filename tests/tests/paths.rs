//! Paths that carry some messages and lose others, members that move, and what a group without a majority says of itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use raftkv_tests::{Cluster, Lan, Node, Put, eventually, eventually_within, figure};

/// Packets of this size still pass.
const PASSES: u32 = 1_400;
/// What is known to be impossible is answered within this, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One series of a node's metrics; `None` = it is not there.
async fn series(node: &Node, name: &str) -> anyhow::Result<Option<f64>> {
    let text = node.management().get_path("/metrics").await?.text()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.map(str::parse).transpose()?)
}

async fn expect_series(node: &Node, name: &str, expected: Option<f64>) -> anyhow::Result<()> {
    let value = series(node, name).await?;
    ensure!(value == expected, "{name} of {} is {value:?} and not {expected:?}", node.name());
    Ok(())
}

/// Between the leader and both followers packets of more than 1,400 bytes are lost; the followers reach each other. Heartbeats
/// pass, entries do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_large_packets_are_lost_gives_way() -> anyhow::Result<()> {
    let Some(lan) = Lan::create(3)?.map(Arc::new) else { return Ok(()) };
    let cluster = Cluster::builder().lan(Arc::clone(&lan)).start().await?;
    let leader = cluster.leader().await?;
    leader.client().put("before", "x").await?.acked()?;
    let term = leader.status().await?.node.term;
    for other in cluster.others(&leader) {
        lan.drop_larger(leader.index(), other.index(), PASSES)?;
    }
    let start = Instant::now();
    let large = "x".repeat(9_000);
    let lost = leader.client().put_with("large", large.clone(), "?timeout=1s", None).await;
    ensure!(!matches!(lost, Put::Acked { .. }), "the path carried it: {lost:?}");
    // Nothing heals the path, and yet the group takes writes again, large ones among them.
    let next = eventually_within(Duration::from_secs(25), "another leads and writes", || async {
        let next = cluster.leader_other_than(&leader).await?;
        next.client().put_with("after", "x", "?timeout=1s", None).await.acked()?;
        next.client().put_with("large", large.clone(), "?timeout=1s", None).await.acked()?;
        Ok(next)
    })
    .await?;
    figure("writes stood still for", format!("{:.1?}", start.elapsed()));
    let logs = leader.logs()?;
    ensure!(logs.contains("entries of this leader make no progress at a majority"), "its log does not say why");
    // The same path lies before the follower that it is now: it says so, and it does not lead again.
    eventually("it says that it is left behind", || async {
        ensure!(leader.ready().await.is_err(), "it says that it is ready");
        expect_series(&next, &format!("raftkv_raft_member_stalled{{member=\"{}\"}}", leader.name()), Some(1.0)).await
    })
    .await?;
    let status = next.status().await?.node;
    ensure!(status.leads() && status.term > term, "it leads no more: {status:?}");
    lan.heal(leader.index())?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

/// A follower comes back on its own data with another address, as a container does with a new IP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_moves_is_followed_without_an_election() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let term = leader.status().await?.node.term;
    for (follower, port) in cluster.others(&leader).into_iter().zip([8_188, 8_288]) {
        follower.stop().await?;
        leader.client().put("while it is away", port.to_string()).await?.acked()?;
        cluster.move_raft(&follower, port);
        let start = Instant::now();
        follower.start()?;
        eventually_within(Duration::from_secs(20), "it has caught up", || async {
            let value = follower.client().get_stale("while it is away").await?.text()?;
            ensure!(value == port.to_string(), "it has {value}");
            follower.ready().await
        })
        .await?;
        figure("a follower that moved has caught up after", format!("{:.1?}", start.elapsed()));
        // Through the follower: what it forwards takes the leader's address.
        follower.client().put("through it", port.to_string()).await?.acked()?;
    }
    let status = leader.status().await?.node;
    ensure!(status.leads() && status.term == term, "there was an election: {status:?}");
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

/// Two of three nodes are killed: metrics, status, readiness and answers say the same, at once, and so they do when the nodes
/// are back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_without_a_majority_says_so_everywhere_and_at_once() -> anyhow::Result<()> {
    let cluster = Cluster::builder().unsupervised().start().await?;
    let leader = cluster.leader().await?;
    let others = cluster.others(&leader);
    leader.client().put("k", "x").await?.acked()?;
    let lag = |of: &Node| format!("raftkv_raft_member_lag_entries{{member=\"{}\"}}", of.name());
    eventually("the leader knows how far the others are", || async {
        expect_series(&leader, &lag(&others[0]), Some(0.0)).await?;
        expect_series(&leader, "raftkv_raft_is_leader", Some(1.0)).await?;
        // A follower knows neither, which is not zero.
        expect_series(&others[0], &lag(&leader), None).await?;
        expect_series(&others[0], "raftkv_raft_quorum_ack_age_seconds", None).await
    })
    .await?;

    others.iter().for_each(|other| other.kill());
    without_majority(&leader, &lag(&others[0])).await?;

    // The other way round: the leader dies, and a follower is left that never hears of one again.
    others.iter().try_for_each(|other| other.start())?;
    cluster.whole(3).await?;
    eventually("the return is told", || async {
        ensure!(leader.logs()?.contains("there is a leader with a majority again"), "it is not");
        expect_series(&leader, "raftkv_raft_has_leader", Some(1.0)).await
    })
    .await?;
    let leader = cluster.leader().await?;
    let others = cluster.others(&leader);
    leader.kill();
    others[1].kill();
    without_majority(&others[0], &lag(&leader)).await?;

    leader.start()?;
    others[1].start()?;
    cluster.whole(3).await?;

    // Nothing is left of a member that was removed.
    let leader = cluster.leader().await?;
    let gone = cluster.others(&leader)[0].clone();
    let lag = lag(&gone);
    eventually("its lag is known", || expect_series(&leader, &lag, Some(0.0))).await?;
    leader.remove(gone.name()).await?.success()?;
    eventually("its series is gone", || expect_series(&leader, &lag, None)).await?;
    gone.kill();
    cluster.finish().await
}

async fn without_majority(left: &Node, lag: &str) -> anyhow::Result<()> {
    eventually_within(Duration::from_secs(10), "it says that there is no leader", || async {
        expect_series(left, "raftkv_raft_has_leader", Some(0.0)).await?;
        expect_series(left, "raftkv_raft_is_leader", Some(0.0)).await?;
        expect_series(left, lag, None).await?;
        let status = left.status().await?.node;
        ensure!(!status.leads() && status.leader.is_none(), "its status: {status:?}");
        ensure!(left.ready().await.is_err(), "it says that it is ready");
        ensure!(left.logs()?.contains("no leader with a majority"), "its log does not say so");
        Ok(())
    })
    .await?;
    // A first write may be known to nobody: it was taken before the loss.
    for _ in 0..2 {
        eventually_within(Duration::from_secs(15), "writes and reads are refused at once", || async {
            let start = Instant::now();
            let put = left.client().put("k", "y").await?;
            let Put::Refused(answer) = put else { return Err(anyhow!("{put:?}")) };
            ensure!(answer.starts_with("503"), "{answer}");
            let get = left.client().get("k").await?;
            ensure!(get.status == 503, "{get}");
            ensure!(start.elapsed() < AT_ONCE, "after {:.1?}", start.elapsed());
            Ok(())
        })
        .await?;
    }
    Ok(())
}
