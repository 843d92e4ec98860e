//! Exact conversion between JSON and MsgPack: numbers are not rounded, keys are not lost, and no function recurses.

mod read;
mod write;

use std::collections::HashSet;

pub(crate) use read::{Bounds, to_msgpack};
pub(crate) use write::{write_json, write_string};

/// Compares up to eight keys pairwise; more keys go through a hash set.
fn first_duplicate<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone) -> Option<&'a [u8]> {
    const FEW: usize = 8;
    if keys.clone().nth(FEW).is_none() {
        return keys.clone().enumerate().find(|(i, key)| keys.clone().take(*i).any(|k| k == *key)).map(|(_, key)| key);
    }
    let mut seen = HashSet::new();
    keys.into_iter().find(|key| !seen.insert(*key))
}
