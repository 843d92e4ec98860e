//! Slot moves, combined with faults.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::{Mutex, MutexGuard};

use super::kind::Kind;
use super::processes::killed;
use super::story::Story;
use crate::admin::{Admin, OperationView};
use crate::shards::Shards;
use crate::wait::eventually_within;

/// A move survives elections, a change of coordinator and partitions of its groups.
const PATIENCE: Duration = Duration::from_secs(120);
/// Slow enough to catch a move in progress: the moving slots hold several times as much data.
const SLOWLY: u64 = 60_000;
/// Maximum number of moves that may end before the fault can hit.
const ATTEMPTS: usize = 8;

/// Waits until all mobile slots are in the same group; they move together. Returns the numbers of the source and the target group.
async fn ends(story: &Story<'_>, shards: &Shards, admin: &Admin) -> anyhow::Result<(usize, usize)> {
    eventually_within(PATIENCE, "the slots that move are in one group", || async {
        for (source, target) in [(1, 2), (2, 1)] {
            let id = admin.cluster().await?.groups.get(source - 1).context("a group")?.id;
            if admin.slots_of(id).await?.contains_all(&story.store.mobile) {
                return Ok((source, target));
            }
        }
        ensure!(!shards.groups().is_empty(), "no groups");
        anyhow::bail!("they are in both")
    })
    .await
}

async fn begun(
    story: &Story<'_>,
    shards: &Shards,
    admin: &Admin,
    rate: Option<u64>,
) -> anyhow::Result<(u64, usize, usize)> {
    let (source, target) = ends(story, shards, admin).await?;
    let to = admin.cluster().await?.groups.get(target - 1).context("a group")?.id;
    let operation = match rate {
        Some(rate) => admin.move_slots_slowly(&story.store.mobile, to, rate).await?,
        None => admin.move_slots(&story.store.mobile, to).await?,
    };
    Ok((operation, source, target))
}

async fn over(admin: &Admin, operation: u64) -> anyhow::Result<OperationView> {
    eventually_within(PATIENCE, &format!("operation {operation} is over"), || async {
        let view = admin.operation(operation).await?;
        ensure!(view.is_over(), "{view:?}");
        Ok(view)
    })
    .await
}

/// Waits until a move is in progress; false if already over.
async fn under_way(admin: &Admin, operation: u64) -> anyhow::Result<bool> {
    eventually_within(PATIENCE, &format!("operation {operation} is under way"), || async {
        let view = admin.operation(operation).await?;
        ensure!(view.is_over() || view.step.is_some(), "{view:?}");
        Ok(!view.is_over())
    })
    .await
}

pub(super) async fn moved(story: &Story<'_>) -> anyhow::Result<()> {
    let _moves = story.store.moves.lock().await;
    let shards = story.store.shards().context("a store with shards")?;
    // This router gets the requests; the other router may be in another fault.
    let _router = story.store.routers[1].lock().await;
    let admin = shards.router(2).admin();
    let (operation, ..) = begun(story, shards, &admin, None).await?;
    let view = over(&admin, operation).await?;
    ensure!(view.state == "done", "{view:?}");
    story.fired();
    Ok(())
}

pub(super) async fn cancelled(story: &Story<'_>) -> anyhow::Result<()> {
    let _moves = story.store.moves.lock().await;
    let shards = story.store.shards().context("a store with shards")?;
    let _router = story.store.routers[1].lock().await;
    let admin = shards.router(2).admin();
    for _ in 0..ATTEMPTS {
        let (operation, ..) = begun(story, shards, &admin, Some(SLOWLY)).await?;
        let met = under_way(&admin, operation).await?;
        if met {
            // Refused if the move has just ended.
            let _ = admin.cancel(operation).await?;
        }
        let view = over(&admin, operation).await?;
        if view.state == "cancelled" {
            story.fired();
            return Ok(());
        }
        ensure!(view.state == "done", "{view:?}");
    }
    anyhow::bail!("{ATTEMPTS} moves were too fast to be cancelled")
}

async fn all<'a>(locks: &'a [Mutex<()>]) -> Vec<MutexGuard<'a, ()>> {
    let mut guards = Vec::new();
    for lock in locks {
        guards.push(lock.lock().await);
    }
    guards
}

/// Kills a participant of a move; the move must still end, done or cancelled.
pub(super) async fn killed_in_move(story: &Story<'_>) -> anyhow::Result<()> {
    // Either group's leader may be down while the move continues. Locked first, because a holder may take minutes.
    let _absences = match story.planned.kind {
        Kind::SourceKill | Kind::TargetKill => all(&story.store.absences).await,
        _ => Vec::new(),
    };
    let _moves = story.store.moves.lock().await;
    let shards = story.store.shards().context("a store with shards")?;
    let _routers = all(&story.store.routers).await;
    for _ in 0..ATTEMPTS {
        let admin = shards.router(2).admin();
        let (operation, source, target) = begun(story, shards, &admin, Some(SLOWLY)).await?;
        if !under_way(&admin, operation).await? {
            continue;
        }
        let was_met = match story.planned.kind {
            Kind::CoordinatorKill => coordinator(story, shards, &admin, operation).await?,
            Kind::SourceKill => leader_of(story, source, &admin, operation).await?,
            _ => leader_of(story, target, &admin, operation).await?,
        };
        let view = over(&admin, operation).await?;
        ensure!(view.state == "done" || view.state == "cancelled", "{view:?}");
        if was_met {
            story.fired();
            return Ok(());
        }
    }
    anyhow::bail!("{ATTEMPTS} moves ended before a participant could be killed")
}

async fn coordinator(story: &Story<'_>, shards: &Shards, admin: &Admin, operation: u64) -> anyhow::Result<bool> {
    let name = eventually_within(PATIENCE, "a router coordinates", || async {
        admin.coordinator().await?.context("none does")
    })
    .await?;
    let router = shards.routers().iter().find(|router| router.name() == name).context("the coordinator's process")?;
    let other = shards.routers().iter().find(|router| router.name() != name).context("another router")?;
    killed(&[router.process()]).await?;
    // Ask the surviving router.
    let other = other.admin();
    let was_met = eventually_within(PATIENCE, "the operation is known", || async {
        Ok(!other.operation(operation).await?.is_over())
    })
    .await;
    story.hold().await;
    router.process().start()?;
    eventually_within(PATIENCE, "the router is back", || router.ready()).await?;
    was_met
}

async fn leader_of(story: &Story<'_>, group: usize, admin: &Admin, operation: u64) -> anyhow::Result<bool> {
    let cluster = &story.store.groups()[group - 1];
    let leader = cluster.leader().await?;
    // If another fault holds the leader, this move continues without a kill.
    let Ok(_guard) = story.store.nodes[group - 1][leader.index() - 1].try_lock() else { return Ok(false) };
    killed(&[leader.sidecar(), leader.engine()]).await?;
    let was_met = eventually_within(PATIENCE, "the operation is known", || async {
        Ok(!admin.operation(operation).await?.is_over())
    })
    .await;
    story.hold().await;
    leader.start()?;
    was_met
}
