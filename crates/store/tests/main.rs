//! The promises of the store, one story a test.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

mod damage;
mod data;
mod determinism;
mod exactly_once;
mod footprint;
mod moves;
mod order;
mod reclaim;
mod recovery;
mod shards;
mod slot_time;
mod snapshots;
mod staging;
mod strict;
mod support;
mod version;
