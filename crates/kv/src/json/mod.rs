//! JSON to MsgPack and back, exactly: no number is rounded, no key is lost, nothing recurses.

mod read;
mod write;

use std::collections::HashSet;

pub(crate) use read::{Bounds, to_msgpack};
pub(crate) use write::{write_json, write_string};

/// Few keys are compared with one another; many go through a hash set.
fn first_duplicate<'a>(keys: impl Iterator<Item = &'a [u8]> + Clone) -> Option<&'a [u8]> {
    const FEW: usize = 8;
    if keys.clone().nth(FEW).is_none() {
        return keys.clone().enumerate().find(|(i, key)| keys.clone().take(*i).any(|k| k == *key)).map(|(_, key)| key);
    }
    let mut seen = HashSet::new();
    keys.into_iter().find(|key| !seen.insert(*key))
}
