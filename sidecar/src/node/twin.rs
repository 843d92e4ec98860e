//! [`find`]: whether another process that runs has this node's raft id.
//!
//! A data directory that was copied has two processes with one raft id. They could vote twice in one term, so the one that the
//! membership does not know must neither vote nor stand. Nothing is stored for this: each process has a random incarnation
//! ([`Life`](crate::node::incarnation::Life)), and a process that answers under the raft id with another one is a twin. A process that is gone does
//! not answer, so a node that was moved to another address goes ahead. The raft id decides: an unrelated process that answers at
//! an old address is no twin.

use std::time::Duration;

use raftkv_proto::raft::{IdentifyRequest, Identity as PeerIdentity};

use crate::node::metrics::metrics_of;
use crate::node::{Group, Node};
use crate::peers::Peers;
use crate::peers::management::ManagementClient;

/// A twin that has not answered for so long is gone: longer than a process takes to start again.
pub const GONE_AFTER: Duration = Duration::from_secs(10);
/// To reach a process and have it say who it is.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// Whether these are two processes with one raft id. One of version 0.1.0 does not say which process it is.
pub fn is_twin(raft_id: u64, incarnation: u64, other: &PeerIdentity) -> bool {
    other.raft_id == raft_id && other.incarnation != 0 && incarnation != 0 && other.incarnation != incarnation
}

/// Who answers at a raft address, if anybody does in time.
pub async fn identify(address: &str) -> Option<PeerIdentity> {
    let asked = async {
        let mut client = Peers::dial(address).await.ok()?;
        Some(client.identify(IdentifyRequest {}).await.ok()?.into_inner())
    };
    tokio::time::timeout(DEADLINE, asked).await.ok().flatten()
}

/// The address at which another process of this node's identity answers: one that the membership has for it, its own, or
/// one of `also`.
pub async fn find(node: &Node, group: &Group, also: &[String]) -> Option<String> {
    let me = node.identity.raft_id;
    let known = metrics_of(group).membership_config.get_node(&me).map(|member| member.raft_address.clone());
    let mut addresses = vec![node.identity.raft_address.clone()];
    addresses.extend(known);
    addresses.extend_from_slice(also);
    addresses.sort_unstable();
    addresses.dedup();
    let asked = addresses.into_iter().map(|address| async move {
        let other = identify(&address).await?;
        is_twin(me, node.life.incarnation(), &other).then_some(address)
    });
    futures::future::join_all(asked).await.into_iter().flatten().next()
}

/// The raft addresses that the other members have for this node, of those that answer in time. Its own log may not have the
/// newest: the member may have been given to a twin while this process did not run.
pub async fn known_addresses(node: &Node, group: &Group, client: &ManagementClient, within: Duration) -> Vec<String> {
    let me = node.identity.raft_id;
    let metrics = metrics_of(group);
    let others = metrics.membership_config.nodes().filter(|(id, _)| **id != me);
    let asked = others.map(|(_, member)| async move {
        let status = tokio::time::timeout(within, client.status(&member.management_address, None)).await.ok()?.ok()?;
        let of_ours = status.cluster_id.as_deref() == Some(group.cluster_id.as_str());
        let known = status.members.into_iter().find(|member| member.raft_id == me)?;
        of_ours.then_some(known.raft_address)
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// What a node with a twin says to everybody.
pub fn text(name: &str, raft_id: u64, elsewhere: &str) -> String {
    format!(
        "two processes have one identity: another process of the node {name} (raft id {raft_id}) runs at {elsewhere}. Stop one \
         of them; where the data directory was copied, delete the copy"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_has_the_raft_id_and_is_another_process() {
        let other = |raft_id, incarnation| PeerIdentity { raft_id, incarnation, ..PeerIdentity::default() };
        assert!(is_twin(1, 7, &other(1, 8)));
        assert!(!is_twin(1, 7, &other(1, 7)), "itself");
        assert!(!is_twin(1, 7, &other(2, 8)), "another node");
        assert!(!is_twin(1, 7, &other(1, 0)) && !is_twin(1, 0, &other(1, 8)), "not known");
    }
}
