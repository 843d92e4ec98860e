//! Checks continuously that no slot has two owners.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use raftkv_kv::{MoveId, Ownership};

use super::stats::Stats;
use super::store::Store;
use crate::group_peer::GroupPeer;

/// Pause between checks.
const PERIOD: Duration = Duration::from_millis(250);
/// Timeout of a check; unreachable nodes are asked again later.
const PATIENCE: Duration = Duration::from_secs(3);

/// Checks repeatedly. Returns only an error: two groups serve the same slot.
pub(super) async fn watch(store: &Store, stats: &Arc<Stats>) -> anyhow::Result<()> {
    let mut turn = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        if store.groups().len() < 2 {
            continue;
        }
        turn += 1;
        let (one, other) = (turn % 2, (turn + 1) % 2);
        let at = |group: usize| store.groups()[group].nodes()[turn % 3].group_peer();
        let (Ok(mut one_peer), Ok(mut other_peer)) = (at(one), at(other)) else { continue };
        match tokio::time::timeout(PATIENCE, overlap(&mut one_peer, &mut other_peer)).await {
            Ok(Ok(None)) => Stats::add(&stats.owners, 1),
            Ok(Ok(Some(what))) => {
                return Err(anyhow!("VIOLATION: groups {} and {} both serve {what}", one + 1, other + 1));
            }
            // No answer in time, or a move in progress: the check is inconclusive.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Slots served by both groups at the same moment: the intersection of `other`'s slots with the slots of `one` before
/// and after, provided that no move of `one` began or ended in between.
async fn overlap(one: &mut GroupPeer, other: &mut GroupPeer) -> anyhow::Result<Option<String>> {
    let before = moves(&one.describe().await?.1);
    let first = one.served().await?;
    let others = other.served().await?;
    let last = one.served().await?;
    // After a linearizable read, this node has applied all earlier changes.
    let after = moves(&one.describe().await?.1);
    anyhow::ensure!(before == after, "slots move");
    let both = first.intersection(&last).intersection(&others);
    Ok((!both.is_empty()).then(|| format!("the slots {both}")))
}

/// A group's last move, results of the last import and export, and moves in progress.
type Moves = (MoveId, [Option<(MoveId, bool)>; 2], [Option<MoveId>; 2]);

fn moves(ownership: &Ownership) -> Moves {
    let ended = [ownership.last_import, ownership.last_export].map(|it| it.map(|it| (it.id, it.committed)));
    let out = ownership.outgoing.as_ref().map(|it| it.id);
    (ownership.last_move, ended, [out, ownership.incoming.as_ref().map(|it| it.id)])
}
