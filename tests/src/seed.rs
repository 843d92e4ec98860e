//! [`Seed`]: where a test's randomness comes from.

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Set to a seed that was printed, a run makes the same random choices again.
const SEED: &str = "RAFTKV_TEST_SEED";

/// How many clients the tests of moving slots have.
const CLIENTS: &str = "RAFTKV_TEST_CLIENTS";
/// Enough to meet a move at every moment, few enough for a small machine.
const DEFAULT_CLIENTS: usize = 16;
/// Set to 1, nothing is left to the seed.
const FULL: &str = "RAFTKV_TEST_FULL";

/// The number of clients asked for in the environment.
pub fn clients_from_env() -> anyhow::Result<usize> {
    match std::env::var(CLIENTS) {
        Ok(text) => text.parse().with_context(|| format!("{CLIENTS}={text:?} is no number")),
        Err(_) => Ok(DEFAULT_CLIENTS),
    }
}

/// Whether every combination is to be tested, instead of some chosen by the seed.
pub fn full_from_env() -> bool {
    std::env::var(FULL).is_ok_and(|full| full == "1")
}

/// The source of a test's random choices, printed so that they can be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The one asked for in the environment, else a new one. Prints it.
    pub fn from_env() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|error| panic!("{SEED}={text:?} is no seed: {error}")),
            Err(_) => rand::random(),
        };
        println!("seed: replay with {SEED}={seed}");
        Self(seed)
    }

    /// A seed for one part of a test; different parts get independent ones.
    pub fn part(self, number: u64) -> Self {
        Self(self.0.wrapping_add(number.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    /// A generator for one purpose; different purposes get independent ones.
    pub fn rng(self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
