//! How this node reaches the other members.

mod client;
mod peers;
mod pump;
mod work;

pub use client::{Outgoing, PeerNetwork, SnapshotData};
pub use peers::{Lane, Peers, RaftClient};
pub use work::{Trouble, Work};

use openraft::network::RaftNetworkFactory;

use crate::types::{Member, NodeId, TypeConfig};

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
