//! The cluster version in the state: raised by an entry, held by a document, and in every format that is written.

use raftkv_kv::{
    Answer, Outcome, Proposal, Refusal, SlotSet, SystemAnswer, SystemCommand as Command, UPGRADE_KEY, UpgradePolicy,
};
use raftkv_proto::{FIRST_VERSION, SPOKEN};
use raftkv_runtime::exit;
use raftkv_store::{ApplyError, EntryKind, StateLimits, StoreError};

use crate::support::{Harness, Taken, once, set};

const NEXT: u32 = FIRST_VERSION + 1;

fn system(h: &mut Harness, command: Command) -> SystemAnswer {
    match h.propose(&Proposal::System(command)) {
        Answer::System(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn raise(h: &mut Harness) -> SystemAnswer {
    system(h, Command::RaiseVersion { from: FIRST_VERSION, to: NEXT })
}

fn hold(h: &mut Harness, expected_version: u64, hold: bool) {
    let value = UpgradePolicy { hold }.encode();
    let answer = system(h, Command::PutKey { key: UPGRADE_KEY.into(), expected_version, value });
    assert_eq!(answer, SystemAnswer::KeyPut { version: expected_version + 1 });
}

#[test]
fn a_state_is_born_with_the_first_version_and_keeps_a_higher_one() {
    let mut h = Harness::new();
    assert_eq!(h.store.version(), FIRST_VERSION);
    h.op(set("a", "1"));
    let before = h.store.state_hash();
    assert_eq!(raise(&mut h), SystemAnswer::Done);
    assert_eq!((h.store.version(), h.store.status().unwrap().version), (NEXT, NEXT));
    assert_ne!(h.store.state_hash(), before);
    assert_eq!(raise(&mut h), SystemAnswer::Done, "a repeat");
    let hash = h.store.state_hash();
    h.reopen(StateLimits::default());
    assert_eq!((h.store.version(), h.store.state_hash()), (NEXT, hash));
    h.store.verify().unwrap();
}

#[test]
fn replicas_that_were_told_otherwise_have_other_states() {
    let (mut one, mut other) = (Harness::new(), Harness::new());
    for h in [&mut one, &mut other] {
        h.op(set("a", "1"));
    }
    assert_eq!(one.store.state_hash(), other.store.state_hash());
    raise(&mut one);
    other.blank();
    assert_ne!(one.store.state_hash(), other.store.state_hash(), "at the same position");
}

#[test]
fn a_hold_keeps_it_down_until_it_is_released() {
    let mut h = Harness::new();
    hold(&mut h, 0, true);
    assert_eq!(raise(&mut h), SystemAnswer::Refused(Refusal::Held));
    assert_eq!(h.store.version(), FIRST_VERSION);
    hold(&mut h, 1, false);
    assert_eq!(raise(&mut h), SystemAnswer::Done);
    let over = system(&mut h, Command::RaiseVersion { from: NEXT, to: NEXT + 2 });
    assert!(matches!(over, SystemAnswer::Refused(Refusal::Malformed(_))), "{over:?}");
}

#[test]
fn a_group_that_exports_keeps_its_version() {
    let mut h = Harness::new();
    system(&mut h, Command::Adopt { store: 7, group: 1, keep: true });
    let slots = SlotSet::range(1, 9);
    assert_eq!(system(&mut h, Command::BeginExport { id: 5, slots, version: FIRST_VERSION }), SystemAnswer::Done);
    assert_eq!(raise(&mut h), SystemAnswer::Refused(Refusal::Busy { id: 5 }));
    assert_eq!(system(&mut h, Command::AbortExport { id: 5 }), SystemAnswer::Done);
    assert_eq!(raise(&mut h), SystemAnswer::Done);
}

#[test]
fn a_version_that_is_not_spoken_here_ends_the_process() {
    let mut h = Harness::new();
    for from in FIRST_VERSION..SPOKEN.max {
        assert_eq!(system(&mut h, Command::RaiseVersion { from, to: from + 1 }), SystemAnswer::Done);
    }
    let too_far = Proposal::System(Command::RaiseVersion { from: SPOKEN.max, to: SPOKEN.max + 1 });
    let failed = h.try_entry(EntryKind::Payload(too_far.encode())).unwrap_err();
    assert!(matches!(failed, ApplyError::Fatal(_)), "{failed:?}");
    let fatals = h.fatals.lock().unwrap();
    assert_eq!((fatals.len(), fatals[0].exit_code), (1, exit::DATA));
    assert!(fatals[0].message.contains("Run a newer version"), "{}", fatals[0].message);
    assert_eq!(h.store.version(), SPOKEN.max, "nothing of the entry was done");
}

/// An outcome that is kept for a minute.
fn kept(h: &mut Harness) -> Outcome {
    h.op(once(set("a", "1"), "once", 1, 60_000))
}

#[test]
fn below_the_version_of_the_group_clock_the_highest_wall_clock_counts() {
    let mut h = Harness::new();
    assert!(matches!(kept(&mut h), Outcome::Set { .. }));
    h.group_clock_ms = 10_000_000;
    h.blank();
    assert!(matches!(kept(&mut h), Outcome::Replayed(_)), "a stamp that a version ahead would make");
    h.clock_ms += 60_001;
    assert!(matches!(kept(&mut h), Outcome::Set { .. }), "as version 0.1.0 does it");
}

#[test]
fn from_the_version_of_the_group_clock_on_no_wall_clock_moves_anything() {
    const DAYS: u64 = 2 * 24 * 60 * 60 * 1_000;
    let mut h = Harness::new();
    h.clock_ms = 10 * DAYS;
    assert!(matches!(kept(&mut h), Outcome::Set { .. }));
    assert_eq!(raise(&mut h), SystemAnswer::Done);
    assert_eq!(h.store.clock_ms(), 10 * DAYS, "the counter begins there");
    for wall_ms in [12 * DAYS, 0, u64::MAX, 8 * DAYS] {
        h.clock_ms = wall_ms;
        assert!(matches!(kept(&mut h), Outcome::Replayed(_)), "{wall_ms}");
        assert_eq!(h.store.clock_ms(), 10 * DAYS, "{wall_ms}");
    }
    h.group_clock_ms = 10 * DAYS + 59_999;
    assert!(matches!(kept(&mut h), Outcome::Replayed(_)));
    h.group_clock_ms = 5;
    assert!(matches!(kept(&mut h), Outcome::Replayed(_)), "it never goes back");
    assert_eq!(h.store.clock_ms(), 10 * DAYS + 59_999);
    h.group_clock_ms = 10 * DAYS + 60_000;
    assert!(matches!(kept(&mut h), Outcome::Set { .. }), "its minute is over");
}

#[test]
fn an_entry_may_do_nothing_but_stamp_the_clock() {
    let mut h = Harness::new();
    raise(&mut h);
    h.group_clock_ms = 7_000;
    let applied = h.try_entry(EntryKind::Payloads(Vec::new())).unwrap();
    assert_eq!((applied.answers.len(), applied.answers[0].len()), (1, 0));
    assert_eq!(h.store.clock_ms(), 7_000);
}

#[test]
fn the_store_says_whether_anything_ends_by_the_clock() {
    let mut h = Harness::new();
    h.blank();
    assert_eq!(h.store.next_deadline_ms(), 0, "nothing does");
    let session_ms = StateLimits::default().session_ms;
    h.session();
    assert_eq!(h.store.next_deadline_ms(), 1_000 + session_ms);
    kept(&mut h);
    assert_eq!(h.store.next_deadline_ms(), 1_000 + 60_000);
}

#[test]
fn a_snapshot_says_its_version_and_is_refused_where_that_is_not_spoken() {
    let mut h = Harness::new();
    h.op(set("a", "1"));
    assert_eq!(Taken::of(&h.store).header.format, FIRST_VERSION);
    raise(&mut h);
    let taken = Taken::of(&h.store);
    assert_eq!(taken.header.format, NEXT);
    let other = Harness::new();
    taken.install(&other.store);
    assert_eq!((other.store.version(), other.store.state_hash()), (NEXT, h.store.state_hash()));

    for (format, is_damage) in [(SPOKEN.max + 1, false), (0, false), (FIRST_VERSION, true)] {
        let mut wrong = taken.clone();
        wrong.header.format = format;
        match wrong.stage(&Harness::new().store).unwrap_err() {
            StoreError::SnapshotDamaged(_) => assert!(is_damage, "{format}"),
            StoreError::SnapshotRefused(why) => {
                assert!(!is_damage && why.contains("cluster version"), "{format}: {why}")
            }
            other => panic!("{format}: {other}"),
        }
    }
}
