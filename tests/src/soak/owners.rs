//! No slot has two owners, at any moment.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use raftkv_kv::{MoveId, Ownership};

use super::stats::Stats;
use super::store::Store;
use crate::group_peer::GroupPeer;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// A node that cannot be asked now is asked later.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks again and again. Returns only with an error: a slot that has two owners.
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
            // No answer in time, or slots were just moving: nothing is seen.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// The slots that both serve at one moment: those that the one served before and after it was asked what the other serves,
/// with no move of its own begun or ended between.
async fn overlap(one: &mut GroupPeer, other: &mut GroupPeer) -> anyhow::Result<Option<String>> {
    let before = moves(&one.describe().await?.1);
    let first = one.served().await?;
    let others = other.served().await?;
    let last = one.served().await?;
    // After a linearizable read this node knows all that was done before it.
    let after = moves(&one.describe().await?.1);
    anyhow::ensure!(before == after, "slots move");
    let both = first.intersection(&last).intersection(&others);
    Ok((!both.is_empty()).then(|| format!("the slots {both}")))
}

/// The last move of a group, how its last ones in and out ended, and those under way.
type Moves = (MoveId, [Option<(MoveId, bool)>; 2], [Option<MoveId>; 2]);

fn moves(ownership: &Ownership) -> Moves {
    let ended = [ownership.last_import, ownership.last_export].map(|it| it.map(|it| (it.id, it.committed)));
    let out = ownership.outgoing.as_ref().map(|it| it.id);
    (ownership.last_move, ended, [out, ownership.incoming.as_ref().map(|it| it.id)])
}
