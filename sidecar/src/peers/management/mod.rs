//! The management API of other nodes: the client, and what it exchanges with them.

mod client;
mod documents;
mod problem;

pub use client::{CallError, Joiner, ManagementClient, Pass};
pub use documents::{Changed, EngineDocument, MemberDocument, NodeDocument, StatusDocument, WaitingDocument};
pub use problem::Problem;

/// Marks a request that another node forwarded: never forwarded again.
pub const FORWARDED_HEADER: &str = "raftkv-forwarded";
/// On `/join` from a node that asks for itself: its raft id and incarnation.
pub const JOINER_HEADER: &str = "raftkv-joiner";
/// Code of a problem: another node answers at the address that a node gives as its own.
pub const ADDRESS_IN_USE: &str = "address_in_use";
/// On `GET /status` from a node that wants to form a cluster: its raft id.
pub const BOOTSTRAP_CLAIM_HEADER: &str = "raftkv-bootstrap-claim";
