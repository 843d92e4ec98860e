//! The servers: for the engine of this node, for peers, and for operators.

pub mod consensus_service;
pub mod management;
pub mod peer_service;
pub mod status;
