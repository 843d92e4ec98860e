//! [`Status`]: a node's response to `GET /status`.

use serde::Deserialize;

/// The fields used by tests.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// `None` while waiting for a cluster.
    pub cluster_id: Option<String>,
    /// Status of the responding node.
    pub node: NodeStatus,
    /// Known members.
    pub members: Vec<Member>,
}

/// Status of a node.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// Node name.
    pub name: String,
    /// Raft id.
    pub raft_id: u64,
    /// leader, follower, candidate, learner, waiting or removed.
    pub role: String,
    /// Latest term seen.
    pub term: u64,
    /// Leader name, if known.
    pub leader: Option<String>,
    /// Last log index.
    #[serde(rename = "last_log_index")]
    pub last_log: Option<u64>,
    /// Index applied by the engine.
    #[serde(rename = "applied_index")]
    pub applied: Option<u64>,
    /// Index durable in the engine.
    #[serde(rename = "snapshot_index")]
    pub snapshot: Option<u64>,
    /// Last index purged from the log.
    #[serde(rename = "purged_index")]
    pub purged: Option<u64>,
    /// Size of the log in bytes.
    pub log_bytes: Option<u64>,
    /// Engine status.
    pub engine: EngineStatus,
}

/// The engine of a node.
#[derive(Debug, Clone, Deserialize)]
pub struct EngineStatus {
    /// Whether the engine answers.
    pub connected: bool,
    /// Number of effective writes so far.
    pub revision: Option<u64>,
    /// Number of keys.
    pub keys: Option<u64>,
    /// Live generation of the data.
    pub generation: Option<u64>,
}

/// A member of the group.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Node name.
    pub name: String,
    /// Raft id.
    pub raft_id: u64,
    /// Raft address for peers.
    pub raft_address: String,
    /// False for a learner.
    pub voter: bool,
}

impl NodeStatus {
    /// Whether the node claims leadership.
    pub fn leads(&self) -> bool {
        self.role == "leader"
    }
}

impl Status {
    /// The names of the voters, sorted.
    pub fn voters(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.members.iter().filter(|member| member.voter).map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}
