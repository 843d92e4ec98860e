//! The JSON that nodes answer each other and operators with.

use serde::{Deserialize, Serialize};

/// The JSON of `GET /status`. Fields are added, never renamed. Indexes are of entries; null where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusDocument {
    /// Null while waiting.
    pub cluster_id: Option<String>,
    /// This node.
    pub node: NodeDocument,
    /// The group as this node knows it.
    pub members: Vec<MemberDocument>,
    /// Only while waiting.
    pub waiting: Option<WaitingDocument>,
}

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDocument {
    /// NODE_ID.
    pub name: String,
    /// Below 2^53: any JSON reader can hold it.
    pub raft_id: u64,
    /// leader, follower, candidate (also a leader that has lost its majority), learner, waiting or removed.
    pub role: String,
    /// The newest term seen.
    pub term: u64,
    /// The leader's name.
    pub leader: Option<String>,
    /// The leader's raft id.
    pub leader_raft_id: Option<u64>,
    /// End of the log.
    pub last_log_index: Option<u64>,
    /// Known to be committed.
    pub committed_index: Option<u64>,
    /// Applied by the engine.
    pub applied_index: Option<u64>,
    /// Durable in the engine.
    pub snapshot_index: Option<u64>,
    /// Gone from the log.
    pub purged_index: Option<u64>,
    /// Size of the log.
    pub log_bytes: Option<u64>,
    /// On the leader: since a quorum last acknowledged it.
    pub quorum_ack_age_ms: Option<u64>,
    /// Its engine.
    pub engine: EngineDocument,
    /// Why it waits or serves nothing; null = it serves, or version 0.1.0.
    pub reason: Option<String>,
    /// Of the sidecar.
    pub version: String,
    /// Random, made when the sidecar started: another process is another number. Null in 0.1.0.
    pub incarnation: Option<u64>,
    /// Milliseconds since the sidecar started. Null in 0.1.0.
    pub uptime_ms: Option<u64>,
}

/// The engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineDocument {
    /// Whether it answers.
    pub connected: bool,
    /// Effective writes so far.
    pub revision: Option<u64>,
    /// Keys it holds.
    pub keys: Option<u64>,
    /// Size of its data.
    pub disk_bytes: Option<u64>,
    /// Left on its disk.
    pub disk_free_bytes: Option<u64>,
    /// Writes are refused.
    pub disk_nearly_full: Option<bool>,
    /// Which generation of its data is live.
    pub generation: Option<u64>,
    /// Where clients reach it.
    pub http_address: Option<String>,
}

/// A member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberDocument {
    /// Its NODE_ID.
    pub name: String,
    /// Its raft id.
    pub raft_id: u64,
    /// False: a learner.
    pub voter: bool,
    /// Where peers reach it.
    pub raft_address: String,
    /// Where operators reach it.
    pub management_address: String,
    /// Where clients reach it.
    pub http_address: String,
    /// Where routers reach it; empty = not known.
    pub group_address: String,
    /// On the leader: up to where its log is known to match.
    pub matched_index: Option<u64>,
    /// On the leader: entries it is behind; none until the member has answered this leader.
    pub lag: Option<u64>,
}

/// A node in no cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitingDocument {
    /// Whether it wants to form one.
    pub bootstrap: bool,
    /// Whose wish to form one it has noted.
    pub claim: Option<u64>,
    /// Why it waits, as its log says; null = nothing is known yet, or version 0.1.0.
    pub reason: Option<String>,
}

/// The answer to a change that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What came of it, in words.
    pub result: String,
    /// It goes on in the background (202).
    #[serde(default)]
    pub pending: bool,
}
