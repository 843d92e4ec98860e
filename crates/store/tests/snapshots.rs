//! Snapshots: whole, or refused with nothing left behind.

use bytes::Bytes;
use raftkv_kv::{Answer, Outcome};
use raftkv_store::{SnapshotPart, StateLimits, StoreError};

use crate::support::{Harness, Taken, all_of, names, once, set, set_until, wait_until};

/// One of everything.
fn source() -> (Harness, u64) {
    let mut h = Harness::new();
    let session = h.session();
    h.batch(session, 1, 0, vec![set("a", "1"), set_until("t", "1", 9_000), once(set("b", "1"), "once", 1, 60_000)]);
    (h, session)
}

fn generations(h: &Harness) -> usize {
    names(h.dir.path()).iter().filter(|name| name.starts_with("gen-")).count()
}

#[test]
fn sessions_and_idempotency_keys_travel_with_the_data() {
    let (mut h, session) = source();
    let taken = Taken::of(&h.store);
    assert_eq!(taken.header.position, h.store.position());
    let mut other = Harness::new();
    taken.install(&other.store);
    (other.next, other.clock_ms) = (h.next, h.clock_ms);
    assert_eq!(all_of(&other.store).unwrap(), all_of(&h.store).unwrap());
    assert_eq!(*other.store.applied().borrow(), h.next);
    for node in [&mut h, &mut other] {
        let repeated = node.batch(session, 1, 0, vec![set("a", "again")]);
        assert!(matches!(repeated, Answer::Applied(outcomes) if outcomes.len() == 3));
        assert!(matches!(node.op(once(set("b", "1"), "once", 1, 1)), Outcome::Replayed(_)));
        node.clock_ms = 9_000;
        node.blank();
        node.store.verify().unwrap();
    }
    assert_eq!(h.store.state_hash(), other.store.state_hash());
    assert_eq!(Taken::of(&h.store), Taken::of(&other.store));
    other.reopen(StateLimits::default());
    assert_eq!(h.store.state_hash(), other.store.state_hash());
}

#[test]
fn a_snapshot_is_of_one_moment_while_writes_go_on() {
    let mut h = Harness::new();
    h.ops((0..500).map(|i| set(&format!("k{i}"), &"x".repeat(2_000))).collect());
    let (position, hash) = (h.store.position(), h.store.state_hash());
    let mut reader = h.store.snapshot_out().unwrap();
    let mut parts = vec![reader.next().unwrap().unwrap()];
    h.ops((0..500).map(|i| set(&format!("k{i}"), "y")).collect());
    parts.extend(reader.by_ref().map(Result::unwrap));
    assert!(parts.len() > 3, "several frames");
    let taken = Taken { header: reader.header().clone(), parts };
    assert_eq!(taken.header.position, position);
    let other = Harness::new();
    taken.install(&other.store);
    assert_eq!(other.store.state_hash(), hash);
    other.store.verify().unwrap();
}

#[test]
fn every_flipped_bit_is_refused_and_leaves_nothing() {
    let taken = Taken::of(&source().0.store);
    let mut other = Harness::new();
    other.op(set("mine", "1"));
    let hash = other.store.state_hash();
    let [SnapshotPart::Frame(frame), SnapshotPart::Trailer { records, crc32c }] = &taken.parts[..] else {
        panic!("{taken:?}")
    };
    let mut cases = Vec::new();
    for byte in 0..frame.len() {
        let mut flipped = frame.to_vec();
        flipped[byte] ^= 1 << (byte % 8);
        let parts = vec![SnapshotPart::Frame(Bytes::from(flipped)), taken.parts[1].clone()];
        cases.push((format!("byte {byte}"), Taken { parts, ..taken.clone() }));
    }
    for bit in 0..32 {
        let trailer = SnapshotPart::Trailer { records: *records, crc32c: crc32c ^ (1 << bit) };
        cases.push((format!("crc {bit}"), Taken { parts: vec![taken.parts[0].clone(), trailer], ..taken.clone() }));
        let trailer = SnapshotPart::Trailer { records: records ^ (1 << bit), crc32c: *crc32c };
        cases.push((format!("count {bit}"), Taken { parts: vec![taken.parts[0].clone(), trailer], ..taken.clone() }));
    }
    let mut header = taken.header.clone();
    header.position.next_index += 1;
    cases.push(("index".to_owned(), Taken { header, ..taken.clone() }));
    let mut header = taken.header.clone();
    header.position.log_id = Bytes::from_static(b"other");
    cases.push(("log id".to_owned(), Taken { header, ..taken.clone() }));
    for (case, damaged) in cases {
        let refused = damaged.stage(&other.store);
        assert!(matches!(refused, Err(StoreError::SnapshotDamaged(_))), "{case}: {refused:?}");
        assert_eq!(generations(&other), 1, "{case}");
    }
    assert_eq!(other.store.state_hash(), hash);
    taken.install(&other.store);
}

#[test]
fn a_stream_that_is_cut_repeated_or_goes_on_is_refused_and_leaves_nothing() {
    let mut h = Harness::new();
    h.ops((0..600).map(|i| set(&format!("k{i}"), &"x".repeat(2_000))).collect());
    let taken = Taken::of(&h.store);
    let other = Harness::new();
    let mut cases: Vec<Vec<SnapshotPart>> = (0..taken.parts.len()).map(|n| taken.parts[..n].to_vec()).collect();
    let mut swapped = taken.parts.clone();
    swapped.swap(0, 1);
    let mut doubled = taken.parts.clone();
    doubled.insert(1, taken.parts[0].clone());
    let mut without_first = taken.parts.clone();
    without_first.remove(0);
    let mut without_middle = taken.parts.clone();
    without_middle.remove(2);
    let mut longer = taken.parts.clone();
    longer.push(taken.parts[0].clone());
    cases.extend([swapped, doubled, without_first, without_middle, longer]);
    for (case, parts) in cases.into_iter().enumerate() {
        let refused = Taken { parts, ..taken.clone() }.stage(&other.store);
        assert!(matches!(refused, Err(StoreError::SnapshotDamaged(_))), "case {case}: {refused:?}");
        assert_eq!(generations(&other), 1, "case {case}");
    }
}

#[test]
fn what_is_not_wanted_is_refused() {
    let taken = Taken::of(&source().0.store);
    let mut other = Harness::new();
    let mut future = taken.clone();
    future.header.format = raftkv_proto::SPOKEN.max + 1;
    assert!(matches!(future.stage(&other.store), Err(StoreError::SnapshotRefused(_))));
    let activate = |token| futures::executor::block_on(other.store.activate(token));
    assert!(matches!(activate(9), Err(StoreError::SnapshotRefused(_))), "never staged");

    let replaced = taken.stage(&other.store).unwrap();
    let token = taken.stage(&other.store).unwrap();
    assert!(token != replaced && matches!(activate(replaced), Err(StoreError::SnapshotRefused(_))), "replaced");
    let position = activate(token).unwrap();
    assert_eq!(activate(token).unwrap(), position, "a repeat is answered");

    other.next = position.next_index;
    other.op(set("newer", "1"));
    let token = taken.stage(&other.store).unwrap();
    let refused = futures::executor::block_on(other.store.activate(token));
    assert!(matches!(refused, Err(StoreError::SnapshotRefused(_))), "older than the live state: {refused:?}");
    assert!(other.get("newer").is_some());
}

#[test]
fn reads_go_on_through_an_activation() {
    let (h, _) = source();
    let taken = Taken::of(&h.store);
    let mut other = Harness::new();
    other.ops(vec![]);
    let reader = other.store.snapshot_out().unwrap();
    taken.install(&other.store);
    assert_eq!(all_of(&other.store).unwrap(), all_of(&h.store).unwrap());
    assert_eq!(generations(&other), 2, "the old one stays as long as somebody reads it");
    assert_eq!(reader.map(Result::unwrap).count(), 2);
    wait_until("the old generation is removed", || generations(&other) == 1);
}
