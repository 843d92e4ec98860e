//! The consensus process of a RaftKV node: Raft (openraft) over a write-ahead log, driving a state machine behind gRPC.

pub mod types;
pub mod engine_client;
pub mod forward;
pub mod network;
pub mod state_machine;
pub mod wire;
pub mod log_store;
pub mod wal;
