//! The write-ahead log and openraft's log store on it.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, missing_docs)]

mod damage;
mod durability;
mod fixture;
mod measure;
mod model;
mod no_room;
mod suite;
mod support;
mod torn;
