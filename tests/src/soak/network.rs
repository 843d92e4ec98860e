//! Network faults between nodes, and between clients and the store.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;

use super::kind::Kind;
use super::processes::killed;
use super::story::Story;
use crate::node::Node;
use crate::partition::{Flow, FlowCounts, Weather};
use crate::wait::eventually_within;

/// Timeout for faults to hit traffic: the first heartbeat takes a tenth of a second, the first connection an election.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a leader lease (less than a second) and an election.
const BEYOND_LEASE: Duration = Duration::from_millis(2_000);
/// Node numbers of the client proxy's two sides.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Removes all network faults when dropped.
pub(super) struct Healed<'a>(pub(super) &'a crate::cluster::Cluster);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

pub(super) async fn cut(story: &Story<'_>) -> anyhow::Result<()> {
    let _network = story.store.networks[story.planned.group].lock().await;
    let group = story.group();
    let leader = group.leader().await?;
    let others = group.others(&leader);
    let one = &others[story.random(others.len())];
    let _healed = Healed(group);
    let before = group.flow_counts();
    let both = |a: &Node, b: &Node, flow: Flow| {
        group.cut(a, b, flow);
        group.cut(b, a, flow);
    };
    match story.planned.kind {
        Kind::IsolateLeader => group.isolate(&leader),
        Kind::IsolateFollower => group.isolate(one),
        Kind::FromLeaderCut => others.iter().for_each(|other| group.cut(&leader, other, Flow::Silent)),
        Kind::ToLeaderCut => others.iter().for_each(|other| group.cut(other, &leader, Flow::Silent)),
        Kind::Bridge => both(&leader, one, Flow::Silent),
        Kind::NoMajority => group.nodes().iter().for_each(|node| group.isolate(node)),
        _ => group.others(one).iter().for_each(|other| both(one, other, Flow::Closed)),
    }
    counted(story, "messages are held back", |counts| counts.held + counts.closed > before.held + before.closed)
        .await?;
    tokio::time::sleep(story.planned.hold.max(BEYOND_LEASE)).await;
    Ok(())
}

pub(super) async fn weather(story: &Story<'_>) -> anyhow::Result<()> {
    let _network = story.store.networks[story.planned.group].lock().await;
    let group = story.group();
    let _healed = Healed(group);
    let before = group.flow_counts();
    let fair = Weather::default();
    match story.planned.kind {
        Kind::Delay => {
            group.set_weather(Weather { delay: Duration::from_millis(10 + story.random(40) as u64), ..fair });
            counted(story, "messages are delayed", |counts| counts.delayed > before.delayed + 20).await?;
        }
        Kind::Loss => {
            group.set_weather(Weather { breaks_one_in: 50 + story.random(150) as u64, ..fair });
            counted(story, "connections break", |counts| counts.broken > before.broken + 2).await?;
        }
        Kind::LargeLost => {
            // Heartbeats and small entries get through; a batch of entries does not.
            group.set_largest(1_400);
            counted(story, "packets are too large", |counts| counts.large > before.large).await?;
        }
        Kind::SlowLink => {
            let node = &group.nodes()[story.random(group.nodes().len())];
            group.set_slow_link(node, 12_500 + story.random(40_000) as u64);
            counted(story, "packets wait for the link", |counts| counts.slowed > before.slowed + 20).await?;
        }
        _ => {
            group.set_weather(Weather { bytes_per_second: 100_000 + story.random(200_000) as u64, ..fair });
            counted(story, "messages wait for bandwidth", |counts| counts.limited > before.limited + 20).await?;
        }
    }
    story.hold().await;
    Ok(())
}

/// A follower returns under another address: its peers must reconnect without an election.
pub(super) async fn address(story: &Story<'_>) -> anyhow::Result<()> {
    let _network = story.store.networks[story.planned.group].lock().await;
    let (node, _guard) = story.follower().await?;
    killed(&[node.sidecar()]).await?;
    let moved = story.group().readdressed(&node).await?;
    node.start()?;
    reached(story, &node, moved.address).await?;
    story.fired();
    story.hold().await;
    killed(&[node.sidecar()]).await?;
    drop(moved);
    node.start()?;
    reached(story, &node, node.raft_address()).await
}

/// Waits until the leader knows a node under this address and the node has applied all log entries of the leader at that moment.
async fn reached(story: &Story<'_>, node: &Node, address: SocketAddr) -> anyhow::Result<()> {
    let last = eventually_within(PATIENCE, &format!("{} is known under {address}", node.name()), || async {
        let status = story.group().leader().await?.status().await?;
        let member = status.members.iter().find(|member| member.name == node.name());
        let known = member.map(|member| member.raft_address.as_str());
        ensure!(known == Some(address.to_string().as_str()), "it is known under {known:?}");
        Ok(status.node.last_log)
    })
    .await?;
    eventually_within(PATIENCE, &format!("{} is up to date at {address}", node.name()), || async {
        let applied = node.status().await?.node.applied;
        ensure!(applied >= last, "it has applied {applied:?} of {last:?}");
        Ok(())
    })
    .await
}

async fn counted(story: &Story<'_>, what: &str, enough: impl Fn(FlowCounts) -> bool) -> anyhow::Result<()> {
    eventually_within(PATIENCE, what, || async {
        let counts = story.group().flow_counts();
        ensure!(enough(counts), "{counts:?}");
        Ok(())
    })
    .await?;
    story.fired();
    Ok(())
}

/// Breaks or stalls a client's connections in the middle of requests, chosen by the seed.
pub(super) async fn client(story: &Story<'_>) -> anyhow::Result<()> {
    let partition = &story.store.link.partition;
    let before = partition.counts();
    let (flow, directions) = match story.random(3) {
        0 => (Flow::Closed, vec![(CLIENT, SERVER), (SERVER, CLIENT)]),
        // The request arrives, but the answer does not.
        1 => (Flow::Closed, vec![(SERVER, CLIENT)]),
        _ => (Flow::Silent, vec![(SERVER, CLIENT)]),
    };
    for (from, to) in &directions {
        partition.set(*from, *to, flow);
    }
    let cut = eventually_within(PATIENCE, "a client is cut off", || async {
        let counts = partition.counts();
        ensure!(counts.held + counts.closed > before.held + before.closed, "{counts:?}");
        Ok(())
    })
    .await;
    if cut.is_ok() {
        story.fired();
        story.hold().await;
    }
    partition.heal();
    cut
}
