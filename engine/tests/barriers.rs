//! Read barriers: a read never sees less than what was acknowledged before it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Stack, deadline_in, until};
use raftkv_backend::{BackendError, Consistency};
use raftkv_engine::barrier::Barriers;
use raftkv_proto::consensus::RefusedReason;
use tokio::sync::watch;

const PATIENT: Duration = Duration::from_secs(20);

fn barriers(stack: &Stack, applied: &watch::Sender<u64>) -> Barriers {
    Barriers::start(&stack.client, applied.subscribe(), &stack.stop).0
}

#[tokio::test]
async fn a_read_never_uses_a_barrier_that_left_before_it_came() {
    let stack = Stack::start().await;
    let applied = watch::Sender::new(100);
    let barriers = barriers(&stack, &applied);
    // The first barrier is noted at once and answered late, but before the next one leaves because of that; later ones
    // are answered at once, but only when allowed: the first of them with all that is committed, the rest with less.
    let (first_answer, second_allowed) = (Duration::from_millis(30), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut first = true;
    let (allowed, answers) = (Arc::clone(&second_allowed), Arc::clone(&answered));
    stack.sidecar.barrier(move |committed| {
        if std::mem::take(&mut first) {
            (first_answer, Ok(committed))
        } else if allowed.load(Ordering::SeqCst) {
            let next_index = if answers.fetch_add(1, Ordering::SeqCst) == 0 { committed } else { 120 };
            (Duration::ZERO, Ok(next_index))
        } else {
            (Duration::ZERO, Err(RefusedReason::NoLeader))
        }
    });

    let early = tokio::spawn({
        let barriers = barriers.clone();
        async move { barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await }
    });
    until("its barrier is under way", || stack.sidecar.barriers() > 0).await;
    // A write is acknowledged while that barrier is under way, and only then a read is asked.
    stack.sidecar.commit(150);
    let late = tokio::spawn({
        let barriers = barriers.clone();
        async move { barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await }
    });
    early.await.expect("reader").expect("its barrier was answered");
    // Its own barriers leave after that answer, and are refused.
    let seen = stack.sidecar.barriers();
    until("it asks again and again", || stack.sidecar.barriers() >= seen + 3).await;
    assert!(!late.is_finished(), "the answer to the early barrier says nothing about the late read");

    second_allowed.store(true, Ordering::SeqCst);
    until("its barrier is answered", || answered.load(Ordering::SeqCst) > 0).await;
    // Answers come in their order: once a read that needs less is served, the late one has its answer, too.
    applied.send_replace(120);
    barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await.expect("served");
    tokio::task::yield_now().await;
    assert!(!late.is_finished(), "the store has not applied that far");
    applied.send_replace(150);
    late.await.expect("reader").expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_see_every_write_acknowledged_before_they_asked() {
    for consistency in [Consistency::Linearizable, Consistency::Quorum] {
        let stack = Stack::start().await;
        let applied = Arc::new(watch::Sender::new(0));
        let barriers = barriers(&stack, &applied);
        stack.sidecar.barrier(|committed| match rand::random_range(0..100) {
            0..=4 => (Duration::ZERO, Err(RefusedReason::NoLeader)),
            5 => (Duration::ZERO, Err(RefusedReason::Unspecified)),
            6..=15 => (Duration::from_millis(rand::random_range(0..120)), Ok(committed)),
            _ => (Duration::ZERO, Ok(committed)),
        });
        // The log grows all the time, and this node applies it late.
        let writer = tokio::spawn({
            let (sidecar, applied) = (stack.sidecar.clone(), Arc::clone(&applied));
            async move {
                for index in 1.. {
                    sidecar.commit(index);
                    tokio::time::sleep(Duration::from_micros(500)).await;
                    applied.send_replace(index.saturating_sub(5));
                }
            }
        });
        let readers: Vec<_> = (0..32)
            .map(|_| {
                let (barriers, sidecar, applied) = (barriers.clone(), stack.sidecar.clone(), Arc::clone(&applied));
                tokio::spawn(async move {
                    for _ in 0..100 {
                        let acknowledged = sidecar.committed();
                        barriers.wait(consistency, deadline_in(PATIENT)).await.expect("served");
                        let seen = *applied.borrow();
                        assert!(seen >= acknowledged, "saw {seen} after {acknowledged} was acknowledged");
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.expect("reader");
        }
        writer.abort();
        let asked = stack.sidecar.barriers();
        assert!(asked < 3_200, "{asked} barriers for 3200 reads: they are shared");
    }
}

#[tokio::test]
async fn the_reads_that_wait_share_a_barrier() {
    let stack = Stack::start().await;
    let applied = watch::Sender::new(7);
    stack.sidecar.commit(7);
    let barriers = barriers(&stack, &applied);
    stack.sidecar.barrier(|committed| (Duration::from_millis(20), Ok(committed)));
    let readers: Vec<_> = (0..500)
        .map(|_| {
            let barriers = barriers.clone();
            tokio::spawn(async move { barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await })
        })
        .collect();
    for reader in readers {
        reader.await.expect("reader").expect("served");
    }
    assert!(stack.sidecar.barriers() <= 3, "{} barriers", stack.sidecar.barriers());
}

#[tokio::test]
async fn a_node_without_a_leader_says_so_at_the_deadline_and_still_serves_stale_reads() {
    let stack = Stack::start().await;
    let applied = watch::Sender::new(0);
    let barriers = barriers(&stack, &applied);
    stack.sidecar.barrier(|_| (Duration::ZERO, Err(RefusedReason::NoLeader)));
    let asked = Instant::now();
    let answer = barriers.wait(Consistency::Linearizable, deadline_in(Duration::from_millis(300))).await;
    assert!(matches!(&answer, Err(BackendError::Unavailable(why)) if why.contains("no leader")), "{answer:?}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(barriers.wait(Consistency::Stale, asked).await, Ok(()));
}

#[tokio::test]
async fn a_read_waits_out_an_election_and_a_lost_sidecar() {
    let stack = Stack::start().await;
    let applied = watch::Sender::new(0);
    let barriers = barriers(&stack, &applied);
    let asked = AtomicUsize::new(0);
    stack.sidecar.barrier(move |committed| match asked.fetch_add(1, Ordering::SeqCst) {
        0..=3 => (Duration::ZERO, Err(RefusedReason::NoLeader)),
        // The stream breaks.
        4..=5 => (Duration::ZERO, Err(RefusedReason::Unspecified)),
        _ => (Duration::ZERO, Ok(committed)),
    });
    barriers.wait(Consistency::Quorum, deadline_in(PATIENT)).await.expect("served in the end");
}

#[tokio::test]
async fn a_barrier_that_hangs_does_not_hold_up_later_reads() {
    let stack = Stack::start().await;
    let applied = watch::Sender::new(0);
    let barriers = barriers(&stack, &applied);
    let mut first = true;
    stack.sidecar.barrier(move |committed| {
        let pause = if std::mem::take(&mut first) { Duration::from_secs(60) } else { Duration::ZERO };
        (pause, Ok(committed))
    });
    let early = tokio::spawn({
        let barriers = barriers.clone();
        async move { barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await }
    });
    until("its barrier is under way", || stack.sidecar.barriers() > 0).await;
    let asked = Instant::now();
    barriers.wait(Consistency::Linearizable, deadline_in(PATIENT)).await.expect("served by the next barrier");
    assert!(asked.elapsed() < Duration::from_secs(1));
    early.await.expect("reader").expect("a later barrier is good for an earlier read");
}
