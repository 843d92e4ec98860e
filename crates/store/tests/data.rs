//! Values, revisions, preconditions, expiry, listings, and what is refused.

use bytes::Bytes;
use raftkv_backend::ListRequest;
use raftkv_kv::{Answer, Batch, Outcome, Precondition, Proposal};
use raftkv_runtime::exit;
use raftkv_store::{ApplyError, EntryKind, StateLimits};

use crate::support::{Harness, all_of, delete, entry, payload, set, set_until, value, when};

#[test]
fn every_effective_operation_has_the_next_revision_and_no_other() {
    let mut h = Harness::new();
    let outcomes = h.ops(vec![
        set("a", "1"),
        set("b", "1"),
        delete("nothing"),
        when(set("a", "x"), Precondition::Absent),
        set("a", "2"),
        delete("b"),
        set("b", "3"),
    ]);
    assert_eq!(
        outcomes,
        [
            Outcome::Set { revision: 1, created: true },
            Outcome::Set { revision: 2, created: true },
            Outcome::Deleted { revision: 0, existed: false },
            Outcome::PreconditionFailed { current: 1 },
            Outcome::Set { revision: 3, created: false },
            Outcome::Deleted { revision: 4, existed: true },
            Outcome::Set { revision: 5, created: true },
        ],
        "later operations of a batch see the earlier ones"
    );
    let (a, b) = (h.get("a").unwrap(), h.get("b").unwrap());
    assert_eq!((a.revision, a.create_revision, a.value), (3, 1, Some(value("2"))));
    assert_eq!((b.revision, b.create_revision), (5, 5));
    let status = h.store.status().unwrap();
    assert_eq!((status.revision, status.keys), (5, 2));
    assert!(status.disk_free_bytes > 0 && status.disk_bytes > 0);
    h.store.verify().unwrap();
}

#[test]
fn preconditions() {
    use Precondition::{Absent, Present, Revision};
    for (exists, precondition, holds) in [
        (false, Absent, true),
        (false, Present, false),
        (false, Revision(1), false),
        (false, Revision(0), false),
        (true, Absent, false),
        (true, Present, true),
        (true, Revision(1), true),
        (true, Revision(2), false),
        (true, Revision(0), false),
    ] {
        for op in [set("k", "new"), delete("k")] {
            let mut h = Harness::new();
            if exists {
                h.op(set("k", "old"));
            }
            let before = (h.store.revision(), h.get("k"));
            let outcome = h.op(when(op.clone(), precondition));
            let case = format!("{exists} {precondition:?} {op:?}: {outcome:?}");
            if holds {
                assert!(matches!(outcome, Outcome::Set { .. } | Outcome::Deleted { .. }), "{case}");
            } else {
                assert_eq!(outcome, Outcome::PreconditionFailed { current: u64::from(exists) }, "{case}");
                assert_eq!((h.store.revision(), h.get("k")), before, "{case}");
            }
        }
    }
}

#[test]
fn an_expired_value_is_gone_for_reads_and_conditions_and_then_from_the_disk() {
    let limits = StateLimits { sweep: 2, ..StateLimits::default() };
    let mut h = Harness::with(limits);
    let ops = (0..5).map(|i| set_until(&format!("t{i}"), "v", 2_000)).chain([set("stays", "v")]);
    h.ops(ops.collect());
    h.ops(vec![set_until("moved", "v", 2_000), set_until("moved", "v", 9_000), set_until("kept", "v", 2_000)]);
    h.op(set("kept", "v"));
    assert_eq!(h.get("t0").unwrap().expires_at_ms, 2_000);
    let revision = h.store.revision();

    h.clock_ms = 2_000;
    h.blank();
    assert!((0..5).all(|i| h.get(&format!("t{i}")).is_none()));
    let keys: Vec<_> = all_of(&h.store).unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["kept", "moved", "stays"].map(crate::support::key));
    assert_eq!(h.store.status().unwrap().keys, 6, "two are removed with an entry, no more");
    h.store.verify().unwrap();

    assert_eq!(h.op(when(set("t4", "again"), Precondition::Present)), Outcome::PreconditionFailed { current: 0 });
    h.reopen(limits);
    assert!(matches!(h.op(set("t4", "again")), Outcome::Set { created: true, .. }));
    (0..3).for_each(|_| h.blank());
    assert_eq!(h.store.status().unwrap().keys, 4);
    assert!(h.get("t4").is_some());
    assert_eq!(h.store.revision(), revision + 1, "expiry is no operation");
    h.clock_ms = 10_000;
    h.blank();
    assert_eq!(h.store.status().unwrap().keys, 3);
    h.store.verify().unwrap();
}

#[test]
fn pages_join_to_the_whole_and_respect_both_limits() {
    let mut h = Harness::new();
    let names: Vec<String> = (0..25).map(|i| format!("k{i:02}")).collect();
    h.ops(names.iter().map(|name| set(name, "0123456789")).chain([set("other", "x")]).collect());
    for (limit, max_bytes, keys_only, most) in
        [(4, usize::MAX, false, 4), (1, 0, false, 1), (100, 28, false, 2), (100, 9, true, 3)]
    {
        let mut request = ListRequest {
            start: Bytes::from_static(b"k"),
            end: Some(Bytes::from_static(b"l")),
            limit,
            max_bytes,
            keys_only,
        };
        let mut seen = Vec::new();
        loop {
            let page = h.store.list(&request).unwrap();
            assert!(page.entries.len() <= most, "{limit} {max_bytes}: {}", page.entries.len());
            assert!(page.entries.iter().all(|entry| entry.value.is_none() == keys_only));
            seen.extend(page.entries.into_iter().map(|entry| entry.key.into_bytes()));
            match page.next {
                Some(next) => request.start = next,
                None => break,
            }
        }
        assert_eq!(seen, names.iter().map(|name| Bytes::from(name.clone())).collect::<Vec<_>>());
    }
    let nothing = ListRequest {
        start: Bytes::from_static(b"z"),
        end: Some(Bytes::from_static(b"a")),
        limit: 1,
        max_bytes: 1,
        keys_only: false,
    };
    assert_eq!(h.store.list(&nothing).unwrap().entries, []);
}

#[test]
fn entries_are_skipped_below_the_position_and_refused_beyond_it() {
    let h = Harness::new();
    let open = Proposal::OpenSession;
    let applied = h.store.apply_blocking((0..3).map(|i| payload(i, 5, &open)).collect()).unwrap();
    assert!(applied.answers.iter().all(|answer| !answer.is_empty()));
    let overlapping = h.store.apply_blocking((1..5).map(|i| payload(i, 5, &open)).collect()).unwrap();
    assert_eq!(overlapping.next_index, 5);
    let is_empty: Vec<_> = overlapping.answers.iter().map(Bytes::is_empty).collect();
    assert_eq!(is_empty, [true, true, false, false]);
    for missing in [vec![6], vec![5, 7], vec![3, 6]] {
        let gap = h.store.apply_blocking(missing.iter().map(|&i| payload(i, 5, &open)).collect());
        assert!(matches!(gap, Err(ApplyError::Gap { .. })), "{missing:?}: {gap:?}");
        assert_eq!(h.store.position().next_index, 5, "nothing of it was applied");
    }
    assert_eq!(*h.store.applied().borrow(), 5);
    assert!(h.fatals.lock().unwrap().is_empty());
}

#[test]
fn payloads_of_one_entry_are_applied_in_order_and_answered_one_by_one() {
    let h = Harness::new();
    let shared = |index, proposals: &[Proposal]| {
        entry(index, 5, EntryKind::Payloads(proposals.iter().map(Proposal::encode).collect()))
    };
    let opened = h.store.apply_blocking(vec![shared(0, &[Proposal::OpenSession, Proposal::OpenSession])]).unwrap();
    let sessions: Vec<u64> = opened
        .answers
        .iter()
        .map(|answer| match Answer::decode(answer).unwrap() {
            Answer::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sessions.len(), 2);
    assert_ne!(sessions[0], sessions[1], "two sessions of one entry are two");

    let batch = |session, value| {
        let ops = vec![set("k", value)];
        Proposal::Batch(Batch { session, sequence: 1, acknowledged_below: 1, ops })
    };
    let entries = || vec![shared(1, &[batch(sessions[0], "first"), batch(sessions[1], "second")])];
    let applied = h.store.apply_blocking(entries()).unwrap();
    let outcomes: Vec<_> = applied.answers.iter().map(|answer| Answer::decode(answer).unwrap()).collect();
    assert_eq!(
        outcomes,
        [
            Answer::Applied(vec![Outcome::Set { revision: 1, created: true }]),
            Answer::Applied(vec![Outcome::Set { revision: 2, created: false }]),
        ]
    );
    assert_eq!(h.get("k").unwrap().value, Some(value("second")));
    let again = h.store.apply_blocking(entries()).unwrap();
    assert_eq!(again.answers, [Bytes::new(), Bytes::new()], "applied before");
    assert_eq!((again.next_index, h.store.revision()), (2, 2));
}

#[test]
fn the_position_carries_what_the_sidecar_saves() {
    let mut h = Harness::new();
    h.try_entry(EntryKind::Membership(Bytes::from_static(b"members"))).unwrap();
    h.blank();
    h.reopen(StateLimits::default());
    let position = h.store.position();
    assert_eq!(position.next_index, 2);
    assert_eq!((&position.log_id[..], &position.membership[..]), (&b"log-1"[..], &b"members"[..]));
    assert_eq!(h.store.persist().unwrap(), position);
}

#[test]
fn a_payload_of_another_version_ends_the_process_with_nothing_applied() {
    for bad in [&b"\x63future"[..], b"\x01garbage", b""] {
        let mut h = Harness::new();
        h.op(set("a", "1"));
        let (revision, at) = (h.store.revision(), h.next);
        let good = payload(at, 5, &Proposal::OpenSession);
        let bad = entry(at + 1, 5, EntryKind::Payload(Bytes::copy_from_slice(bad)));
        let refused = h.store.apply_blocking(vec![good, bad]);
        assert!(matches!(refused, Err(ApplyError::Fatal(_))), "{refused:?}");
        let fatals = h.fatals.lock().unwrap().clone();
        assert_eq!(fatals.iter().map(|fatal| fatal.exit_code).collect::<Vec<_>>(), [exit::SOFTWARE]);
        assert_eq!((h.store.revision(), h.store.position().next_index), (revision, at));
        let after = h.store.apply_blocking(vec![payload(at, 5, &Proposal::OpenSession)]);
        assert_eq!(after, Err(ApplyError::Stopped));
        assert!(h.store.persist().is_err());
    }
}
