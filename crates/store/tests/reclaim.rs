//! Removed values give their space back without a wait for enough flushes.

use raftkv_store::StateLimits;

use crate::support::{Harness, all_of, delete, set};

const KEYS: u64 = 600;
const VALUE_BYTES: u64 = 20_000;

fn name(n: u64) -> String {
    format!("key-{n:06}")
}

/// Does not compress.
fn noise(mut x: u64) -> String {
    (0..VALUE_BYTES)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(33 + ((x >> 33) % 90) as u8)
        })
        .collect()
}

fn filled() -> Harness {
    let mut harness = Harness::flushing(StateLimits::default(), 1024 * 1024);
    for n in 0..KEYS {
        harness.op(set(&name(n), &noise(n)));
    }
    harness.store.persist().unwrap();
    harness
}

/// What is on the disk without the journal, which is made at the start and stays empty.
fn disk_bytes(harness: &Harness) -> u64 {
    harness.store.status().unwrap().disk_bytes
}

/// Tries until nothing is left to do: the store's own compactions come in between. Gives the bytes freed.
fn reclaimed(harness: &Harness) -> u64 {
    let mut bytes = 0;
    for _ in 0..100 {
        let reclaimed = harness.store.reclaim(|| true).unwrap();
        bytes += reclaimed.bytes;
        if reclaimed.is_done {
            return bytes;
        }
    }
    panic!("there is always something left to do");
}

#[test]
fn a_store_whose_values_are_all_removed_shrinks_at_once() {
    let mut harness = filled();
    let full = disk_bytes(&harness);
    for n in 0..KEYS {
        harness.op(delete(&name(n)));
    }
    let freed = reclaimed(&harness);
    let left = disk_bytes(&harness);
    assert!(freed > KEYS * VALUE_BYTES / 2, "{freed} bytes were freed");
    assert!(left < full / 10, "{left} of {full} bytes are left");
    assert_eq!(all_of(&harness.store).unwrap(), []);
    harness.store.verify().unwrap();
    harness.reopen(StateLimits::default());
    assert_eq!(all_of(&harness.store).unwrap(), []);
}

#[test]
fn every_second_value_that_is_removed_gives_its_space_back_and_the_others_stay() {
    let mut harness = filled();
    let full = disk_bytes(&harness);
    for n in (0..KEYS).step_by(2) {
        harness.op(delete(&name(n)));
    }
    reclaimed(&harness);
    let left = disk_bytes(&harness);
    assert!(left < full * 7 / 10, "{left} of {full} bytes are left");
    let before = harness.store.state_hash();
    harness.store.verify().unwrap();
    harness.reopen(StateLimits::default());
    assert_eq!(harness.store.state_hash(), before);
    assert_eq!(all_of(&harness.store).unwrap().len() as u64, KEYS / 2);
    for n in 0..KEYS {
        assert_eq!(harness.get(&name(n)).is_some(), n % 2 == 1, "key {n}");
    }
}
