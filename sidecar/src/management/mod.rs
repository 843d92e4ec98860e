//! The management API: HTTP on every node, for operators, probes, joining nodes and other sidecars.

mod browsers;
mod client;
mod handlers;
mod json;
mod metrics;
mod places;
mod problem;
mod route;
mod server;
mod upgrade;
mod write_timeout;

pub use client::{CallError, Joiner, ManagementClient, Pass};
pub use handlers::{Management, router};
pub use json::Json;
pub use metrics::scrapes;
pub use problem::Problem;
#[cfg(test)]
pub(crate) use server::limits;
pub use server::{MOST_CONNECTIONS, serve};
pub use upgrade::{MemberVersions, Spoken, UpgradeDocument};

use serde::{Deserialize, Serialize};

/// Marks a request that another node forwarded: never forwarded again.
pub const FORWARDED_HEADER: &str = "raftkv-forwarded";
/// On `/join` from a node that asks for itself: its raft id and incarnation.
pub const JOINER_HEADER: &str = "raftkv-joiner";
/// Code of a problem: another node answers at the address that a node gives as its own.
pub const ADDRESS_IN_USE: &str = "address_in_use";
/// On `GET /status` from a node that wants to form a cluster: its raft id.
pub const BOOTSTRAP_CLAIM_HEADER: &str = "raftkv-bootstrap-claim";

/// The answer to a change that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What came of it, in words.
    pub result: String,
    /// It goes on in the background (202).
    #[serde(default)]
    pub pending: bool,
}
