//! The shard router process: one HTTP front door over several groups.
//!
//! A router keeps no durable state, so any number of routers may run. Two halves share a process:
//!
//! - the **data plane**, [`data`], carries the requests of clients to the groups that own the keys;
//! - the **control plane**, [`control`], keeps the cluster document and moves slots between groups. It uses the data plane's clients of groups;
//!   the data plane does not depend on the control plane.

// A test that unwraps says where it failed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod control;
pub mod data;
pub mod run;
