//! What cannot be applied is refused by every replica alike, and counters have bounds: from the strict cluster version on, and as in
//! version 0.1.0 below it.

use bytes::Bytes;
use raftkv_kv::{
    Answer, Batch, Key, MAX_CLOCK_MS, MAX_REVISION, Op, Outcome, Proposal, Refusal, STRICT_VERSION, SlotSet,
    SystemAnswer, SystemCommand as Command, Value,
};
use raftkv_proto::FIRST_VERSION;
use raftkv_store::{ApplyError, EntryKind, StateLimits};

use crate::support::{Harness, Taken, delete, once, set};

const MALFORMED: [&[u8]; 3] = [b"", b"\x01", b"\x01\xc1 not a proposal"];

fn system(h: &mut Harness, command: Command) -> SystemAnswer {
    match h.propose(&Proposal::System(command)) {
        Answer::System(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn raise_to(h: &mut Harness, version: u32) -> SystemAnswer {
    let mut answer = SystemAnswer::Done;
    for from in h.store.version()..version {
        answer = system(h, Command::RaiseVersion { from, to: from + 1 });
    }
    answer
}

fn strict(limits: StateLimits) -> Harness {
    let mut h = Harness::with(limits);
    assert_eq!(raise_to(&mut h, STRICT_VERSION), SystemAnswer::Done);
    h
}

/// As the source of a move, which has come so far, tells it.
fn commit_import(h: &mut Harness, revision: u64, clock_ms: u64) -> SystemAnswer {
    assert_eq!(system(h, Command::Adopt { store: 7, group: 2, keep: false }), SystemAnswer::Done);
    let begin = Command::BeginImport { id: 1, slots: SlotSet::all(), version: FIRST_VERSION };
    assert_eq!(system(h, begin), SystemAnswer::Done);
    system(h, Command::CommitImport { id: 1, pages: 0, revision, clock_ms, times: vec![] })
}

fn answer_to(h: &mut Harness, payload: &[u8]) -> Answer {
    let applied = h.try_entry(EntryKind::Payload(Bytes::copy_from_slice(payload))).unwrap();
    Answer::decode(&applied.answers[0]).unwrap()
}

#[test]
fn malformed_bytes_change_nothing_on_any_replica() {
    let mut replicas = [strict(StateLimits::default()), strict(StateLimits::default())];
    for h in &mut replicas {
        h.op(set("a", "1"));
        for payload in MALFORMED {
            let answer = answer_to(h, payload);
            assert!(matches!(answer, Answer::Rejected { .. }), "{answer:?}");
        }
        assert_eq!(h.op(set("a", "2")), Outcome::Set { revision: 2, created: false }, "it goes on");
        h.store.verify().unwrap();
    }
    assert_eq!(replicas[0].store.state_hash(), replicas[1].store.state_hash());
    // A restart reads none of it again, and a copy is the same.
    let [one, mut other] = replicas;
    other.reopen(StateLimits::default());
    let copy = Harness::new();
    Taken::of(&one.store).install(&copy.store);
    assert_eq!(copy.store.state_hash(), other.store.state_hash());
}

#[test]
fn below_the_strict_version_and_of_an_unknown_format_they_end_the_process() {
    let mut newer = Proposal::OpenSession.encode().to_vec();
    newer[0] += 1;
    for (version, payload) in
        MALFORMED.map(|bytes| (STRICT_VERSION - 1, bytes)).into_iter().chain([(STRICT_VERSION, &newer[..])])
    {
        let mut h = Harness::new();
        raise_to(&mut h, version);
        let failed = h.try_entry(EntryKind::Payload(Bytes::copy_from_slice(payload))).unwrap_err();
        assert!(matches!(failed, ApplyError::Fatal(_)), "{version}: {failed:?}");
        assert_eq!(h.fatals.lock().unwrap().len(), 1);
    }
}

#[test]
fn payloads_of_one_entry_are_rejected_each_by_itself() {
    let mut h = strict(StateLimits::default());
    let session = h.session();
    let ops = vec![set("a", "1")];
    let good = Proposal::Batch(Batch { session, sequence: 1, acknowledged_below: 0, ops }).encode();
    let applied = h.try_entry(EntryKind::Payloads(vec![Bytes::from_static(b"\x01"), good])).unwrap();
    let answers: Vec<Answer> = applied.answers.iter().map(|answer| Answer::decode(answer).unwrap()).collect();
    assert!(matches!(answers[0], Answer::Rejected { .. }), "{answers:?}");
    assert_eq!(answers[1], Answer::Applied(vec![Outcome::Set { revision: 1, created: true }]));
}

#[test]
fn a_batch_that_cannot_be_stored_is_rejected_as_a_whole() {
    let mut h = strict(StateLimits::default());
    let session = h.session();
    for key in [vec![], vec![0, 1], vec![b'k'; 65_536]] {
        let value = Value::from_stored(&b"\xc0"[..]);
        let op = Op::from(raftkv_kv::Command::Set { key: Key::from_stored(key), value, expires_at_ms: 0 });
        let answer = h.batch(session, 1, 0, vec![set("a", "1"), op]);
        assert!(matches!(answer, Answer::Rejected { .. }), "{answer:?}");
    }
    assert_eq!((h.get("a"), h.store.revision()), (None, 0));
    // Its sequence was not used.
    assert!(matches!(h.batch(session, 1, 0, vec![set("a", "1")]), Answer::Applied(_)));
    h.store.verify().unwrap();
}

#[test]
fn revisions_end_where_json_can_no_longer_say_them() {
    let mut h = strict(StateLimits::default());
    assert_eq!(commit_import(&mut h, MAX_REVISION - 1, 0), SystemAnswer::Done);
    let session = h.session();
    let answer = h.batch(session, 1, 0, vec![set("a", "1"), set("b", "1")]);
    assert!(matches!(answer, Answer::Rejected { .. }), "one is left, and two may be needed: {answer:?}");
    let last = Answer::Applied(vec![Outcome::Set { revision: MAX_REVISION, created: true }]);
    assert_eq!(h.batch(session, 2, 0, vec![set("a", "1")]), last);
    assert_eq!(h.batch(session, 2, 0, vec![set("a", "1")]), last, "a repeat is answered");
    for op in [set("a", "2"), delete("a")] {
        let answer = h.batch(session, 3, 0, vec![op]);
        assert!(matches!(answer, Answer::Rejected { .. }), "{answer:?}");
    }
    assert_eq!(h.store.revision(), MAX_REVISION);
    h.store.verify().unwrap();
}

#[test]
fn what_a_source_says_of_itself_is_refused_beyond_the_bounds_and_below_the_version_taken() {
    for (revision, clock_ms) in [(u64::MAX, 0), (0, u64::MAX)] {
        let mut h = strict(StateLimits::default());
        let refused = commit_import(&mut h, revision, clock_ms);
        assert!(matches!(refused, SystemAnswer::Refused(Refusal::Malformed(_))), "{refused:?}");
        assert!(!h.store.ownership().serves(1), "the slots are not owned");

        let mut old = Harness::new();
        assert_eq!(commit_import(&mut old, revision, clock_ms), SystemAnswer::Done);
        // As version 0.1.0: and such a group does not get the version that has bounds.
        assert_eq!(raise_to(&mut old, STRICT_VERSION - 1), SystemAnswer::Done);
        let refused = raise_to(&mut old, STRICT_VERSION);
        assert!(matches!(refused, SystemAnswer::Refused(Refusal::Malformed(_))), "{refused:?}");
    }
    let mut old = Harness::new();
    assert_eq!(commit_import(&mut old, u64::MAX, 0), SystemAnswer::Done);
    assert_eq!(old.op(set("a", "1")), Outcome::Set { revision: 0, created: true }, "it wraps");
}

#[test]
fn no_stamp_moves_the_clock_beyond_its_bound() {
    let mut h = strict(StateLimits::default());
    h.group_clock_ms = u64::MAX;
    h.blank();
    assert_eq!(h.store.clock_ms(), MAX_CLOCK_MS);
}

#[test]
fn no_outcome_is_forgotten_before_its_time() {
    let few = StateLimits { idempotency: 3, ..StateLimits::default() };
    let mut h = strict(few);
    h.group_clock_ms = 10_000;
    let keyed = |n: u32| once(set("a", "1"), &format!("k{n}"), 1, 1_000);
    for n in 0..3 {
        assert!(matches!(h.op(keyed(n)), Outcome::Set { .. }), "{n}");
        h.group_clock_ms += 100;
    }
    let revision = h.store.revision();
    assert_eq!(h.op(keyed(3)), Outcome::OutcomesFull);
    assert_eq!(h.op(keyed(3)), Outcome::OutcomesFull, "nothing was kept of it");
    assert_eq!(h.store.revision(), revision, "nor written");
    assert!(matches!(h.op(keyed(0)), Outcome::Replayed(_)), "the oldest is there");
    assert!(matches!(h.op(set("a", "2")), Outcome::Set { .. }), "without a key");
    h.group_clock_ms = 11_000;
    assert!(matches!(h.op(keyed(3)), Outcome::Set { .. }), "the first has ended");
    assert_eq!(h.op(keyed(4)), Outcome::OutcomesFull);
    assert_eq!(h.store.status().unwrap().idempotency_records, 3);
    h.store.verify().unwrap();

    let mut old = Harness::with(few);
    raise_to(&mut old, STRICT_VERSION - 1);
    for n in 0..5 {
        assert!(matches!(old.op(keyed(n)), Outcome::Set { .. }), "{n}: as version 0.1.0");
    }
    old.blank();
    assert_eq!(old.store.status().unwrap().idempotency_records, 3);
}

#[test]
fn a_table_that_was_too_full_at_the_raise_keeps_what_it_has() {
    let few = StateLimits { idempotency: 2, ..StateLimits::default() };
    let mut h = Harness::with(few);
    raise_to(&mut h, STRICT_VERSION - 1);
    let session = h.session();
    let ops = (0..4).map(|n| once(set("a", "1"), &format!("k{n}"), 1, 60_000)).collect();
    assert!(matches!(h.batch(session, 1, 0, ops), Answer::Applied(_)));
    // The entry that raises it sweeps first, as those before it would have.
    assert_eq!(raise_to(&mut h, STRICT_VERSION), SystemAnswer::Done);
    assert_eq!(h.store.status().unwrap().idempotency_records, 2);
    assert_eq!(h.op(once(set("a", "1"), "new", 1, 60_000)), Outcome::OutcomesFull);
    h.store.verify().unwrap();
}
