//! The engine process of a RaftKV node: the data, and the HTTP API in front of it.
//!
//! It owns the store ([`raftkv_store`]) and serves the [`state_machine`] service that the sidecar applies committed entries through.
//! Writes go the other way: the [`proposer`] packs them into batches for the sidecar's `Consensus` service, and reads
//! ask the [`barrier`] lanes how far they must have applied. [`backend`] puts that behind the HTTP surfaces, [`group`]
//! behind the service that routers of a sharded store speak; an [`upgrade`] raises the cluster version, and [`run`] starts and
//! stops it all.

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

// Under the names that the modules here know.
pub use raftkv_link::proposer;
use raftkv_link::{backoff, budget, stream_link, trouble};
