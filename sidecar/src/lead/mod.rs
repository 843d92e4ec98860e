//! The work of a leader, and the ways to become one and to give leadership away.

pub mod barrier;
pub(crate) mod candidacy;
pub mod clock;
pub mod compaction;
pub mod leadership;
pub mod membership;
pub(crate) mod narrator;
pub mod outlook;
pub mod proposals;
pub mod standstill;
pub mod versions;
