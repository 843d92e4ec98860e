//! The types openraft is made of here: one place that hides its generics.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// RaftKV's choice of openraft's types.
    pub TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = Member,
);

/// A raft id: random, made at a node's first start, never reused.
pub type NodeId = u64;
/// A position in the log with the leader that made it.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The leader of a term.
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// A vote, granted or not.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type EntryPayload = openraft::alias::EntryPayloadOf<TypeConfig>;
/// A membership with the log id it was stored at.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A membership.
pub type Membership = openraft::Membership<NodeId, Member>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// What a log entry asks of the state machine: one proposal or several, and the leader's clock.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The leader's wall clock when it proposed this, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The group's clock then, in milliseconds; 0 = not stamped, as below the cluster version that has one.
    pub group_clock_ms: u64,
    /// At least one, but in an entry that only stamps the group's clock; in the order they are applied in; each in the engine's own encoding.
    pub payloads: Vec<Bytes>,
}

impl Command {
    /// Bytes of all payloads.
    pub fn payload_bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} payloads, {} bytes)", self.payloads.len(), self.payload_bytes())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The state machine's opaque answers: one to each payload, one empty one to an entry without.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer(pub Vec<Bytes>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.iter().map(Bytes::len).sum::<usize>())
    }
}

/// A member of the group, as the replicated membership keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// The operator's name for it (NODE_ID); unique among the members.
    pub name: String,
    /// host:port of its raft listener.
    pub raft_address: String,
    /// host:port of its management API.
    pub management_address: String,
    /// host:port of its engine's HTTP API.
    pub http_address: String,
    /// host:port of its engine's Group service; empty = not known, as in what older versions wrote.
    #[serde(default)]
    pub group_address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.raft_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::wire;

    /// As versions wrote it that knew no routers: in logs, snapshots and the engine's store.
    const OLD_MEMBER: &str =
        r#"{"name":"n1","raft_address":"n1:8088","management_address":"n1:6000","http_address":"n1:8080"}"#;

    #[test]
    fn members_that_older_versions_wrote_are_read() {
        let member: Member = serde_json::from_str(OLD_MEMBER).expect("readable");
        assert_eq!((member.http_address.as_str(), member.group_address.as_str()), ("n1:8080", ""));
        let membership = format!(r#"{{"configs":[[1]],"nodes":{{"1":{OLD_MEMBER}}}}}"#);
        let read = wire::parse_membership(membership.as_bytes()).expect("readable");
        assert_eq!(read.get_node(&1), Some(&member));
        let stored = format!(r#"{{"log_id":null,"membership":{membership}}}"#);
        let read = wire::parse_stored_membership(stored.as_bytes()).expect("readable");
        assert_eq!(read.get_node(&1), Some(&member));
    }

    #[test]
    fn older_versions_read_what_is_written_now() {
        /// As it was.
        #[derive(Deserialize)]
        struct Old {
            name: String,
            http_address: String,
        }
        let now = Member { name: "n1".to_owned(), group_address: "n1:50053".to_owned(), ..Member::default() };
        let text = serde_json::to_string(&now).expect("text");
        assert!(text.contains("n1:50053"));
        let old: Old = serde_json::from_str(&text).expect("readable");
        assert_eq!((old.name.as_str(), old.http_address.as_str()), ("n1", ""));
    }
}
