//! Notices that this node is no longer a member.
//!
//! The group stops sending the log to a member it drops, so the entry that says so may never arrive here: the leader has to
//! be asked.

use std::time::Duration;

use openraft::ServerState;
use raftkv_runtime::shutdown::Shutdown;

use crate::leadership::{Elections, Reason, known_leader, metrics_of};
use crate::management::ManagementClient;
use crate::node::{Group, Node, Phase};
use crate::status::StatusDocument;
use crate::types::NodeId;

/// How often a follower asks.
const INTERVAL: Duration = Duration::from_secs(3);
/// A leader that heard from its quorum no longer ago than this speaks for the group.
const QUORUM_WITHIN_MS: u64 = 2_000;

/// What a status says about the membership of `me`; `None` when the node does not speak for the group.
pub fn verdict(status: &StatusDocument, cluster_id: &str, me: NodeId) -> Option<bool> {
    let speaks = status.cluster_id.as_deref() == Some(cluster_id)
        && status.node.role == "leader"
        && status.node.quorum_ack_age_ms.is_some_and(|age| age <= QUORUM_WITHIN_MS);
    speaks.then(|| status.members.iter().any(|member| member.raft_id == me))
}

/// Until the shutdown: while the group says that this node is no member, it takes no part in elections and is not ready.
pub async fn watch(node: Node, client: ManagementClient, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Phase::Running(group) = node.phase() else {
            continue;
        };
        let elections = Elections::of(&group);
        match is_member(&group, &client).await {
            Some(true) if elections.permit(&group, Reason::Removed) => {
                tracing::info!("this node is a member again");
            }
            Some(false) if elections.forbid(&group, Reason::Removed) => {
                tracing::error!(
                    "this node was removed from the cluster: it serves nothing any more. Stop it, or let it join again"
                );
            }
            _ => {}
        }
    }
}

async fn is_member(group: &Group, client: &ManagementClient) -> Option<bool> {
    let metrics = metrics_of(group);
    if metrics.state == ServerState::Leader {
        return Some(true);
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
    for (_, member) in others {
        if let Ok(status) = client.status(&member.management_address, None).await
            && let Some(verdict) = verdict(&status, &group.cluster_id, metrics.id)
        {
            return Some(verdict);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{MemberDocument, NodeDocument};

    fn leader(age_ms: Option<u64>) -> StatusDocument {
        StatusDocument {
            cluster_id: Some("c".to_owned()),
            node: NodeDocument { role: "leader".to_owned(), quorum_ack_age_ms: age_ms, ..NodeDocument::default() },
            members: vec![MemberDocument { raft_id: 1, ..MemberDocument::default() }],
            waiting: None,
        }
    }

    #[test]
    fn only_a_leader_with_its_quorum_speaks_for_the_group() {
        assert_eq!(verdict(&leader(Some(10)), "c", 1), Some(true));
        assert_eq!(verdict(&leader(Some(10)), "c", 2), Some(false));
        assert_eq!(verdict(&leader(Some(5_000)), "c", 2), None);
        assert_eq!(verdict(&leader(None), "c", 2), None);
        assert_eq!(verdict(&leader(Some(10)), "another", 2), None);
    }
}
