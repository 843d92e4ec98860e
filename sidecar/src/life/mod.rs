//! The life of a node: how it joins or forms a cluster, notices its removal, starts anew, and is killed.

pub mod bootstrap;
pub mod kill;
pub mod lifecycle;
pub mod registration;
pub mod removal;
pub mod reseed;
