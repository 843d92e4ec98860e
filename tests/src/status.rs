//! [`Status`]: what a node says about itself at `GET /status`.

use serde::Deserialize;

/// The part of the document that tests look at.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// `None` while it waits for a cluster.
    pub cluster_id: Option<String>,
    /// This node.
    pub node: NodeStatus,
    /// The members it knows.
    pub members: Vec<Member>,
}

/// This node.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its raft id.
    pub raft_id: u64,
    /// leader, follower, candidate, learner, waiting or removed.
    pub role: String,
    /// The newest term seen.
    pub term: u64,
    /// The leader's name, where one is known.
    pub leader: Option<String>,
    /// End of the log.
    #[serde(rename = "last_log_index")]
    pub last_log: Option<u64>,
    /// Applied by the engine.
    #[serde(rename = "applied_index")]
    pub applied: Option<u64>,
    /// Durable in the engine.
    #[serde(rename = "snapshot_index")]
    pub snapshot: Option<u64>,
    /// Gone from the log.
    #[serde(rename = "purged_index")]
    pub purged: Option<u64>,
    /// Size of the log.
    pub log_bytes: Option<u64>,
    /// Its engine.
    pub engine: EngineStatus,
}

/// The engine of a node.
#[derive(Debug, Clone, Deserialize)]
pub struct EngineStatus {
    /// Whether it answers.
    pub connected: bool,
    /// Effective writes so far.
    pub revision: Option<u64>,
    /// Keys it holds.
    pub keys: Option<u64>,
    /// Which generation of its data is live.
    pub generation: Option<u64>,
}

/// A member of the group.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its raft id.
    pub raft_id: u64,
    /// How its peers reach it.
    pub raft_address: String,
    /// False for a learner.
    pub voter: bool,
}

impl NodeStatus {
    /// Whether it says that it leads.
    pub fn leads(&self) -> bool {
        self.role == "leader"
    }
}

impl Status {
    /// The names of the voters, in order.
    pub fn voters(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.members.iter().filter(|member| member.voter).map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}
