//! What ends after a while, in slots that move: by the time of the slot, which stands still while nobody serves it.

use bytes::Bytes;
use raftkv_kv::{Answer, Outcome, Proposal, SlotSet, SystemAnswer, SystemCommand as Command, slot_of};
use raftkv_store::{Export, StateLimits};

use crate::support::{Harness, once, set, set_until};

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// All keys of the stories are in its slot.
const TAG: &[u8] = b"t";

fn system(h: &mut Harness, command: Command) -> SystemAnswer {
    match h.propose(&Proposal::System(command)) {
        Answer::System(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn done(h: &mut Harness, command: Command) {
    assert_eq!(system(h, command), SystemAnswer::Done);
}

fn slots() -> SlotSet {
    SlotSet::range(slot_of(TAG), slot_of(TAG))
}

/// A group of the second cluster version in a sharded store, whose clock shows that.
fn group(group: u32, clock_ms: u64, limits: StateLimits) -> Harness {
    let mut h = Harness::with(limits);
    h.clock_ms = clock_ms;
    done(&mut h, Command::RaiseVersion { from: 1, to: 2 });
    done(&mut h, Command::Adopt { store: 7, group, keep: group == 1 });
    h.group_clock_ms = clock_ms;
    h
}

fn at(h: &mut Harness, group_clock_ms: u64) {
    h.group_clock_ms = group_clock_ms;
    h.blank();
}

/// A put whose outcome is kept for a minute.
fn kept(h: &mut Harness) -> Outcome {
    h.op(once(set("{t}kept", "1"), "once", 1, MINUTE))
}

fn begin(source: &mut Harness, target: &mut Harness, id: u64) {
    done(target, Command::BeginImport { id, slots: slots(), version: 2 });
    done(source, Command::BeginExport { id, slots: slots(), version: 2 });
}

/// Copies everything and lets the target commit.
fn finish(source: &mut Harness, target: &mut Harness, id: u64) {
    let SystemAnswer::Fenced { revision, clock_ms, times, .. } = system(source, Command::Fence { id }) else {
        panic!()
    };
    let mut cursor = Bytes::new();
    let mut pages = 0;
    loop {
        let export = Export { move_id: id, cursor: cursor.clone(), max_bytes: 1_000_000 };
        let page = source.store.export(&export).unwrap();
        cursor = page.cursor.clone();
        let records = page.page.encode();
        let imported = system(target, Command::Import { id, page: pages, cursor: cursor.clone(), records });
        pages += 1;
        assert_eq!(imported, SystemAnswer::Imported { next_page: pages });
        if page.base_done && page.changes_done == page.changes_total {
            break;
        }
    }
    done(target, Command::CommitImport { id, pages, revision, clock_ms, times });
    done(source, Command::Release { id });
}

#[test]
fn an_outcome_is_kept_for_its_minute_over_a_move_between_clocks_that_are_days_apart() {
    for (here_ms, there_ms) in [(10 * DAY, DAY), (DAY, 10 * DAY)] {
        let (mut source, mut target) =
            (group(1, here_ms, StateLimits::default()), group(2, there_ms, StateLimits::default()));
        assert!(matches!(kept(&mut source), Outcome::Set { .. }));
        at(&mut source, here_ms + MINUTE / 2);
        begin(&mut source, &mut target, 1);
        finish(&mut source, &mut target, 1);
        assert_eq!(target.store.clock_ms(), there_ms, "its own clock is its own");
        assert!(matches!(kept(&mut target), Outcome::Replayed(_)));
        at(&mut target, there_ms + MINUTE / 2 - 1);
        assert!(matches!(kept(&mut target), Outcome::Replayed(_)), "from {here_ms} to {there_ms}");
        at(&mut target, there_ms + MINUTE / 2);
        assert_eq!(target.store.status().unwrap().idempotency_records, 0, "its minute is over, and it is swept");
        assert!(matches!(kept(&mut target), Outcome::Set { .. }));
        target.store.verify().unwrap();
        source.store.verify().unwrap();
    }
}

#[test]
fn time_stands_still_behind_a_fence_and_goes_on_when_the_move_is_aborted() {
    let (mut source, mut target) = (group(1, DAY, StateLimits::default()), group(2, DAY, StateLimits::default()));
    assert!(matches!(kept(&mut source), Outcome::Set { .. }));
    source.op(set_until("{t}value", "v", DAY + MINUTE));
    begin(&mut source, &mut target, 1);
    at(&mut source, DAY + MINUTE - 1);
    system(&mut source, Command::Fence { id: 1 });
    at(&mut source, 2 * DAY);
    assert_eq!(source.store.status().unwrap().idempotency_records, 1, "nothing is swept that is not served");
    done(&mut target, Command::AbortImport { id: 1 });
    done(&mut source, Command::AbortExport { id: 1 });
    assert!(matches!(kept(&mut source), Outcome::Replayed(_)));
    assert!(source.get("{t}value").is_some());
    at(&mut source, 2 * DAY + 1);
    assert!(source.get("{t}value").is_none());
    assert_eq!(source.store.status().unwrap().keys, 1, "the value that was kept by its key");
    assert!(matches!(kept(&mut source), Outcome::Set { .. }));
    source.store.verify().unwrap();
}

#[test]
fn what_was_stored_before_the_version_rose_ends_when_it_was_to_end() {
    let mut h = Harness::new();
    h.clock_ms = DAY;
    assert!(matches!(kept(&mut h), Outcome::Set { .. }));
    h.op(set_until("{t}old", "v", DAY + MINUTE));
    h.op(set_until("{t}gone", "v", DAY + MINUTE));
    done(&mut h, Command::RaiseVersion { from: 1, to: 2 });
    h.group_clock_ms = DAY;
    h.op(raftkv_kv::Command::Delete { key: crate::support::key("{t}gone") }.into());
    h.op(set_until("{t}new", "v", DAY + MINUTE));
    h.reopen(StateLimits::default());
    at(&mut h, DAY + MINUTE - 1);
    assert!(matches!(kept(&mut h), Outcome::Replayed(_)));
    assert_eq!(h.store.status().unwrap().keys, 3);
    h.store.verify().unwrap();
    at(&mut h, DAY + MINUTE);
    let status = h.store.status().unwrap();
    assert_eq!((status.keys, status.idempotency_records), (1, 0));
    h.store.verify().unwrap();
}

#[test]
fn an_entry_sweeps_a_few_and_replicas_that_know_less_sweep_the_same() {
    let limits = StateLimits { sweep: 3, ..StateLimits::default() };
    let mut groups = [group(1, DAY, limits), group(1, DAY, limits)];
    for h in &mut groups {
        // In many slots, some of them replaced or removed before they end.
        h.ops((0..40).map(|key| set_until(&format!("k{key}"), "v", DAY + 10 + key % 7)).collect());
        h.ops((0..40).step_by(3).map(|key| set_until(&format!("k{key}"), "w", DAY + 20)).collect());
        h.ops((0..20).map(|key| once(set(&format!("o{key}"), "v"), "once", 1, 5 + key % 3)).collect());
    }
    let [one, other] = &mut groups;
    for step in 0..40 {
        if step % 5 == 2 {
            other.reopen(limits);
        }
        for h in [&mut *one, &mut *other] {
            at(h, DAY + step);
        }
        assert_eq!(one.store.state_hash(), other.store.state_hash(), "after step {step}");
    }
    let status = one.store.status().unwrap();
    assert_eq!((status.keys, status.idempotency_records), (20, 0), "the values that never end are left");
    one.store.verify().unwrap();
}

#[test]
fn of_too_many_outcomes_those_that_end_first_go() {
    let limits = StateLimits { idempotency: 4, ..StateLimits::default() };
    let mut h = group(1, DAY, limits);
    h.ops(
        (0..8).map(|key| once(set(&format!("o{key}"), "v"), &format!("i{key}"), 1, MINUTE + (key * 5) % 8)).collect(),
    );
    h.blank();
    assert_eq!(h.store.status().unwrap().idempotency_records, 4);
    // The ends of 0 to 7 are 0, 5, 2, 7, 4, 1, 6, 3 milliseconds after the minute. A repeat of what is kept changes nothing.
    for key in [1, 3, 4, 6] {
        let outcome = h.op(once(set(&format!("o{key}"), "v"), &format!("i{key}"), 1, MINUTE));
        assert!(matches!(outcome, Outcome::Replayed(_)), "{key}: {outcome:?}");
    }
    let outcome = h.op(once(set("o5", "v"), "i5", 1, MINUTE));
    assert!(matches!(outcome, Outcome::Set { .. }), "{outcome:?}");
    h.store.verify().unwrap();
}
