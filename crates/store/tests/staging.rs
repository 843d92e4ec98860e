//! Snapshots that were received and are not live yet: there after every restart, whole, or not at all.

use std::fs;
use std::path::Path;

use raftkv_store::{Position, SnapshotPart, StateLimits, Store, StoreError};

use crate::support::{Harness, Taken, copy_dir, files, names, open, set};

/// A snapshot, and the hash of its state.
fn taken() -> (Taken, u64) {
    let mut source = Harness::new();
    source.ops((0..200).map(|i| set(&format!("k{i}"), &"new".repeat(i))).collect());
    (Taken::of(&source.store), source.store.state_hash())
}

/// A store that has something else, durably.
fn live() -> Harness {
    let mut h = Harness::new();
    h.op(set("old", "old"));
    h.store.persist().unwrap();
    h
}

fn activate(store: &Store, token: u64) -> Result<Position, StoreError> {
    futures::executor::block_on(store.activate(token))
}

/// What a kill leaves of `dir` now.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn generations(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.starts_with("gen-")).count()
}

#[test]
fn killed_at_any_moment_the_snapshot_is_there_or_not_and_nothing_in_between() {
    let (taken, new_hash) = taken();
    let h = live();
    let old_hash = h.store.state_hash();
    let mut moments = Vec::new();
    let mut parts = taken.parts.clone().into_iter();
    let token = h
        .store
        .stage_snapshot(&taken.header, || {
            moments.push(killed(h.dir.path()));
            parts.next()
        })
        .unwrap();
    assert!(moments.len() >= 3, "before each part, and before the end");
    for (moment, dir) in moments.iter().enumerate() {
        let store = open(dir.path()).unwrap();
        assert_eq!((store.state_hash(), generations(dir.path())), (old_hash, 1), "part {moment}");
        assert!(matches!(activate(&store, token), Err(StoreError::SnapshotRefused(_))), "part {moment}");
        store.close();
    }

    // From here on the sender has the token.
    let staged = killed(h.dir.path());
    activate(&h.store, token).unwrap();
    let switched = killed(h.dir.path());
    for restarts in 1..=3 {
        let store = open(staged.path()).unwrap();
        assert_eq!((store.state_hash(), generations(staged.path())), (old_hash, 2), "{restarts} restarts");
        store.close();
    }
    let store = open(staged.path()).unwrap();
    assert_eq!(activate(&store, token).unwrap(), taken.header.position);
    assert_eq!(activate(&store, token).unwrap(), taken.header.position, "asked again");
    assert_eq!(store.state_hash(), new_hash);
    store.verify().unwrap();
    store.close();
    drop(store);
    for dir in [staged.path(), switched.path()] {
        // As if it had died before it took the note away.
        fs::write(dir.join(format!("gen-{token}/STAGED")), "raftkv-staged 1\nnext-index 1\n").unwrap();
        let store = open(dir).unwrap();
        assert_eq!((store.state_hash(), generations(dir)), (new_hash, 1));
        assert_eq!(activate(&store, token).unwrap(), taken.header.position, "the answer was lost");
        assert!(!dir.join(format!("gen-{token}/STAGED")).exists());
        store.close();
    }
}

#[test]
fn a_note_that_was_not_written_to_the_end_counts_for_nothing() {
    let (taken, _) = taken();
    let h = live();
    let token = taken.stage(&h.store).unwrap();
    let whole = fs::read(h.dir.path().join(format!("gen-{token}/STAGED"))).unwrap();
    for end in [0, 1, whole.len() / 2, whole.len() - 1] {
        let dir = killed(h.dir.path());
        fs::write(dir.path().join(format!("gen-{token}/STAGED")), &whole[..end]).unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!((store.state_hash(), generations(dir.path())), (h.store.state_hash(), 1), "cut at {end}");
        assert!(matches!(activate(&store, token), Err(StoreError::SnapshotRefused(_))));
        store.close();
    }
}

#[test]
fn a_staged_snapshot_that_was_damaged_never_goes_live() {
    let (taken, new_hash) = taken();
    let mut h = live();
    let old_hash = h.store.state_hash();
    let token = taken.stage(&h.store).unwrap();
    let generation = format!("gen-{token}");
    let of_staged = files(&h.dir.path().join(&generation));
    let mut refused = 0;
    for file in of_staged {
        let name = file.strip_prefix(h.dir.path()).unwrap();
        let len = fs::metadata(&file).unwrap().len() as usize;
        if name.ends_with("STAGED") || len == 0 {
            continue;
        }
        for at in [0, len / 3, len / 2, len - 1] {
            let dir = killed(h.dir.path());
            let mut bytes = fs::read(dir.path().join(name)).unwrap();
            bytes[at] ^= 0x10;
            fs::write(dir.path().join(name), bytes).unwrap();
            let store = open(dir.path()).unwrap();
            match activate(&store, token) {
                // Bytes that say nothing, such as the rest of a journal.
                Ok(position) => {
                    assert_eq!((position, store.state_hash()), (taken.header.position.clone(), new_hash), "{name:?}");
                    store.verify().unwrap();
                }
                Err(StoreError::SnapshotDamaged(_)) => {
                    assert_eq!((store.state_hash(), generations(dir.path())), (old_hash, 1), "{name:?} {at}");
                    // The node goes on, and another snapshot helps.
                    taken.install(&store);
                    assert_eq!(store.state_hash(), new_hash);
                    refused += 1;
                }
                Err(StoreError::Unsupported(_)) => refused += 1,
                Err(error) => panic!("{name:?} {at}: {error:?}"),
            }
            store.close();
        }
    }
    assert!(refused > 0, "no damage was noticed");
    // One whose note is of another snapshot.
    h.reopen(StateLimits::default());
    let dir = killed(h.dir.path());
    fs::write(dir.path().join(&generation).join("STAGED"), "raftkv-staged 1\nnext-index 99\n").unwrap();
    let store = open(dir.path()).unwrap();
    assert!(matches!(activate(&store, token), Err(StoreError::SnapshotDamaged(_))));
    assert_eq!(store.state_hash(), old_hash);
    store.close();
}

#[test]
fn what_can_never_go_live_is_removed_and_its_token_means_nothing_else() {
    let (taken, _) = taken();
    let mut h = live();
    let token = taken.stage(&h.store).unwrap();
    assert_eq!(generations(h.dir.path()), 2);
    while h.next <= taken.header.position.next_index {
        h.blank();
    }
    let beyond = killed(h.dir.path());
    h.store.persist().unwrap();
    assert_eq!(generations(h.dir.path()), 1, "the live state is beyond it");
    assert!(matches!(activate(&h.store, token), Err(StoreError::SnapshotRefused(_))));
    // What is not durable is lost in a crash: then it is of use again.
    let store = open(beyond.path()).unwrap();
    assert_eq!(generations(beyond.path()), 2);
    assert_eq!(activate(&store, token).unwrap(), taken.header.position);
    store.close();

    let other = live();
    let first = taken.stage(&other.store).unwrap();
    let second = taken.stage(&other.store).unwrap();
    let restarted = killed(other.dir.path());
    let store = open(restarted.path()).unwrap();
    let third = taken.stage(&store).unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
    assert!(matches!(activate(&store, second), Err(StoreError::SnapshotRefused(_))));
    // Broken off: what was staged before is gone, and nothing is there instead.
    let mut cut = taken.parts[..1].iter().cloned();
    let broken = store.stage_snapshot(&taken.header, || cut.next());
    assert!(matches!(broken, Err(StoreError::SnapshotDamaged(_))), "{broken:?}");
    assert_eq!(generations(restarted.path()), 1);
    store.close();
}

#[test]
fn a_staged_snapshot_mends_a_node_whose_live_state_is_damaged() {
    let (taken, new_hash) = taken();
    let h = live();
    let token = taken.stage(&h.store).unwrap();
    let dir = killed(h.dir.path());
    fs::write(dir.path().join("gen-1/version"), b"garbage").unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.position().next_index, 0);
    assert_eq!(activate(&store, token).unwrap(), taken.header.position);
    assert_eq!(store.state_hash(), new_hash);
    store.close();
    drop(store);
    // And one whose pointer is gone: the staged one never was live.
    let dir = killed(h.dir.path());
    fs::remove_file(dir.path().join("CURRENT")).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.state_hash(), h.store.state_hash());
    assert!(matches!(taken.parts[0], SnapshotPart::Frame(_)));
    store.close();
}
