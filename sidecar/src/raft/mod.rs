//! What consensus is made of: types, their form on the wire, the log, and what this node knows as a member or as the leader.

pub mod acks;
pub mod ballot;
pub(crate) mod config;
pub mod group_clock;
pub mod handover;
pub mod keeper;
pub mod log_store;
pub mod progress;
pub mod timing;
pub mod types;
pub mod wire;
