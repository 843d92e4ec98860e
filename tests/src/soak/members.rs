//! Nodes come and go, leadership moves, logs are cut.

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

/// A join gets over elections and partitions that are going on.
const PATIENCE: Duration = Duration::from_secs(90);
/// Written by a fault that needs a long log, again and again under the same few keys.
const PAD_BYTES: usize = 128 * 1024;
const PAD_KEYS: usize = 8;

/// Removes all that a node has; its directory may be where a disk is mounted, and stays.
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

/// Waits until a node is a voter under another id than it had.
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

/// All nodes' locks: a second node must not lose anything before this one is back.
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
            // Refused while there is no leader or another change is under way; said again, it does no harm.
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

/// Waits until all nodes of the group are up to date: one that is behind may hold what a wiped one acknowledged.
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
        // Refused while another fault keeps the next one from being up to date.
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

/// A node is away until the others' logs no longer reach back to where it is.
pub(super) async fn snapshot(story: &Story<'_>) -> anyhow::Result<()> {
    // Before the node's: who waits for it must not hold a node that the other one needs.
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

/// A node is cut off until the others' logs no longer reach back to where it is. Then its engine dies, and what the engine has lost
/// comes out of the node's log while a snapshot comes from the leader.
pub(super) async fn snapshot_into_recovery(story: &Story<'_>) -> anyhow::Result<()> {
    let _absence = story.store.absences[story.planned.group].lock().await;
    let _network = story.store.networks[story.planned.group].lock().await;
    let (node, _guard) = story.follower().await?;
    let snapshots = || -> anyhow::Result<usize> { Ok(node.logs()?.matches("the snapshot is live").count()) };
    let before = snapshots()?;
    let healed = Healed(story.group());
    // Closed, not silent: what was held back would arrive later, and the node would need no snapshot.
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

/// Where the log of a node ends: one that has just been started does not know it yet.
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
            // Whatever becomes of it: some will get into the log.
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
