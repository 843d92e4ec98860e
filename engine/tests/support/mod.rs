//! A sidecar for tests: a real gRPC `Consensus` server that misbehaves in every way a correct one may.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

mod sidecar;
mod stack;

pub use sidecar::{Fate, TestSidecar};
pub use stack::{Stack, deadline_in, key, set};

/// Longer than anything takes that works.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits until it is so.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Random numbers that come again with the seed that is printed.
pub fn seeded() -> rand::rngs::StdRng {
    let seed = std::env::var("RAFTKV_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("RAFTKV_TEST_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}
