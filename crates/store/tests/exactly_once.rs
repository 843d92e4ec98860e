//! Sessions and idempotency keys.

use raftkv_kv::{Answer, Outcome};
use raftkv_store::StateLimits;

use crate::support::{Harness, delete, once, set};

const SMALL: StateLimits = StateLimits {
    session_ms: 1_000,
    sessions: 3,
    answers_per_session: 4,
    idempotency_ms: 5_000,
    idempotency: 4,
    sweep: 2,
};

#[test]
fn a_repeated_batch_is_answered_and_not_applied() {
    let mut h = Harness::new();
    let session = h.session();
    let first = h.batch(session, 1, 0, vec![set("a", "1"), set("b", "1")]);
    let other = h.batch(session, 2, 0, vec![set("a", "2")]);
    assert_eq!(h.store.revision(), 3);
    assert_eq!(h.batch(session, 1, 0, vec![set("a", "1"), set("b", "1")]), first);
    h.reopen(StateLimits::default());
    assert_eq!(h.batch(session, 2, 0, vec![set("a", "2")]), other);
    assert_eq!(h.store.revision(), 3, "nothing was applied twice");
    assert_eq!(h.get("a").unwrap().revision, 3, "the repeat of batch 1 has not overwritten batch 2");
    h.store.verify().unwrap();
}

#[test]
fn batches_may_come_out_of_order_and_acknowledged_ones_are_stale() {
    let mut h = Harness::new();
    let session = h.session();
    h.batch(session, 3, 0, vec![set("a", "3")]);
    let second = h.batch(session, 2, 0, vec![set("a", "2")]);
    assert!(matches!(second, Answer::Applied(_)), "a late one is applied when it was not acknowledged");
    h.batch(session, 4, 3, vec![set("b", "4")]);
    assert_eq!(h.batch(session, 2, 0, vec![set("a", "2")]), Answer::Stale);
    assert!(matches!(h.batch(session, 3, 0, vec![set("a", "3")]), Answer::Applied(_)));
    assert_eq!(h.store.revision(), 3);
    h.store.verify().unwrap();
}

#[test]
fn an_unknown_session_changes_nothing() {
    let mut h = Harness::new();
    assert_eq!(h.batch(77, 1, 0, vec![set("a", "1")]), Answer::SessionExpired);
    assert_eq!((h.store.revision(), h.get("a")), (0, None));
}

#[test]
fn a_session_expires_by_the_replicated_clock_and_its_id_never_returns() {
    let mut h = Harness::with(SMALL);
    let (idle, used) = (h.session(), h.session());
    h.batch(idle, 1, 0, vec![set("a", "1")]);
    h.clock_ms += 900;
    h.batch(used, 1, 0, vec![set("b", "1")]);
    h.clock_ms += 101;
    assert_eq!(h.batch(idle, 1, 0, vec![set("a", "1")]), Answer::SessionExpired);
    assert!(matches!(h.batch(used, 2, 0, vec![set("b", "2")]), Answer::Applied(_)));
    let fresh = h.session();
    assert!(fresh != idle && fresh != used);
    assert_eq!(h.store.status().unwrap().sessions, 2);
    h.store.verify().unwrap();

    // A clock that goes back is not followed.
    h.clock_ms = 5;
    assert_eq!(h.batch(idle, 1, 0, vec![set("a", "1")]), Answer::SessionExpired);
    assert_eq!(h.store.status().unwrap().clock_ms, 2_001);
}

#[test]
fn the_least_recently_used_session_makes_room() {
    let mut h = Harness::with(SMALL);
    let sessions: Vec<_> = (0..3).map(|_| h.session()).collect();
    h.clock_ms += 1;
    h.batch(sessions[0], 1, 0, vec![]);
    h.session();
    assert_eq!(h.batch(sessions[1], 1, 0, vec![]), Answer::SessionExpired);
    assert!(matches!(h.batch(sessions[0], 2, 0, vec![]), Answer::Applied(_)));
    assert!(matches!(h.batch(sessions[2], 1, 0, vec![]), Answer::Applied(_)));
    assert_eq!(h.store.status().unwrap().sessions, 3);
    h.store.verify().unwrap();
}

#[test]
fn answers_that_a_sender_never_acknowledges_do_not_pile_up() {
    let mut h = Harness::with(SMALL);
    let session = h.session();
    for sequence in 1..=10 {
        h.batch(session, sequence, 0, vec![set("a", "1")]);
    }
    assert_eq!(h.batch(session, 6, 0, vec![]), Answer::Stale);
    assert!(matches!(h.batch(session, 7, 0, vec![]), Answer::Applied(outcomes) if outcomes.len() == 1));
    // session, 4 answers, 1 value
    assert_eq!(h.store.verify().unwrap().records, 6);
}

#[test]
fn an_idempotency_key_holds_across_sessions_until_it_expires() {
    let mut h = Harness::new();
    let first = h.op(once(set("a", "1"), "pay", 7, 500));
    assert_eq!(first, Outcome::Set { revision: 1, created: true });
    assert_eq!(h.op(once(set("a", "1"), "pay", 7, 500)), Outcome::Replayed(Box::new(first.clone())));
    assert_eq!(h.op(once(set("a", "2"), "pay", 8, 500)), Outcome::IdempotencyMismatch);
    h.reopen(StateLimits::default());
    assert_eq!(h.op(once(set("a", "1"), "pay", 7, 500)), Outcome::Replayed(Box::new(first)));
    assert_eq!(h.store.revision(), 1);
    h.clock_ms += 500;
    assert_eq!(
        h.op(once(set("a", "1"), "pay", 8, 500)),
        Outcome::Set { revision: 2, created: false },
        "forgotten, so it is a new request"
    );
    assert_eq!(h.store.status().unwrap().idempotency_records, 1);
    h.store.verify().unwrap();
}

#[test]
fn one_batch_replays_its_own_idempotency_keys() {
    let mut h = Harness::new();
    let outcomes = h.ops(vec![once(delete("a"), "k", 1, 100), once(delete("a"), "k", 1, 100)]);
    let first = Outcome::Deleted { revision: 0, existed: false };
    assert_eq!(outcomes, [first.clone(), Outcome::Replayed(Box::new(first))]);
}

#[test]
fn idempotency_keys_are_bounded_in_time_and_number() {
    let mut h = Harness::with(SMALL);
    h.op(once(set("a", "1"), "long", 1, u64::MAX));
    h.clock_ms += SMALL.idempotency_ms;
    assert!(matches!(h.op(once(set("a", "1"), "long", 1, 10)), Outcome::Set { .. }), "the limit counts");

    for i in 0..10 {
        h.clock_ms += 1;
        h.op(once(set("a", "1"), &format!("k{i}"), 1, 1_000));
    }
    h.blank();
    assert_eq!(h.store.status().unwrap().idempotency_records, 4);
    assert!(matches!(h.op(once(set("a", "1"), "k9", 1, 1_000)), Outcome::Replayed(_)), "the newest are kept");
    assert!(matches!(h.op(once(set("a", "1"), "k0", 1, 1_000)), Outcome::Set { .. }), "the oldest went");
    h.store.verify().unwrap();
}
