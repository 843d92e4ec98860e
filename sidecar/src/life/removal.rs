//! Notices that this node is no longer a member.
//!
//! The group stops sending the log to a member it drops, so the entry that says so may never arrive here: the leader has to
//! be asked.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use raftkv_runtime::shutdown::Shutdown;

use crate::life::lifecycle::Lifecycle;
use crate::node::elections::{Elections, Reason};
use crate::node::identity::Identity;
use crate::node::metrics::{ALIVE_WITHIN, known_leader, metrics_of};
use crate::node::standing::Bar;
use crate::node::twin;
use crate::node::{Group, Node, Phase};
use crate::peers::management::{ManagementClient, StatusDocument};
use crate::raft::types::NodeId;

/// How often a follower asks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How often while no leader is heard: it may have no reason to be.
const SOON: Duration = Duration::from_millis(500);
/// Between two questions, however many doubts there are.
const LEAST: Duration = Duration::from_millis(100);
/// A leader that heard from its quorum no longer ago than this speaks for the group.
const QUORUM_WITHIN_MS: u64 = 2_000;

/// What a status says about the membership of `me`: the raft address that the group has for it, if it is a member; `None` when
/// the node does not speak for the group.
pub fn verdict(status: &StatusDocument, cluster_id: &str, me: NodeId) -> Option<Option<String>> {
    let speaks = status.cluster_id.as_deref() == Some(cluster_id)
        && status.node.role == "leader"
        && status.node.quorum_ack_age_ms.is_some_and(|age| age <= QUORUM_WITHIN_MS);
    let member = status.members.iter().find(|member| member.raft_id == me);
    speaks.then(|| member.map(|member| member.raft_address.clone()))
}

/// Until the shutdown: while the group says that this node is no member, it takes no part in elections and serves nothing.
pub async fn watch(node: Node, lifecycle: Arc<Lifecycle>, client: ManagementClient, shutdown: Shutdown) {
    loop {
        let removed = node.standing.barred().is_some_and(|(bar, _)| bar == Bar::Removed);
        let wait = if removed || node.leader_silent_for() < ALIVE_WITHIN / 2 { INTERVAL } else { SOON };
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(wait) => {}
            () = node.standing.doubted() => tokio::time::sleep(LEAST).await,
        }
        let Phase::Running(group) = node.phase() else {
            continue;
        };
        let elections = Elections::of(&group);
        match is_member(&group, &node.identity, &client).await {
            Some((Some(address), _)) => {
                lifecycle.known_at(&address);
                // The membership names another address: of a process that has taken this one's place?
                if address != node.identity.raft_address
                    && let Some(twin) = twin::find(&node, &group, &[address]).await
                {
                    lifecycle.found_twin(&twin);
                }
                let was_removed = elections.permit(Reason::Removed);
                if node.standing.lift(Bar::Removed) || was_removed {
                    tracing::info!("this node is a member again");
                }
            }
            Some((None, leader)) => {
                let is_new = elections.forbid(Reason::Removed);
                let why = removed_text(&node.identity, &leader);
                node.standing.bar(Bar::Removed, why.as_str());
                if is_new {
                    tracing::error!("{why}; it serves nothing any more");
                }
            }
            None => {}
        }
    }
}

/// What a node that was removed says to everybody.
fn removed_text(identity: &Identity, leader: &str) -> String {
    format!(
        "this node was removed from its cluster. To let it join again: raftkv node join {} {} --management {leader}",
        identity.name, identity.raft_address
    )
}

/// The raft address that the group has for this node, if it is a member, and the management address of the leader that says
/// so; `None` when nobody who speaks for the group can be asked.
async fn is_member(group: &Group, identity: &Identity, client: &ManagementClient) -> Option<(Option<String>, String)> {
    let metrics = metrics_of(group);
    if metrics.state == ServerState::Leader {
        return Some((Some(identity.raft_address.clone()), String::new()));
    }
    // Adopted, but nothing has arrived yet: not removed, only not added.
    metrics.last_log_index?;
    let leader = known_leader(&metrics);
    let mut others: Vec<_> = metrics
        .membership_config
        .nodes()
        .filter(|(id, _)| **id != metrics.id)
        .map(|(id, member)| (*id, member))
        .collect();
    others.sort_by_key(|(id, _)| Some(*id) != leader);
    // All at once: the deadlines of those that do not answer do not add up.
    let asked = others.into_iter().map(|(_, member)| async move {
        let address = &member.management_address;
        let status = client.status(address, None).await.ok()?;
        Some((verdict(&status, &group.cluster_id, metrics.id)?, address.clone()))
    });
    futures::future::join_all(asked).await.into_iter().flatten().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::management::{MemberDocument, NodeDocument};

    fn leader(age_ms: Option<u64>) -> StatusDocument {
        StatusDocument {
            cluster_id: Some("c".to_owned()),
            node: NodeDocument { role: "leader".to_owned(), quorum_ack_age_ms: age_ms, ..NodeDocument::default() },
            members: vec![MemberDocument {
                raft_id: 1,
                raft_address: "n1:8088".to_owned(),
                ..MemberDocument::default()
            }],
            waiting: None,
        }
    }

    #[test]
    fn only_a_leader_with_its_quorum_speaks_for_the_group() {
        assert_eq!(verdict(&leader(Some(10)), "c", 1), Some(Some("n1:8088".to_owned())));
        assert_eq!(verdict(&leader(Some(10)), "c", 2), Some(None));
        assert_eq!(verdict(&leader(Some(5_000)), "c", 2), None);
        assert_eq!(verdict(&leader(None), "c", 2), None);
        assert_eq!(verdict(&leader(Some(10)), "another", 2), None);
    }
}
