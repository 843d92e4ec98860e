//! The proposer against a sidecar that loses, repeats, reorders and refuses, with the real store behind it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Fate, Stack, deadline_in, key, seeded, set, until};
use raftkv_backend::BackendError;
use raftkv_engine::proposer::{MAX_BATCHES_IN_FLIGHT, Proposer};
use raftkv_kv::{Op, Outcome, Proposal};
use raftkv_runtime::shutdown::Shutdown;
use rand::RngExt;
use rand::rngs::StdRng;

const GRACE: Duration = Duration::from_secs(5);
const PATIENT: Duration = Duration::from_secs(20);

fn proposer(stack: &Stack) -> Proposer {
    Proposer::start(stack.client.proposals(), stack.stop.child(), GRACE).0
}

/// Enough for batches that answers come for over the link only, and few enough for the others.
const MANY_AND_FEW: [usize; 2] = [32, 4];

type Answer = Result<Vec<Outcome>, BackendError>;

/// What became of each write, and what the writer was told.
struct Told {
    name: String,
    answer: Answer,
}

/// Many writers, each with one new key after the other.
async fn write_all(
    proposer: &Proposer,
    writers: usize,
    writes: usize,
    patience: impl Fn(usize) -> Duration,
) -> Vec<Told> {
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let proposer = proposer.clone();
        let patience: Vec<Duration> = (0..writes).map(&patience).collect();
        tasks.push(tokio::spawn(async move {
            let mut told = Vec::new();
            for (write, patience) in patience.into_iter().enumerate() {
                let name = format!("w{writer}-{write}");
                let asked = Instant::now();
                let answer = proposer.propose(vec![set(&name, "v")], asked + patience).await;
                assert!(asked.elapsed() < patience + Duration::from_secs(2), "answered by its deadline");
                told.push(Told { name, answer });
            }
            told
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("writer"));
    }
    all
}

/// Each key was set at most once, those acknowledged at the revision told, those refused never.
fn assert_exactly_once(stack: &Stack, told: &[Told]) {
    let mut present = 0;
    let mut revisions = HashMap::new();
    for Told { name, answer } in told {
        let entry = stack.store.get(&key(name)).expect("read");
        if let Some(entry) = &entry {
            present += 1;
            assert_eq!(entry.revision, entry.create_revision, "{name} was applied twice");
            let other = revisions.insert(entry.revision, name);
            assert!(other.is_none(), "{name} and {other:?} share a revision");
        }
        match answer {
            Ok(outcomes) => {
                let revision = entry.unwrap_or_else(|| panic!("{name} was acknowledged and is not there")).revision;
                assert_eq!(outcomes, &[Outcome::Set { revision, created: true }], "{name}");
            }
            Err(BackendError::OutcomeUnknown(_)) => {}
            Err(error) => assert!(entry.is_none(), "{name} was applied, but its writer was told: {error}"),
        }
    }
    // The counter rises once for each effective write: nothing was applied twice, whatever its answer was.
    assert_eq!(stack.store.revision(), present);
}

fn milliseconds(rng: &mut StdRng, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(0..=most))
}

fn is_batch(proposal: &Proposal) -> bool {
    matches!(proposal, Proposal::Batch(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_patient_writer_is_acknowledged_exactly_once_whatever_the_network_does() {
    patient_writers(Stack::start().await, 32).await;
    for writers in MANY_AND_FEW {
        patient_writers(Stack::with_shortcut().await, writers).await;
    }
}

async fn patient_writers(mut stack: Stack, writers: usize) {
    let mut rng = seeded();
    let mut silences = 3;
    stack.sidecar.fate(move |_| match rng.random_range(0..1_000) {
        0..=149 => Fate::Late(milliseconds(&mut rng, 20)),
        150..=229 => Fate::Refuse,
        230..=259 => Fate::UnknownNotApplied,
        260..=289 => Fate::UnknownApplied,
        290..=329 => Fate::UnknownAppliedLater(milliseconds(&mut rng, 60)),
        330..=349 => Fate::BreakApplied,
        350..=369 => Fate::BreakNotApplied,
        370..=374 if silences > 0 => {
            silences -= 1;
            Fate::Silent
        }
        _ => Fate::Apply,
    });
    let told = write_all(&stack.proposer(GRACE), writers, 60, |_| PATIENT).await;
    stack.sidecar.settle().await;
    for Told { name, answer } in &told {
        assert!(answer.is_ok(), "{name}: {answer:?}");
    }
    assert_exactly_once(&stack, &told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_sessions_expire_only_writes_with_a_lost_answer_are_unknown() {
    expiring_sessions(Stack::start().await, 16).await;
    for writers in MANY_AND_FEW {
        expiring_sessions(Stack::with_shortcut().await, writers).await;
    }
}

async fn expiring_sessions(mut stack: Stack, writers: usize) {
    let mut rng = seeded();
    stack.sidecar.fate(move |_| match rng.random_range(0..100) {
        0..=14 => Fate::Late(milliseconds(&mut rng, 10)),
        15..=19 => Fate::Refuse,
        20..=23 => Fate::UnknownNotApplied,
        24..=27 => Fate::UnknownApplied,
        28..=30 => Fate::UnknownAppliedLater(milliseconds(&mut rng, 30)),
        31..=34 => Fate::ClockJump,
        _ => Fate::Apply,
    });
    let told = write_all(&stack.proposer(GRACE), writers, 60, |_| PATIENT).await;
    stack.sidecar.settle().await;
    for Told { name, answer } in &told {
        match answer {
            Ok(_) => {}
            Err(BackendError::OutcomeUnknown(_)) => {
                assert!(stack.sidecar.is_ambiguous(name.as_bytes()), "{name}: nothing about it was lost");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert_exactly_once(&stack, &told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impatient_writers_are_never_told_that_a_write_was_not_applied_when_it_may_be() {
    impatient_writers(Stack::start().await, 16).await;
    for writers in MANY_AND_FEW {
        impatient_writers(Stack::with_shortcut().await, writers).await;
    }
}

async fn impatient_writers(mut stack: Stack, writers: usize) {
    let mut rng = seeded();
    stack.sidecar.fate(move |proposal| match rng.random_range(0..100) {
        0..=39 => Fate::Late(milliseconds(&mut rng, 30)),
        40..=59 => Fate::Refuse,
        60..=64 => Fate::UnknownNotApplied,
        65..=69 => Fate::UnknownAppliedLater(milliseconds(&mut rng, 60)),
        70..=71 => Fate::BreakApplied,
        72..=73 => Fate::BreakNotApplied,
        74 if is_batch(proposal) => Fate::Silent,
        75..=76 => Fate::ClockJump,
        _ => Fate::Apply,
    });
    let patience = |write| Duration::from_millis(if write % 16 == 15 { 500 } else { write as u64 % 40 });
    let told = write_all(&stack.proposer(GRACE), writers, 80, patience).await;
    stack.sidecar.settle().await;
    assert_exactly_once(&stack, &told);
    assert!(told.iter().any(|told| told.answer.is_ok()), "some are fast enough");
}

/// The link loses every answer, and nothing has to be repeated: the store has told.
#[tokio::test]
async fn writers_hear_from_the_store_of_their_own_process() {
    for writers in [1, 32] {
        let mut stack = Stack::with_shortcut().await;
        let batches = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&batches);
        stack.sidecar.fate(move |proposal| match proposal {
            Proposal::Batch(batch) => {
                seen.lock().expect("no panic").push(batch.sequence);
                Fate::UnknownApplied
            }
            _ => Fate::Apply,
        });
        let proposer = stack.proposer(GRACE);
        let told = write_all(&proposer, writers, 100, |_| PATIENT).await;
        assert!(told.iter().all(|told| told.answer.is_ok()));
        assert_exactly_once(&stack, &told);
        let mut batches = batches.lock().expect("no panic").clone();
        let sent = batches.len();
        batches.sort_unstable();
        batches.dedup();
        assert_eq!(batches.len(), sent, "of {writers} writers, none goes twice");
    }
}

#[tokio::test]
async fn a_lone_writer_is_proposed_at_once_and_alone() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    for n in 0..10 {
        proposer.propose(vec![set(&format!("k{n}"), "v")], deadline_in(PATIENT)).await.expect("written");
    }
    assert_eq!(stack.sidecar.proposals(), 11, "one session and ten batches");
}

#[tokio::test]
async fn the_writes_that_wait_share_a_batch_and_each_gets_its_own_outcomes() {
    let stack = Stack::start().await;
    stack.sidecar.fate(|proposal| if is_batch(proposal) { Fate::Late(Duration::from_millis(50)) } else { Fate::Apply });
    let proposer = proposer(&stack);
    let writes = (0..200).map(|n| {
        let ops: Vec<Op> = (0..n % 3 + 1).map(|op| set(&format!("k{n}-{op}"), "v")).collect();
        let proposer = proposer.clone();
        tokio::spawn(async move { (ops.clone(), proposer.propose(ops, deadline_in(PATIENT)).await) })
    });
    for write in writes.collect::<Vec<_>>() {
        let (ops, answer) = write.await.expect("writer");
        let outcomes = answer.expect("written");
        assert_eq!(ops.len(), outcomes.len());
        for (op, outcome) in ops.iter().zip(outcomes) {
            let entry = stack.store.get(op.command.key()).expect("read").expect("there");
            assert_eq!(outcome, Outcome::Set { revision: entry.revision, created: true });
        }
    }
    assert!(stack.sidecar.proposals() <= 1 + 2 * MAX_BATCHES_IN_FLIGHT, "{} proposals", stack.sidecar.proposals());
}

#[tokio::test]
async fn without_a_sidecar_a_write_is_definitely_not_applied_and_works_once_there_is_one() {
    let stack = Stack::without_sidecar();
    let proposer = proposer(&stack);
    let asked = Instant::now();
    let answer = proposer.propose(vec![set("a", "1")], deadline_in(Duration::from_millis(200))).await;
    assert!(matches!(&answer, Err(BackendError::Unavailable(why)) if why.contains("sidecar")), "{answer:?}");
    assert!(asked.elapsed() >= Duration::from_millis(200) && asked.elapsed() < Duration::from_secs(2));

    let patient = tokio::spawn({
        let proposer = proposer.clone();
        async move { proposer.propose(vec![set("b", "1")], deadline_in(PATIENT)).await }
    });
    stack.start_sidecar().await;
    patient.await.expect("writer").expect("written as soon as the sidecar was there");
    assert_eq!(stack.store.get(&key("a")).expect("read"), None);
}

#[tokio::test]
async fn a_write_refused_until_its_deadline_is_unavailable_and_never_applied() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    proposer.propose(vec![set("first", "1")], deadline_in(PATIENT)).await.expect("written");
    stack.sidecar.fate(|_| Fate::Refuse);
    let answer = proposer.propose(vec![set("a", "1")], deadline_in(Duration::from_millis(300))).await;
    assert!(matches!(&answer, Err(BackendError::Unavailable(why)) if why.contains("no leader")), "{answer:?}");

    stack.sidecar.fate(|_| Fate::Apply);
    proposer.propose(vec![set("b", "1")], deadline_in(PATIENT)).await.expect("written");
    assert_eq!(stack.store.get(&key("a")).expect("read"), None, "it was told that it is not applied");
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_at_its_deadline_and_does_not_hold_up_others() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    proposer.propose(vec![set("first", "1")], deadline_in(PATIENT)).await.expect("written");
    stack.sidecar.fate(|_| Fate::Silent);
    let mut silent = Vec::new();
    for n in 0..MAX_BATCHES_IN_FLIGHT {
        let (proposer, before) = (proposer.clone(), stack.sidecar.proposals());
        silent.push(tokio::spawn(async move {
            proposer.propose(vec![set(&format!("s{n}"), "1")], deadline_in(Duration::from_millis(500))).await
        }));
        until("it has a batch of its own", || stack.sidecar.proposals() > before).await;
    }
    for write in silent {
        let answer = write.await.expect("writer");
        assert!(matches!(answer, Err(BackendError::OutcomeUnknown(_))), "{answer:?}");
    }
    stack.sidecar.fate(|_| Fate::Apply);
    proposer.propose(vec![set("b", "1")], deadline_in(Duration::from_secs(2))).await.expect("slots are free again");
}

#[tokio::test]
async fn a_sequence_that_was_given_up_is_stale_when_it_arrives_late() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    proposer.propose(vec![set("first", "1")], deadline_in(PATIENT)).await.expect("written");
    // The sequence of the last batch, and the mark that came with it: no lower sequence is repeated any more.
    let (sequence, mark) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let noted = |fate: Fate| {
        let (sequence, mark) = (Arc::clone(&sequence), Arc::clone(&mark));
        stack.sidecar.fate(move |proposal| {
            if let Proposal::Batch(batch) = proposal {
                sequence.store(batch.sequence, Ordering::SeqCst);
                mark.store(batch.acknowledged_below, Ordering::SeqCst);
            }
            fate
        });
    };
    noted(Fate::Held);
    let answer = proposer.propose(vec![set("late", "1")], deadline_in(Duration::from_millis(100))).await;
    assert!(matches!(answer, Err(BackendError::OutcomeUnknown(_))), "{answer:?}");
    let given_up = sequence.load(Ordering::SeqCst);

    noted(Fate::Apply);
    // Its slot may be freed a moment after its writer was told; from then on the mark is above it.
    let (mut writes, by) = (0, deadline_in(PATIENT));
    while mark.load(Ordering::SeqCst) <= given_up {
        assert!(Instant::now() < by, "its sequence is never given up");
        proposer.propose(vec![set("late", "2")], by).await.expect("written");
        writes += 1;
    }
    stack.sidecar.let_go();
    stack.sidecar.settle().await;
    let entry = stack.store.get(&key("late")).expect("read").expect("there");
    assert_eq!(entry.value, Some(raftkv_kv::Value::text("2", &Default::default()).expect("small")));
    assert_eq!(stack.store.revision(), 1 + writes, "the late one changed nothing");
}

#[tokio::test]
async fn a_batch_that_is_being_repeated_is_never_outrun_by_so_many_that_its_answer_is_dropped() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    proposer.propose(vec![set("first", "1")], deadline_in(PATIENT)).await.expect("written");
    let (lost, repeats) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    stack.sidecar.fate({
        let (lost, repeats) = (Arc::clone(&lost), Arc::clone(&repeats));
        let stuck = key("stuck");
        move |proposal| match proposal {
            // Applied the first time, and each answer is lost.
            Proposal::Batch(batch) if batch.ops.iter().any(|op| *op.command.key() == stuck) => {
                repeats.fetch_add(1, Ordering::SeqCst);
                if lost.load(Ordering::SeqCst) { Fate::UnknownApplied } else { Fate::Apply }
            }
            _ => Fate::Apply,
        }
    });
    let stuck = tokio::spawn({
        let proposer = proposer.clone();
        async move { proposer.propose(vec![set("stuck", "1")], deadline_in(PATIENT)).await }
    });
    until("it is under way", || stack.sidecar.proposals() >= 3).await;
    // More than the state machine keeps answers of, each a batch of its own.
    let others = tokio::spawn(async move {
        for n in 0..1_500 {
            proposer.propose(vec![set(&format!("k{n}"), "1")], deadline_in(PATIENT)).await.expect("written");
        }
    });
    // They come to a halt before their end: the stuck one is repeated again and again, and nothing else is applied.
    let (mut at, by) = (0, deadline_in(PATIENT));
    while stack.store.revision() != at {
        assert!(Instant::now() < by, "they do not come to a halt");
        let seen = repeats.load(Ordering::SeqCst);
        at = stack.store.revision();
        until("it is repeated", || repeats.load(Ordering::SeqCst) >= seen + 5).await;
    }
    assert!(!others.is_finished(), "{at} writes");
    lost.store(false, Ordering::SeqCst);
    let outcomes = stuck.await.expect("writer").expect("answered from the session's record");
    assert!(matches!(outcomes[..], [Outcome::Set { created: true, .. }]), "{outcomes:?}");
    others.await.expect("writers");
    assert_eq!(stack.store.revision(), 1_502);
}

#[tokio::test]
async fn an_expired_session_is_replaced_without_the_writer_noticing() {
    let stack = Stack::start().await;
    let proposer = proposer(&stack);
    proposer.propose(vec![set("a", "1")], deadline_in(PATIENT)).await.expect("written");
    let mut jumps = 1;
    stack.sidecar.fate(move |_| {
        jumps -= 1;
        if jumps == 0 { Fate::ClockJump } else { Fate::Apply }
    });
    proposer.propose(vec![set("b", "1")], deadline_in(PATIENT)).await.expect("written under a new session");
    assert_eq!(stack.store.revision(), 2);
    assert_eq!(stack.sidecar.proposals(), 5, "session, a, b refused, session, b");
}

#[tokio::test]
async fn too_many_bytes_waiting_are_refused_before_any_work() {
    let stack = Stack::without_sidecar();
    let proposer = proposer(&stack);
    let large = "x".repeat(1_000_000);
    let mut waiting = Vec::new();
    for n in 0..70 {
        let (proposer, op) = (proposer.clone(), set(&format!("k{n}"), &large));
        waiting.push(tokio::spawn(
            async move { proposer.propose(vec![op], deadline_in(Duration::from_millis(800))).await },
        ));
    }
    // Those that fit wait for their deadline; polled in order on this one thread, the last ones found no room.
    let mut answers = Vec::new();
    for write in waiting {
        answers.push(write.await.expect("writer"));
    }
    assert!(matches!(answers[69], Err(BackendError::Overloaded { .. })), "{:?}", answers[69]);
    assert!(matches!(answers[0], Err(BackendError::Unavailable(_))), "{:?}", answers[0]);
    stack.start_sidecar().await;
    proposer.propose(vec![set("b", &large)], deadline_in(PATIENT)).await.expect("there is room again");
    assert_eq!(stack.store.revision(), 1, "nothing else was applied");
}

#[tokio::test]
async fn a_write_whose_client_hung_up_before_it_was_proposed_is_not_proposed() {
    let stack = Stack::without_sidecar();
    let proposer = proposer(&stack);
    let write = tokio::spawn({
        let proposer = proposer.clone();
        async move { proposer.propose(vec![set("gone", "1")], deadline_in(PATIENT)).await }
    });
    tokio::task::yield_now().await;
    write.abort();
    let _ = write.await;
    stack.start_sidecar().await;
    proposer.propose(vec![set("b", "1")], deadline_in(PATIENT)).await.expect("written");
    assert_eq!(stack.store.get(&key("gone")).expect("read"), None);
}

#[tokio::test]
async fn when_stopped_what_is_in_flight_finishes_and_new_writes_are_refused() {
    let stack = Stack::start().await;
    let stop = Shutdown::new();
    let (proposer, task) = Proposer::start(stack.client.proposals(), stop.clone(), GRACE);
    stack.sidecar.fate(|_| Fate::Late(Duration::from_millis(50)));
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let proposer = proposer.clone();
            tokio::spawn(async move { proposer.propose(vec![set(&format!("k{n}"), "v")], deadline_in(PATIENT)).await })
        })
        .collect();
    until("a batch is under way", || stack.sidecar.proposals() >= 2).await;
    stop.trigger();
    task.await.expect("ends");
    for write in writes {
        write.await.expect("writer").expect("finished within the grace period");
    }
    let answer = proposer.propose(vec![set("new", "v")], deadline_in(PATIENT)).await;
    assert_eq!(answer, Err(BackendError::ShuttingDown));
}

#[tokio::test]
async fn when_the_grace_period_ends_writes_in_flight_are_unknown() {
    let stack = Stack::start().await;
    let stop = Shutdown::new();
    let (proposer, task) = Proposer::start(stack.client.proposals(), stop.clone(), Duration::from_millis(50));
    proposer.propose(vec![set("first", "1")], deadline_in(PATIENT)).await.expect("written");
    stack.sidecar.fate(|_| Fate::Silent);
    let write = tokio::spawn(async move { proposer.propose(vec![set("a", "v")], deadline_in(PATIENT)).await });
    until("it is under way", || stack.sidecar.proposals() >= 3).await;
    stop.trigger();
    task.await.expect("ends");
    let answer = write.await.expect("writer");
    assert!(matches!(answer, Err(BackendError::OutcomeUnknown(_))), "{answer:?}");
}
