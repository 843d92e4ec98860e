//! The consensus process of a RaftKV node: Raft (openraft) over a write-ahead log, driving a state machine behind gRPC.

pub mod barrier;
pub mod bootstrap;
pub mod compaction;
pub mod config;
pub mod consensus_service;
pub mod engine_client;
pub mod forward;
pub mod identity;
pub mod leadership;
pub mod lifecycle;
pub mod log_store;
pub mod management;
pub mod membership;
pub mod membership_plan;
pub mod network;
pub mod node;
pub mod peer_service;
pub mod proposals;
pub mod removal;
pub mod reseed;
pub mod run;
pub mod state_machine;
pub mod status;
pub mod types;
pub mod wal;
pub mod wire;
