//! The leader's lease: reads that ask nobody, and what makes them ask again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Stack, deadline_in, until};
use raftkv_backend::Consistency;
use raftkv_engine::barrier::Barriers;
use raftkv_proto::consensus::LeaseGrant;
use raftkv_runtime::clock;
use tokio::sync::watch;
use tonic::Status;

const PATIENT: Duration = Duration::from_secs(20);
/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(300);

fn granted(lease: Duration, next_index: u64) -> Result<LeaseGrant, Status> {
    Ok(LeaseGrant { until_ns: clock::boottime_ns() + lease.as_nanos() as u64, next_index, ..LeaseGrant::default() })
}

struct Reader {
    stack: Stack,
    barriers: Barriers,
    applied: watch::Sender<u64>,
}

impl Reader {
    async fn start() -> Self {
        let (stack, applied) = (Stack::start().await, watch::Sender::new(100));
        let barriers = Barriers::start(&stack.client, applied.subscribe(), &stack.stop).0;
        Self { stack, barriers, applied }
    }

    /// How many barriers a read costs that takes as long as `pause`, and how often it looks at the store.
    async fn cost(&self, consistency: Consistency, pause: Duration) -> (usize, usize) {
        self.cost_of(consistency, || tokio::time::sleep(pause)).await
    }

    /// How many barriers a read costs that does this, and how often it looks at the store.
    async fn cost_of<F: Future<Output = ()>>(&self, consistency: Consistency, work: impl Fn() -> F) -> (usize, usize) {
        let (before, looks) = (self.stack.sidecar.barriers(), AtomicUsize::new(0));
        let read = || async {
            looks.fetch_add(1, Ordering::SeqCst);
            work().await;
            Ok(())
        };
        self.barriers.read(consistency, deadline_in(PATIENT), read).await.expect("read");
        (self.stack.sidecar.barriers() - before, looks.into_inner())
    }

    async fn until_cost(&self, expected: usize) {
        for _ in 0..1_000 {
            if self.cost(Consistency::Linearizable, Duration::ZERO).await.0 == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("reads never came to cost {expected} barriers");
    }
}

#[tokio::test]
async fn under_a_lease_a_linearizable_read_asks_nobody() {
    let reader = Reader::start().await;
    assert_eq!(reader.cost(Consistency::Linearizable, Duration::ZERO).await, (1, 1));
    reader.stack.sidecar.lease(granted(LONG, 100)).await;
    reader.until_cost(0).await;
    assert_eq!(reader.cost(Consistency::Linearizable, Duration::ZERO).await, (0, 1));
    assert_eq!(reader.cost(Consistency::Quorum, Duration::ZERO).await, (1, 1), "this one trusts no clock");
    let hello = reader.stack.sidecar.lease_acks().remove(0);
    assert_eq!(Some(hello.clock_id), clock::boottime_id());
}

#[tokio::test]
async fn a_lease_that_ends_during_a_read_does_not_cover_it() {
    let reader = Reader::start().await;
    let lease = Duration::from_millis(400);
    reader.stack.sidecar.lease(granted(lease, 100)).await;
    reader.until_cost(0).await;
    assert_eq!(reader.cost(Consistency::Linearizable, lease).await, (1, 2), "read again, after a barrier");
}

#[tokio::test]
async fn a_revocation_during_a_read_does_not_cover_it_and_is_acknowledged() {
    let reader = Reader::start().await;
    reader.stack.sidecar.lease(granted(LONG, 100)).await;
    reader.until_cost(0).await;
    let revocation = LeaseGrant { revocation: 7, ..LeaseGrant::default() };
    let sidecar = &reader.stack.sidecar;
    let cost = reader.cost_of(Consistency::Linearizable, || async {
        // The second look has nothing to wait for.
        sidecar.lease(Ok(revocation.clone())).await;
        until("it is acknowledged", || sidecar.lease_acks().last().is_some_and(|ack| ack.revocation == 7)).await;
    });
    assert_eq!(cost.await, (1, 2));
    assert_eq!(reader.cost(Consistency::Linearizable, Duration::ZERO).await, (1, 1));
}

#[tokio::test]
async fn a_lease_does_not_outlast_its_stream() {
    let reader = Reader::start().await;
    reader.stack.sidecar.lease(granted(LONG, 100)).await;
    reader.until_cost(0).await;
    reader.stack.sidecar.lease(Err(Status::unavailable("the test breaks the stream"))).await;
    reader.until_cost(1).await;
    // And it comes back with the next one.
    reader.stack.sidecar.lease(granted(LONG, 100)).await;
    reader.until_cost(0).await;
}

#[tokio::test]
async fn a_store_that_is_behind_has_no_lease() {
    let reader = Reader::start().await;
    reader.stack.sidecar.lease(granted(LONG, 100)).await;
    reader.until_cost(0).await;
    reader.stack.sidecar.lease(granted(LONG, 101)).await;
    reader.until_cost(1).await;
    reader.applied.send_replace(101);
    assert_eq!(reader.cost(Consistency::Linearizable, Duration::ZERO).await.0, 1, "until the next grant");
    reader.stack.sidecar.lease(granted(LONG, 101)).await;
    reader.until_cost(0).await;
}
