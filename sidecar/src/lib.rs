//! The consensus process of a RaftKV node: Raft (openraft) over a write-ahead log, driving a state machine behind gRPC.

pub mod types;
