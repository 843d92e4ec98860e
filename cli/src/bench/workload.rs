//! [`Keyspace`]: which keys are used how often, and what their values look like.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

use crate::failure::Failure;

/// Skew of the zipfian choice, as YCSB has it.
const ZIPF_EXPONENT: f64 = 0.99;
/// Odd, so that multiplying by it permutes the keys; large, so that popular keys are far apart.
const SCATTER: u64 = 0x9E37_79B9_7F4A_7C15;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Writes only
    Put,
    /// Reads only
    Get,
    /// Writes and reads, see --reads-percent
    Mixed,
}

impl Workload {
    /// Whether there must be something to read first.
    pub(super) fn reads(self) -> bool {
        self != Workload::Put
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
        }
    }
}

/// How often each key is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// Every key equally often
    Uniform,
    /// Few keys very often, most keys seldom (exponent 0.99)
    Zipfian,
}

/// The keys of a run and the values that belong under them.
#[derive(Debug)]
pub(super) struct Keyspace {
    keys: Vec<Bytes>,
    value_size: usize,
    zipf: Option<Zipf<f64>>,
    seed: u64,
}

impl Keyspace {
    pub(super) fn new(
        keys: u32,
        value_size: usize,
        distribution: Distribution,
        seed: u64,
    ) -> Result<Arc<Self>, Failure> {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian => Some(Zipf::new(f64::from(keys), ZIPF_EXPONENT).map_err(Failure::usage)?),
        };
        let keys = (0..keys).map(|key| format!("bench-{key:010}").into()).collect();
        Ok(Arc::new(Self { keys, value_size, zipf, seed }))
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn key(&self, index: usize) -> &Bytes {
        &self.keys[index]
    }

    /// A source of choices for one client.
    pub(super) fn random(&self, client: u32) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ (u64::from(client) + 1).wrapping_mul(SCATTER))
    }

    /// Chooses a key.
    pub(super) fn choose(&self, random: &mut StdRng) -> usize {
        match &self.zipf {
            None => random.random_range(0..self.keys.len()),
            Some(zipf) => {
                // Samples are whole numbers from 1 (the most popular) to the number of keys.
                let rank = (zipf.sample(random) as usize).clamp(1, self.keys.len()) - 1;
                // Popular keys would otherwise be neighbours, which is kinder to a sorted store than life is.
                scatter(rank, self.keys.len())
            }
        }
    }

    /// A value for the key; each `nonce` gives another one.
    pub(super) fn value(&self, key: usize, nonce: u64) -> Bytes {
        let mut value = Vec::with_capacity(self.value_size + 8);
        value.extend_from_slice(&nonce.to_le_bytes());
        value.truncate(self.value_size);
        let mut state = self.mix(key, &value);
        while value.len() < self.value_size {
            value.extend_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        value.truncate(self.value_size);
        value.into()
    }

    /// Whether `value` is one that [`value`](Self::value) gives for the key: the first bytes are the nonce, and the
    /// rest follows from them, the key and the seed.
    pub(super) fn is_value_of(&self, key: usize, value: &[u8]) -> bool {
        if value.len() != self.value_size {
            return false;
        }
        let (nonce, rest) = value.split_at(value.len().min(8));
        let mut state = self.mix(key, nonce);
        rest.chunks(8).all(|chunk| chunk == &split_mix(&mut state).to_le_bytes()[..chunk.len()])
    }

    fn mix(&self, key: usize, nonce: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        bytes[..nonce.len()].copy_from_slice(nonce);
        self.seed ^ (key as u64).wrapping_mul(SCATTER) ^ u64::from_le_bytes(bytes).rotate_left(17)
    }
}

/// Spreads ranks over the keys, one to one.
fn scatter(rank: usize, keys: usize) -> usize {
    // One to one where the multiplier shares no factor with the number of keys; else the next that does not.
    let mut multiplier = SCATTER % keys as u64;
    while gcd(multiplier.max(1), keys as u64) != 1 || multiplier == 0 {
        multiplier += 1;
    }
    (u128::from(multiplier) * rank as u128 % keys as u128) as usize
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// SplitMix64: good enough to tell values apart, and costs next to nothing.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(SCATTER);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(keys: u32, value_size: usize, distribution: Distribution) -> Arc<Keyspace> {
        Keyspace::new(keys, value_size, distribution, 7).expect("keyspace")
    }

    #[test]
    fn a_value_is_recognized_and_anything_else_is_not() {
        for size in [0, 1, 7, 8, 9, 16, 100, 1000] {
            let space = keyspace(10, size, Distribution::Uniform);
            let value = space.value(3, 42);
            assert_eq!(value.len(), size);
            assert!(space.is_value_of(3, &value), "{size}");
            assert!(!space.is_value_of(3, &[value.as_ref(), b"x"].concat()), "{size}: too long");
            if size > 16 {
                assert!(!space.is_value_of(4, &value), "{size}: another key's");
                assert_ne!(space.value(3, 43), value);
                for place in [0, 8, size - 1] {
                    let mut damaged = value.to_vec();
                    damaged[place] ^= 1;
                    assert!(!space.is_value_of(3, &damaged), "{size}: flipped at {place}");
                }
                let other = Keyspace::new(10, size, Distribution::Uniform, 8).expect("keyspace");
                assert!(!other.is_value_of(3, &value), "{size}: another run's");
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_choices_and_clients_differ() {
        let choices = |client| {
            let space = keyspace(1_000, 8, Distribution::Uniform);
            let mut random = space.random(client);
            (0..20).map(|_| space.choose(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn zipfian_prefers_a_few_keys_and_uniform_does_not() {
        let share_of_the_most_popular = |distribution| {
            let space = keyspace(1_000, 8, distribution);
            let mut random = space.random(0);
            let mut counts = vec![0u32; 1_000];
            for _ in 0..100_000 {
                counts[space.choose(&mut random)] += 1;
            }
            counts.sort_unstable_by(|a, b| b.cmp(a));
            f64::from(counts[..10].iter().sum::<u32>()) / 100_000.0
        };
        // With exponent 0.99 over 1,000 keys, the ten most popular get 2.95 / 7.73 of all.
        let zipfian = share_of_the_most_popular(Distribution::Zipfian);
        assert!((0.34..0.42).contains(&zipfian), "{zipfian}");
        let uniform = share_of_the_most_popular(Distribution::Uniform);
        assert!(uniform < 0.03, "{uniform}");
    }

    #[test]
    fn scattering_is_one_to_one_for_any_number_of_keys() {
        for keys in [1, 2, 3, 10, 16, 97, 1_000, 9_999] {
            let mut seen: Vec<_> = (0..keys).map(|rank| scatter(rank, keys)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..keys).collect::<Vec<_>>(), "{keys}");
        }
    }
}
