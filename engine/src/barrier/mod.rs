//! [`Barriers`]: what makes a read of local data linearizable.

mod lane;
mod lease;
mod service;

use std::time::{Duration, Instant};

use raftkv_backend::{BackendError, Consistency};
use raftkv_proto::consensus::BarrierMode;
use raftkv_runtime::planted;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::budget::Budget;
use crate::consensus_client::ConsensusClient;
use crate::trouble::Trouble;

use lane::{Lane, PendingRead};
use lease::Lease;
use service::Service;

/// Reads that may wait for a barrier; the next one is told to come back.
pub const MAX_WAITING_READS: usize = 16 * 1024;
/// When a reader that was turned away should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Asks consensus up to where a read must have applied, and waits until the store has.
///
/// All reads that wait when a barrier leaves share it. A read never uses a barrier that left before the read came:
/// it might miss a write that was acknowledged in between. Cloning shares the lanes.
#[derive(Debug, Clone)]
pub struct Barriers {
    lease: Lease,
    service: Service,
    linearizable: mpsc::UnboundedSender<PendingRead>,
    quorum: mpsc::UnboundedSender<PendingRead>,
    waiting: Budget,
    trouble: Trouble,
}

impl Barriers {
    /// Starts the tasks behind it. `applied` is the store's next index.
    ///
    /// After `stop` the tasks end at once: whoever drains requests does so before.
    pub fn start(
        client: &ConsensusClient,
        applied: watch::Receiver<u64>,
        stop: &Shutdown,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let trouble = Trouble::default();
        let lane = |mode| {
            let (sender, reads) = mpsc::unbounded_channel();
            let lane = Lane::new(mode, client.read_barriers(), reads, applied.clone(), trouble.clone());
            (sender, tokio::spawn(lane.run(stop.clone())))
        };
        let (linearizable, linearizable_task) = lane(BarrierMode::Lease);
        let (quorum, quorum_task) = lane(BarrierMode::ReadIndex);
        let (lease, service) = (Lease::default(), Service::default());
        let keeping = lease.clone().keep(service.clone(), client.leases(), applied.clone(), stop.clone());
        let lease_task = tokio::spawn(keeping);
        let waiting = Budget::new(MAX_WAITING_READS);
        (
            Self { lease, service, linearizable, quorum, waiting, trouble },
            vec![linearizable_task, quorum_task, lease_task],
        )
    }

    /// Whether this node serves anything, stale reads and writes included.
    ///
    /// # Errors
    /// `Unavailable`, with the reason that the sidecar gives: the node was removed from its cluster, say.
    pub(crate) fn check_service(&self) -> Result<(), BackendError> {
        self.service.check()
    }

    /// What `read` gives, with the freshness asked for. Under the leader's lease that is one read and two looks at a clock;
    /// a lease that ran out in between makes it a second read, after a barrier.
    ///
    /// # Errors
    /// Those of `read` and of [`wait`](Self::wait).
    pub async fn read<T, F, R>(&self, consistency: Consistency, deadline: Instant, read: F) -> Result<T, BackendError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, BackendError>>,
    {
        if consistency == Consistency::Linearizable && self.lease.holds() {
            let value = read().await?;
            if self.lease.holds() {
                return Ok(value);
            }
            metrics::counter!("raftkv_engine_lease_lapsed_reads_total").increment(1);
        }
        self.wait(consistency, deadline).await?;
        read().await
    }

    /// Returns once a read of the store has the freshness asked for.
    ///
    /// # Errors
    /// `Unavailable` at the deadline, and at once while the group is known to have no leader: a node cut off from its group says so instead of serving something old.
    pub async fn wait(&self, consistency: Consistency, deadline: Instant) -> Result<(), BackendError> {
        self.check_service()?;
        let lane = match consistency {
            Consistency::Stale => return Ok(()),
            _ if planted!(LocalReads) => return Ok(()),
            Consistency::Linearizable => &self.linearizable,
            Consistency::Quorum => &self.quorum,
        };
        let Some(_share) = self.waiting.take(1) else {
            metrics::counter!("raftkv_engine_reads_shed_total").increment(1);
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (passed, waiter) = oneshot::channel();
        if lane.send(PendingRead { deadline, passed }).is_err() {
            return Err(BackendError::ShuttingDown);
        }
        match tokio::time::timeout_at(deadline.into(), waiter).await {
            Ok(Ok(passed)) => passed.map_err(BackendError::Unavailable),
            Ok(Err(_)) => Err(BackendError::ShuttingDown),
            Err(_) => Err(BackendError::Unavailable(self.trouble.explain("no leader confirmed the read in time"))),
        }
    }
}
