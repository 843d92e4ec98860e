//! The engine process of a RaftKV node: the data, and the HTTP API in front of the data.
//!
//! The engine owns the store ([`raftkv_store`]) and serves the [`state_machine`] service, used by the sidecar to apply
//! committed entries. In the other direction, the [`proposer`] packs writes into batches for the sidecar's `Consensus`
//! service, and the [`barrier`] lanes determine the index a read must wait for. [`backend`] connects these parts to the
//! HTTP surfaces, [`group`] to the service for routers of a sharded store; [`upgrade`] raises the cluster version, and
//! [`run`] starts and stops all parts.

pub mod backend;
pub mod barrier;
pub mod config;
pub mod consensus_client;
pub mod disk_guard;
pub mod group;
#[cfg(test)]
mod limits_page;
mod membership;
pub mod run;
pub mod state_machine;
pub mod upgrade;

// Re-exports under the module names used in this crate.
pub use raftkv_link::proposer;
use raftkv_link::{backoff, budget, stream_link, trouble};
