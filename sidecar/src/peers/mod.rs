//! How this node reaches the other members.

mod connections;
pub mod forward;
mod full;
mod heartbeats;
pub mod inbound;
mod incoming;
pub mod management;
mod pump;
mod raft_client;
mod transfer;
mod work;

pub use connections::{Lane, Peers, RaftClient};
pub use full::FullMembers;
#[cfg(test)]
pub(crate) use incoming::TAKE_OVER_PATIENCE;
pub use incoming::{Incoming, Receiving};
pub use raft_client::{Outgoing, PeerNetwork, SnapshotData};
pub use work::{Trouble, Work};

use openraft::network::RaftNetworkFactory;

use crate::raft::types::{Member, NodeId, TypeConfig};

/// How long a peer that has connected here may leave a ping unanswered. Its answer waits behind what it sends, and on a slow link a
/// snapshot takes minutes; for whatever else may be wrong with a connection, the peer that made it has deadlines of its own.
pub const PEER_SILENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Gives openraft its clients: replication, heartbeats and snapshots each on a connection of their own, so that a large
/// transfer never delays a heartbeat.
impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> PeerNetwork {
        PeerNetwork::new(self.clone(), target, member, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, member: &Member) -> PeerNetwork {
        PeerNetwork::new(self.clone(), target, member, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, member: &Member) -> PeerNetwork {
        PeerNetwork::new(self.clone(), target, member, Lane::Snapshot)
    }
}
