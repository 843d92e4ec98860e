//! [`Seed`]: source of a test's random choices.

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Set to a printed seed to replay the same random choices.
const SEED: &str = "RAFTKV_TEST_SEED";

/// Number of clients in the tests of moving slots.
const CLIENTS: &str = "RAFTKV_TEST_CLIENTS";
/// Enough to hit every moment of a move, few enough for a small machine.
const DEFAULT_CLIENTS: usize = 16;
/// Set to 1 to test every combination.
const FULL: &str = "RAFTKV_TEST_FULL";

/// Number of clients from the environment.
pub fn clients_from_env() -> anyhow::Result<usize> {
    match std::env::var(CLIENTS) {
        Ok(text) => text.parse().with_context(|| format!("{CLIENTS}={text:?} is no number")),
        Err(_) => Ok(DEFAULT_CLIENTS),
    }
}

/// Whether to test every combination instead of a random selection.
pub fn full_from_env() -> bool {
    std::env::var(FULL).is_ok_and(|full| full == "1")
}

/// The seed of a test's random choices, printed for replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The seed from the environment, else a random seed. Prints the seed.
    pub fn from_env() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|error| panic!("{SEED}={text:?} is no seed: {error}")),
            Err(_) => rand::random(),
        };
        println!("seed: replay with {SEED}={seed}");
        Self(seed)
    }

    /// An independent seed for a part of a test.
    pub fn part(self, number: u64) -> Self {
        Self(self.0.wrapping_add(number.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    /// An independent random generator for a purpose.
    pub fn rng(self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
