//! A sidecar for tests: a real gRPC `Consensus` server that misbehaves in every way a correct one may.

// Each test file uses a part of it.
#![allow(dead_code)]

mod sidecar;
mod stack;

pub use sidecar::{Behaviour, Fate, TestSidecar};
pub use stack::{Stack, deadline_in, key, set};
