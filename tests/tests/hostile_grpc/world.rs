//! [`World`]: what a stranger may know of the group; anybody is told most of it.

use anyhow::Context;
use raftkv_tests::Cluster;

/// The group as it was a moment ago.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) cluster_id: String,
    pub(super) nodes: Vec<Known>,
    pub(super) leader: u64,
    pub(super) term: u64,
    /// Of the log that is the longest.
    pub(super) last_log: u64,
    /// By the member that has applied the least.
    pub(super) applied: u64,
}

/// A member.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) raft_id: u64,
    pub(super) raft_address: String,
}

impl World {
    /// Asks all members.
    pub(super) async fn see(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut world =
            Self { cluster_id: String::new(), nodes: Vec::new(), leader: 0, term: 0, last_log: 0, applied: u64::MAX };
        for node in cluster.nodes() {
            let status = node.status().await?;
            world.cluster_id = status.cluster_id.context("it is in a cluster")?;
            let (name, raft_id) = (status.node.name.clone(), status.node.raft_id);
            if status.node.leads() && status.node.term >= world.term {
                world.leader = raft_id;
            }
            world.term = world.term.max(status.node.term);
            world.last_log = world.last_log.max(status.node.last_log.unwrap_or(0));
            world.applied = world.applied.min(status.node.applied.unwrap_or(0));
            world.nodes.push(Known { name, raft_id, raft_address: node.raft_address().to_string() });
        }
        Ok(world)
    }

    /// Whether a member has this name or raft id.
    pub(super) fn is_member(&self, name: &str) -> bool {
        self.nodes.iter().any(|node| node.name == name || node.raft_id.to_string() == name)
    }
}
