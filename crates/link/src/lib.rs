//! Streams from a process that serves clients to one that replicates, and what makes them fast and safe.
//!
//! An engine talks to its sidecar over them, a router to the groups behind it. A [`StreamLink`](stream_link::StreamLink)
//! opens again whenever it breaks; the [`proposer`] packs many writers' operations into few proposals and repeats them
//! without applying them twice.

// A test that unwraps says where it failed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod budget;
pub mod peer;
pub mod proposer;
pub mod stream_link;
pub mod trouble;
