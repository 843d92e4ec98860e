//! [`Hashed`]: a key with its hash, which is computed once for all tables that it is looked up in.

use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;

/// How keys are hashed. Clones give the same hashes, others do not; clients choose the keys, and cannot foresee them.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashing(RandomState);

impl Hashing {
    /// The key with its hash.
    pub(super) fn of<'a>(&self, key: &'a [u8]) -> Hashed<'a> {
        Hashed { hash: self.0.hash_one(key), key }
    }
}

/// A key with its hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed<'a> {
    pub(super) hash: u64,
    key: &'a [u8],
}

impl Deref for Hashed<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.key
    }
}
