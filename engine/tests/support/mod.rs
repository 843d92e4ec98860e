//! A sidecar for tests: a real gRPC `Consensus` server that misbehaves in every way a correct one may.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

mod sidecar;
mod stack;

pub use sidecar::{Fate, TestSidecar};
pub use stack::{Stack, deadline_in, key, set};

/// Random numbers that come again with the seed that is printed.
pub fn seeded() -> rand::rngs::StdRng {
    let seed = std::env::var("RAFTKV_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("RAFTKV_TEST_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}
