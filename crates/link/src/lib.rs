//! Streams from a client-facing process to a replicating process, optimized for throughput and safe retries.
//!
//! Used between an engine and the sidecar, and between a router and the groups. A
//! [`StreamLink`](stream_link::StreamLink) reopens after each failure; the [`proposer`] packs operations of many
//! writers into few proposals and resends proposals without applying any twice.

// An unwrap in a test reports the location of the failure.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod budget;
pub mod peer;
pub mod proposer;
pub mod stream_link;
pub mod trouble;
