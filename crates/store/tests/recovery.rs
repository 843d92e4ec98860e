//! What is there after a crash.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use raftkv_kv::{Batch, Proposal};
use raftkv_store::{ApplyEntry, StateLimits, StoreError};

use crate::support::{Harness, Taken, all_of, copy_dir, delete, names, open, payload, set, set_until};

/// A log of batches, and what the state is after each of its entries.
fn written(h: &mut Harness) -> (Vec<ApplyEntry>, HashMap<u64, u64>) {
    let mut entries = vec![payload(0, h.clock_ms, &Proposal::OpenSession)];
    h.session();
    let mut hashes = HashMap::from([(0, Harness::new().store.state_hash()), (1, h.store.state_hash())]);
    for sequence in 1..=24 {
        let key = format!("k{}", sequence % 5);
        let op = match sequence % 4 {
            0 => delete(&key),
            1 => set_until(&key, "v", 1_500 + sequence),
            _ => set(&key, &"v".repeat(sequence as usize)),
        };
        h.clock_ms += 40;
        let batch = Batch { session: 1, sequence, acknowledged_below: sequence.saturating_sub(2), ops: vec![op] };
        entries.push(payload(h.next, h.clock_ms, &Proposal::Batch(batch.clone())));
        h.propose(&Proposal::Batch(batch));
        hashes.insert(h.next, h.store.state_hash());
    }
    (entries, hashes)
}

/// The store is the state after some entry, and the entries after that make it whole again.
fn is_made_whole(dir: &Path, h: &Harness, entries: &[ApplyEntry], hashes: &HashMap<u64, u64>) -> u64 {
    let store = open(dir).unwrap();
    let next = store.position().next_index;
    assert_eq!(hashes.get(&next), Some(&store.state_hash()), "at {next}");
    store.verify().unwrap();
    if next < h.next {
        store.apply_blocking(entries[next as usize..h.next as usize].to_vec()).unwrap();
    }
    assert_eq!((store.position(), store.state_hash()), (h.store.position(), h.store.state_hash()));
    assert_eq!(Taken::of(&store), Taken::of(&h.store));
    store.close();
    next
}

#[test]
fn killed_after_any_entry_the_store_is_what_was_flushed_and_replay_makes_it_whole() {
    let (entries, hashes) = written(&mut Harness::new());
    // So small that a few entries fill it.
    let mut h = Harness::flushing(StateLimits::default(), 2_000);
    let mut found = HashSet::new();
    for entry in &entries {
        h.clock_ms = entry.clock_ms;
        h.try_entry(entry.kind.clone()).unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(h.dir.path(), crashed.path());
        found.insert(is_made_whole(crashed.path(), &h, &entries, &hashes));
    }
    assert!(found.len() > 3, "it was never flushed: {found:?}");
}

#[test]
fn what_was_persisted_is_there_whatever_comes_after() {
    let mut h = Harness::new();
    let (entries, hashes) = written(&mut h);
    let mut next = 0;
    for persisted in [3, 4, 11, 20] {
        let half = Harness::new();
        half.store.apply_blocking(entries[..persisted].to_vec()).unwrap();
        assert_eq!(half.store.persist().unwrap(), half.store.position());
        half.store.apply_blocking(entries[persisted..].to_vec()).unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(half.dir.path(), crashed.path());
        next = is_made_whole(crashed.path(), &h, &entries, &hashes);
        assert_eq!(next, persisted as u64);
    }
    assert!(next < h.next);
}

#[test]
fn a_store_that_is_closed_has_nothing_to_be_applied_again() {
    let mut h = Harness::new();
    let (entries, hashes) = written(&mut h);
    h.store.close();
    let copy = tempfile::tempdir().unwrap();
    copy_dir(h.dir.path(), copy.path());
    assert_eq!(is_made_whole(copy.path(), &h, &entries, &hashes), h.next);
}

#[test]
fn a_second_process_is_kept_out() {
    let h = Harness::new();
    assert!(matches!(open(h.dir.path()), Err(StoreError::Locked { .. })));
}

#[test]
fn crashes_around_the_switch_leave_the_old_or_the_new_state() {
    let mut source = Harness::new();
    source.ops((0..50).map(|i| set(&format!("k{i}"), "new")).collect());
    let taken = Taken::of(&source.store);

    let mut h = Harness::new();
    h.op(set("old", "old"));
    h.store.persist().unwrap();
    let old_hash = h.store.state_hash();
    let token = taken.stage(&h.store).unwrap();
    let staged = tempfile::tempdir().unwrap();
    copy_dir(h.dir.path(), staged.path());
    let position = futures::executor::block_on(h.store.activate(token)).unwrap();
    assert_eq!(position, source.store.position());
    let new_hash = h.store.state_hash();
    assert_eq!(new_hash, source.store.state_hash());

    // Staged, not switched: with a half-written CURRENT.next beside it.
    fs::write(staged.path().join("CURRENT.next"), "raftkv-st").unwrap();
    let with_new = tempfile::tempdir().unwrap();
    copy_dir(staged.path(), with_new.path());
    let store = open(staged.path()).unwrap();
    assert_eq!(store.state_hash(), old_hash);
    store.verify().unwrap();
    // Whoever knows the token may still have it made live.
    assert_eq!(futures::executor::block_on(store.activate(token)).unwrap(), position);
    assert_eq!(store.state_hash(), new_hash);
    store.close();

    // Switched, the old one not removed yet.
    fs::write(with_new.path().join("CURRENT"), format!("raftkv-store 1\ngen-{token}\n")).unwrap();
    let store = open(with_new.path()).unwrap();
    assert_eq!(store.state_hash(), new_hash);
    assert_eq!(names(with_new.path()).iter().filter(|name| name.starts_with("gen-")).count(), 1);
    store.verify().unwrap();
    store.close();

    // And the live one goes on, also after a restart.
    h.next = source.next;
    h.op(set("after", "v"));
    let hash = h.store.state_hash();
    h.reopen(StateLimits::default());
    assert_eq!(h.store.state_hash(), hash);
    assert!(h.get("old").is_none() && h.get("after").is_some());
    h.store.verify().unwrap();
}

#[test]
fn a_directory_of_another_version_is_refused_and_untouched() {
    let h = Harness::new();
    let copy = tempfile::tempdir().unwrap();
    copy_dir(h.dir.path(), copy.path());
    fs::write(copy.path().join("CURRENT"), "raftkv-store 9\ngen-1\n").unwrap();
    let before = names(copy.path());
    assert!(matches!(open(copy.path()), Err(StoreError::Unsupported(_))));
    assert_eq!(names(copy.path()), before);
}

#[test]
fn a_damaged_state_is_put_aside_and_a_snapshot_makes_the_node_whole() {
    let mut h = Harness::new();
    h.ops((0..20).map(|i| set(&format!("k{i}"), "v")).collect());
    let taken = Taken::of(&h.store);
    for damage in ["version", "keyspaces/0/current", "keyspaces/1/current", "gone"] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(h.dir.path(), copy.path());
        if damage == "gone" {
            fs::remove_dir_all(copy.path().join("gen-1")).unwrap();
        } else {
            fs::write(copy.path().join("gen-1").join(damage), b"garbage").unwrap();
        }
        let store = open(copy.path()).unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert_eq!(store.position().next_index, 0, "{damage}");
        assert_eq!(all_of(&store).unwrap(), []);
        taken.install(&store);
        assert_eq!(store.state_hash(), h.store.state_hash());
        store.close();
        drop(store);
        let store = open(copy.path()).unwrap();
        assert_eq!(store.state_hash(), h.store.state_hash(), "{damage}");
        let aside = names(copy.path()).iter().filter(|name| name.starts_with("damaged-")).count();
        assert_eq!(aside, usize::from(damage != "gone"), "{damage}");
        store.close();
    }
}
