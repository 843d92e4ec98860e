//! What is there after a crash.

use std::collections::HashMap;
use std::fs;

use raftkv_engine::store::{StateLimits, StoreError};
use raftkv_kv::Proposal;

use crate::store::support::{Harness, Taken, all_of, copy_dir, names, open, payload, set};

#[test]
fn killed_after_any_entry_the_store_holds_exactly_what_was_applied() {
    let mut h = Harness::new();
    let session = h.session();
    for sequence in 1..=12 {
        h.batch(session, sequence, sequence.saturating_sub(2), vec![set(&format!("k{}", sequence % 5), "v")]);
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(h.dir.path(), crashed.path());
        let store = open(crashed.path()).unwrap();
        assert_eq!(store.position(), h.store.position());
        assert_eq!(store.state_hash(), h.store.state_hash());
        store.verify().unwrap();
        assert_eq!(Taken::of(&store), Taken::of(&h.store));
        store.close();
    }
}

#[test]
fn a_journal_cut_anywhere_gives_a_prefix_of_the_entries_and_replay_completes_it() {
    let mut h = Harness::new();
    let mut entries = vec![payload(0, 1, &Proposal::OpenSession)];
    h.clock_ms = 1;
    h.session();
    let mut hashes = HashMap::from([(h.store.position().next_index, h.store.state_hash())]);
    for sequence in 1..=6 {
        let batch = raftkv_kv::Batch {
            session: 1,
            sequence,
            acknowledged_below: 0,
            ops: vec![set(&format!("k{sequence}"), "v")],
        };
        entries.push(payload(h.next, 1, &Proposal::Batch(batch.clone())));
        h.propose(&Proposal::Batch(batch));
        hashes.insert(h.store.position().next_index, h.store.state_hash());
    }
    let journal = "gen-1/0.jnl";
    let bytes = fs::read(h.dir.path().join(journal)).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let (whole, final_hash) = (h.store.position(), h.store.state_hash());
    for cut in (end.saturating_sub(900)..=end).step_by(23) {
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(h.dir.path(), crashed.path());
        fs::write(crashed.path().join(journal), &bytes[..cut]).unwrap();
        let store = open(crashed.path()).unwrap();
        let position = store.position();
        assert!(position.next_index >= 1, "cut at {cut} of {end}: {position:?}");
        assert_eq!(hashes.get(&position.next_index), Some(&store.state_hash()), "cut at {cut}");
        store.verify().unwrap();
        let rest = entries[position.next_index as usize..].to_vec();
        store.apply_blocking(rest).unwrap();
        assert_eq!((store.position(), store.state_hash()), (whole.clone(), final_hash), "cut at {cut}");
        store.close();
    }
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
    assert!(!names(staged.path()).contains(&format!("gen-{token}")), "the staged generation is removed");
    store.verify().unwrap();
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
