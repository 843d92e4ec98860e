//! The promises of the store, one story a test.

mod damage;
mod data;
mod determinism;
mod exactly_once;
mod footprint;
mod moves;
mod order;
mod reclaim;
mod recovery;
mod service;
mod shards;
mod slot_time;
mod snapshots;
mod staging;
mod strict;
mod support;
mod version;
