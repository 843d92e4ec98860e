//! The shard router process: one HTTP front door over several groups.
//!
//! It keeps nothing that must survive, so any number of routers may run. Two halves share a process:
//!
//! - The **data plane** serves clients. A [`map`] says which group owns which slot; [`group`] speaks to one group over the
//!   nodes that it has at the moment, [`groups`] keeps one such client for each group of the map, and [`backend`] puts
//!   them together behind the HTTP surfaces.
//! - The **control plane**, [`cluster`], keeps the document that the map comes from and moves slots between groups;
//!   [`admin`] is its HTTP interface.

// A test that unwraps says where it failed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod backend;
pub mod cluster;
pub mod config;
pub mod group;
pub mod groups;
pub mod map;
pub mod run;
