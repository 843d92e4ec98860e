//! What a leader does for each request: log entries shared by several proposers, and reads by the leader lease.

pub mod combiner;
pub mod leader_lease;
