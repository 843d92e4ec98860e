//! A sidecar for tests: a real gRPC `Consensus` server that misbehaves in every way a correct one may.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

mod sidecar;
mod stack;

pub use sidecar::{Fate, TestSidecar};
pub use stack::{Stack, deadline_in, key, set};
