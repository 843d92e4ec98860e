//! Disk faults, on the simulated disks of the harness.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::io::Errno;

use super::kind::Kind;
use super::processes::killed;
use super::store::locked;
use super::story::Story;
use crate::answer::Put;
use crate::faultfs::{Call, Effect, Fault, FaultFs, Loss};
use crate::node::Node;
use crate::wait::eventually_within;

/// Disks are written all the time under load; behind a partition, only after the partition ends.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_millis(60);
/// Less than the reserve of half a gigabyte.
const LITTLE: u64 = 64 << 20;
/// Default of the disk reserve of a node.
const RESERVE: u64 = 512 << 20;
/// Free space of a small disk beyond the reserve.
const ROOM: u64 = 24 << 20;
/// Number and size of the values to fill a small disk. Each is written repeatedly, because log, tables and compactions take space.
const FILL_KEYS: usize = 256;
const FILL_BYTES: usize = 128 * 1024;

/// Removes all disk faults when dropped.
struct Mended(Arc<Mutex<FaultFs>>);

impl Drop for Mended {
    fn drop(&mut self) {
        let disk = locked(&self.0);
        disk.clear_faults();
        disk.set_free(None);
        disk.set_read_only(false);
    }
}

/// Cuts the power of a node after its processes have been killed.
async fn power_loss(story: &Story<'_>, node: &Node, loss: Loss) -> anyhow::Result<()> {
    let disk = story.store.disk(node)?;
    let seed = story.planned.seed.wrapping_add(node.index() as u64);
    // Unmounting waits for the kernel.
    tokio::task::spawn_blocking(move || {
        let mut disk = locked(&disk);
        let before = disk.counts().power_losses;
        disk.power_loss(loss, seed)?;
        ensure!(disk.counts().power_losses == before + 1, "the disk did not lose power");
        Ok(())
    })
    .await
    .context("a power loss")?
}

pub(super) async fn power_loss_one(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    killed(&[node.sidecar(), node.engine()]).await?;
    let loss = if story.random(2) == 0 { Loss::Volatile } else { Loss::Torn };
    power_loss(story, &node, loss).await?;
    story.fired();
    node.start()
}

pub(super) async fn power_loss_all(story: &Story<'_>) -> anyhow::Result<()> {
    let _guards = story.all_nodes().await;
    let nodes = story.group().nodes();
    let processes: Vec<_> = nodes.iter().flat_map(|node| [node.sidecar(), node.engine()]).collect();
    killed(&processes).await?;
    let loss = if story.planned.kind == Kind::PowerLossTorn { Loss::Torn } else { Loss::Volatile };
    for node in nodes {
        power_loss(story, node, loss).await?;
    }
    story.fired();
    nodes.iter().try_for_each(|node| node.start())
}

/// Injects a fatal fault: the process must exit, and is restarted.
pub(super) async fn fatal(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    let disk = story.store.disk(&node)?;
    let _mended = Mended(Arc::clone(&disk));
    let (fault, process) = match story.planned.kind {
        Kind::FsyncFails => (Fault::new(Call::Fsync, Effect::Fail(Errno::IO)).below("sidecar/wal"), node.sidecar()),
        Kind::TornWrite => (Fault::new(Call::Write, Effect::Tear).below("sidecar/wal"), node.sidecar()),
        _ => (Fault::new(Call::Write, Effect::Tear).below("engine"), node.engine()),
    };
    let ended = process.exits().len();
    let fired = locked(&disk).inject(fault.times(1));
    eventually_within(PATIENCE, "the fault fires", || async {
        ensure!(fired.count() == 1, "it fired {} times", fired.count());
        Ok(())
    })
    .await?;
    story.fired();
    eventually_within(PATIENCE, &format!("{} ends", process.name()), || async {
        ensure!(process.exits().len() > ended, "it goes on after an error of its disk");
        Ok(())
    })
    .await
}

pub(super) async fn slow(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    let disk = story.store.disk(&node)?;
    let _mended = Mended(Arc::clone(&disk));
    let fired = locked(&disk).inject(Fault::new(Call::Fsync, Effect::Delay(SLOW)));
    eventually_within(PATIENCE, "fsyncs are slow", || async {
        ensure!(fired.count() > 5, "{} were", fired.count());
        Ok(())
    })
    .await?;
    story.fired();
    story.hold().await;
    Ok(())
}

/// Leaves less space than the reserve: the node must refuse values.
pub(super) async fn full(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    let disk = story.store.disk(&node)?;
    let _mended = Mended(Arc::clone(&disk));
    locked(&disk).set_free(Some(LITTLE));
    let client = node.client();
    eventually_within(PATIENCE, &format!("{} refuses values", node.name()), || async {
        match client.put_with("full", "x", "?timeout=1s", None).await {
            Put::Refused(why) if why.starts_with("507") => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;
    story.fired();
    story.hold().await;
    Ok(())
}

/// Fills a disk with little more than the reserve: the node must refuse values before any write fails.
pub(super) async fn filled(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    let disk = story.store.disk(&node)?;
    let _mended = Mended(Arc::clone(&disk));
    let exits = || node.engine().exits().len() + node.sidecar().exits().len();
    let before = exits();
    locked(&disk).set_free(Some(RESERVE + ROOM));
    let client = node.client();
    let fill = "x".repeat(FILL_BYTES);
    let turn = std::cell::Cell::new(0);
    eventually_within(PATIENCE, &format!("{} is full", node.name()), || async {
        loop {
            let number = turn.replace(turn.get() + 1);
            ensure!(exits() == before, "a process of it has ended");
            match client.put_with(&format!("fill/{}", number % FILL_KEYS), fill.clone(), "?timeout=1s", None).await {
                Put::Acked { .. } => {}
                Put::Refused(why) if why.starts_with("507") => return Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        }
    })
    .await?;
    story.fired();
    story.hold().await;
    ensure!(exits() == before, "a process of {} ended for want of space", node.name());
    Ok(())
}

/// Leaves no space, or makes the disk read-only: a node must not acknowledge without writing its log.
pub(super) async fn unwritable(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    let disk = story.store.disk(&node)?;
    let _mended = Mended(Arc::clone(&disk));
    let refused = |disk: &FaultFs| disk.counts().no_space + disk.counts().read_only;
    let before = refused(&locked(&disk));
    match story.planned.kind {
        Kind::DiskNoByte => locked(&disk).set_free(Some(0)),
        _ => locked(&disk).set_read_only(true),
    }
    eventually_within(PATIENCE, "the disk refuses a write, or the node does before it", || async {
        if refused(&locked(&disk)) > before {
            return Ok(());
        }
        // A leader without space refuses values, so the disk gets no write to refuse.
        let put = node.client().put_with("fill/0", "x".to_owned(), "?timeout=1s", None).await;
        ensure!(matches!(&put, Put::Refused(why) if why.starts_with("507")), "the disk refused none: {put:?}");
        Ok(())
    })
    .await?;
    story.fired();
    story.hold().await;
    Ok(())
}
