//! [`Seed`]: where a test's randomness comes from.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Set to a seed that was printed, a run makes the same random choices again.
const SEED: &str = "RAFTKV_TEST_SEED";

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

    /// A generator for one purpose; different purposes get independent ones.
    pub fn rng(self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
