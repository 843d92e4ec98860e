//! Membership changes, leadership transfers and log compaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::network::Healed;
use super::processes::killed;
use super::story::Story;
use crate::node::Node;
use crate::partition::Flow;
use crate::wait::eventually_within;

/// A join may have to wait for elections and partitions.
const PATIENCE: Duration = Duration::from_secs(90);
/// Size of a value for a fault that needs a long log; the same few keys are overwritten repeatedly.
const PAD_BYTES: usize = 128 * 1024;
const PAD_KEYS: usize = 8;

/// Removes all files of a node but keeps the directory, which may be a mount point.
fn clear(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

async fn kill_and_clear(node: &Node) -> anyhow::Result<()> {
    killed(&[node.sidecar(), node.engine()]).await?;
    clear(node.dir()).with_context(|| format!("wipe {}", node.name()))
}

/// Waits until a node is a voter under a new id.
async fn joined(story: &Story<'_>, node: &Node, former: u64) -> anyhow::Result<()> {
    eventually_within(PATIENCE, &format!("{} is a member again", node.name()), || async {
        node.ready().await?;
        let status = node.status().await?;
        ensure!(status.node.raft_id != former, "it came back with the id it had");
        ensure!(status.voters().contains(&node.name()), "the voters are {:?}", status.voters());
        ensure!(status.members.len() == story.group().nodes().len(), "the members are {:?}", status.members);
        Ok(())
    })
    .await
}

/// Holds the locks of all nodes: a second node must not lose data before this node has recovered.
pub(super) async fn wipe(story: &Story<'_>) -> anyhow::Result<()> {
    let _guards = story.all_nodes().await;
    settled(story).await?;
    let nodes = story.group().nodes();
    let node = &nodes[story.random(nodes.len())];
    let former = node.status().await?.node.raft_id;
    kill_and_clear(node).await?;
    story.fired();
    node.start()?;
    joined(story, node, former).await
}

pub(super) async fn leave_and_join(story: &Story<'_>) -> anyhow::Result<()> {
    let _guards = story.all_nodes().await;
    settled(story).await?;
    let nodes = story.group().nodes();
    let node = &nodes[story.random(nodes.len())];
    let former = node.status().await?.node.raft_id;
    let others = story.group().others(node);
    eventually_within(PATIENCE, &format!("{} is no member", node.name()), || async {
        let status = others[0].status().await?;
        if status.members.iter().any(|member| member.raft_id == former) {
            // Refused without a leader or during another change; a repeat is harmless.
            others[0].remove(node.name()).await?.success()?;
            anyhow::bail!("the members are {:?}", status.members);
        }
        Ok(())
    })
    .await?;
    story.fired();
    story.hold().await;
    kill_and_clear(node).await?;
    node.start()?;
    joined(story, node, former).await
}

/// Waits until all nodes of the group are up to date: a lagging node may lack entries acknowledged by the wiped node.
async fn settled(story: &Story<'_>) -> anyhow::Result<()> {
    eventually_within(PATIENCE, "the group is whole", || async {
        for node in story.group().nodes() {
            node.ready().await?;
            let status = node.status().await?;
            ensure!(status.voters().len() == story.group().nodes().len(), "the voters are {:?}", status.voters());
        }
        Ok(())
    })
    .await
}

pub(super) async fn transfer(story: &Story<'_>) -> anyhow::Result<()> {
    let group = story.group();
    eventually_within(PATIENCE, "leadership is handed over", || async {
        let leader = group.leader().await?;
        let others = group.others(&leader);
        let next = &others[story.random(others.len())];
        let path = format!("/transfer-leader?to={}", next.name());
        // Refused while another fault keeps the target from being up to date.
        leader.management().post(&path, "application/json", "").await?.success()?;
        let now = group.leader().await?;
        ensure!(now.index() != leader.index(), "{} still leads", leader.name());
        Ok(())
    })
    .await?;
    story.fired();
    Ok(())
}

pub(super) async fn compact(story: &Story<'_>) -> anyhow::Result<()> {
    for node in story.group().nodes() {
        eventually_within(PATIENCE, &format!("{} is compacted", node.name()), || async {
            let before = node.status().await?.node.snapshot;
            node.compact().await?.success()?;
            let after = node.status().await?.node.snapshot;
            ensure!(after > before, "its snapshot is at {after:?}, and was at {before:?}");
            Ok(())
        })
        .await?;
    }
    story.fired();
    Ok(())
}

/// Stops a node until the other nodes have purged its next log entries.
pub(super) async fn snapshot(story: &Story<'_>) -> anyhow::Result<()> {
    // Before the node's lock: a waiter for this lock must not hold a node needed by the other fault.
    let _absence = story.store.absences[story.planned.group].lock().await;
    let (node, _guard) = story.follower().await?;
    let snapshots = || -> anyhow::Result<usize> { Ok(node.logs()?.matches("the snapshot is live").count()) };
    let before = snapshots()?;
    let last = last_log(&node).await?;
    killed(&[node.sidecar(), node.engine()]).await?;
    let away = purged_beyond(story, &node, last).await;
    node.start()?;
    away?;
    eventually_within(PATIENCE, &format!("{} gets a snapshot", node.name()), || async {
        ensure!(snapshots()? > before, "its log says nothing of one");
        node.ready().await
    })
    .await?;
    story.fired();
    Ok(())
}

/// Partitions a node until the other nodes have purged its next log entries. Then the node's engine dies, and recovers
/// lost entries from the node's log while the leader sends a snapshot.
pub(super) async fn snapshot_into_recovery(story: &Story<'_>) -> anyhow::Result<()> {
    let _absence = story.store.absences[story.planned.group].lock().await;
    let _network = story.store.networks[story.planned.group].lock().await;
    let (node, _guard) = story.follower().await?;
    let snapshots = || -> anyhow::Result<usize> { Ok(node.logs()?.matches("the snapshot is live").count()) };
    let before = snapshots()?;
    let healed = Healed(story.group());
    // Closed, not silent: held messages would arrive later, and the node would need no snapshot.
    for other in story.group().others(&node) {
        story.group().cut(&node, &other, Flow::Closed);
        story.group().cut(&other, &node, Flow::Closed);
    }
    let last = last_log(&node).await?;
    purged_beyond(story, &node, last).await?;
    killed(&[node.engine()]).await?;
    drop(healed);
    node.start()?;
    eventually_within(PATIENCE, &format!("{} gets a snapshot", node.name()), || async {
        ensure!(snapshots()? > before, "its log says nothing of one");
        node.ready().await
    })
    .await?;
    story.fired();
    Ok(())
}

/// The last log index of a node; unknown just after a start.
async fn last_log(node: &Node) -> anyhow::Result<u64> {
    eventually_within(PATIENCE, &format!("{} knows its log", node.name()), || async {
        node.status().await?.node.last_log.context("no entry yet")
    })
    .await
}

async fn purged_beyond(story: &Story<'_>, away: &Arc<Node>, last: u64) -> anyhow::Result<()> {
    let others = story.group().others(away);
    let clients = story.store.direct();
    let pad = "x".repeat(PAD_BYTES);
    let turn = std::cell::Cell::new(0);
    eventually_within(PATIENCE, "the others' logs are purged", || async {
        for client in &clients {
            let number = turn.replace(turn.get() + 1);
            // The outcome does not matter: some of these writes reach the log.
            let key = format!("pad/{}", number % PAD_KEYS);
            let _ = client.put_with(&key, pad.clone(), "?timeout=1s", None).await;
        }
        for other in &others {
            let _ = other.compact().await?;
            let purged = other.status().await?.node.purged;
            ensure!(purged > Some(last), "{} purged up to {purged:?}, {} has {last}", other.name(), away.name());
        }
        Ok(())
    })
    .await
}
