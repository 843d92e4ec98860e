//! What goes into the store and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use raftkv_kv::Ownership;
use raftkv_proto::ClusterVersion;

/// How far the state machine has applied. Log id and membership are opaque: the store knows no Raft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Every entry with an index below this one is applied; 0 = none.
    pub next_index: u64,
    /// The log id of the last applied entry; empty = none.
    pub log_id: Bytes,
    /// The last applied membership; empty = none.
    pub membership: Bytes,
}

/// One committed entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyEntry {
    /// Its index; entries come without gaps.
    pub index: u64,
    /// Its log id, opaque.
    pub log_id: Bytes,
    /// The leader's wall clock when it was proposed, in milliseconds since the Unix epoch. It decides only below the cluster version
    /// that introduces the group's clock.
    pub clock_ms: u64,
    /// The group's clock then, in milliseconds; 0 = not stamped.
    pub group_clock_ms: u64,
    /// What it says.
    pub kind: EntryKind,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// An encoded [`raftkv_kv::Proposal`].
    Payload(Bytes),
    /// Several, applied in order and together. None in an entry that only stamps the clock.
    Payloads(Vec<Bytes>),
    /// A change of membership, opaque.
    Membership(Bytes),
    /// Nothing but its position.
    Blank,
}

/// What applying a request gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The position after the request.
    pub next_index: u64,
    /// One encoded [`raftkv_kv::Answer`] per payload, in order, and an empty one for each entry without; all empty for
    /// entries applied before.
    pub answers: Vec<Bytes>,
}

/// Figures for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Where it stands.
    pub position: Position,
    /// The cluster version.
    pub version: ClusterVersion,
    /// The revision counter: the number of effective writes since the group began.
    pub revision: u64,
    /// Keys stored. Includes keys that have expired and were not swept yet.
    pub keys: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Outcomes kept for `Idempotency-Key`.
    pub idempotency_records: u64,
    /// The replicated clock, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// What [`Store::state_hash`](super::Store::state_hash) gives: equal on replicas at the same position.
    pub state_hash: u64,
    /// Bytes allocated on the disk by the store's directory.
    pub disk_bytes: u64,
    /// Bytes an unprivileged process may still write on that file system.
    pub disk_free_bytes: u64,
    /// Number of the live generation.
    pub generation: u64,
    /// What the group owns.
    pub ownership: Arc<Ownership>,
}
