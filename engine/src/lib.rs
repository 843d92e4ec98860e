//! The engine process of a RaftKV node.

pub mod state_machine;
pub mod store;
