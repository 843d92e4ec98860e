//! The node that is to join: who it says it is, whether it fits, and that it belongs to this cluster from now on.

use std::time::Duration;

use raftkv_proto::WIRE_VERSION;
use raftkv_proto::raft::{AdoptRequest, IdentifyRequest, Identity as PeerIdentity};
use raftkv_runtime::reason;

use super::MembershipError;
use crate::network::{Peers, RaftClient};
use crate::node::Group;
use crate::types::NodeId;

/// To reach a node and have it say who it is.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// A node that is asked to join writes its identity to disk and opens nothing large.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn identify(raft_address: &str) -> Result<(RaftClient, PeerIdentity), MembershipError> {
    let unreachable =
        |reason: String| MembershipError::Unreachable(format!("{raft_address} does not answer: {reason}"));
    let asked = tokio::time::timeout(DIAL_DEADLINE, async {
        let mut client =
            Peers::dial(raft_address).await.map_err(|error| unreachable(reason::connection(&error, raft_address)))?;
        let identity = client.identify(IdentifyRequest {}).await;
        let identity = identity.map_err(|status| unreachable(reason::call(&status, raft_address)))?.into_inner();
        Ok((client, identity))
    });
    asked.await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {DIAL_DEADLINE:?}"))))
}

pub(super) fn check_joiner(group: &Group, name: &str, identity: &PeerIdentity) -> Result<(), MembershipError> {
    if identity.wire_version != WIRE_VERSION {
        return Err(MembershipError::refused(
            "wire_version",
            format!("{} speaks wire version {}, this group {WIRE_VERSION}", identity.name, identity.wire_version),
        ));
    }
    if identity.name != name {
        return Err(MembershipError::refused(
            "wrong_node",
            format!("the node at that address is called {:?}, not {name:?}", identity.name),
        ));
    }
    if !identity.cluster_id.is_empty() && identity.cluster_id != group.cluster_id {
        return Err(MembershipError::refused(
            "other_cluster",
            format!("{name} is in the cluster {}; empty its data directory first", identity.cluster_id),
        ));
    }
    Ok(())
}

pub(super) async fn adopt(client: &mut RaftClient, group: &Group, raft_id: NodeId) -> Result<(), MembershipError> {
    let request = AdoptRequest { cluster_id: group.cluster_id.clone(), raft_id };
    match tokio::time::timeout(ADOPT_DEADLINE, client.adopt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            Err(MembershipError::Unreachable(format!("the node refuses to be adopted: {}", reason::call(&status, ""))))
        }
        Err(_) => Err(MembershipError::Unreachable(format!("the node was not adopted within {ADOPT_DEADLINE:?}"))),
    }
}
