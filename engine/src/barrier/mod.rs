//! [`Barriers`]: linearizable reads of local data.

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

/// Maximum reads waiting for a barrier; further reads get a retry-after.
pub const MAX_WAITING_READS: usize = 16 * 1024;
/// Retry delay for a rejected read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Obtains the index a read requires from consensus, and waits until the store has applied up to the index.
///
/// All reads waiting when a barrier is sent share the barrier. A read never uses a barrier sent before the read
/// arrived, as the read could miss a write acknowledged in between. Cloning shares the lanes.
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
    /// Starts the background tasks. `applied` is the store's next index.
    ///
    /// After `stop` the tasks end immediately: drain requests before.
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

    /// Whether this node is in service. While out of service, stale reads and writes fail as well.
    ///
    /// # Errors
    /// `Unavailable`, with the reason given by the sidecar, for example a node removed from the cluster.
    pub(crate) fn check_service(&self) -> Result<(), BackendError> {
        self.service.check()
    }

    /// Runs `read` at the requested consistency level. Under the leader lease the cost is one read and two clock
    /// checks; if the lease expires in between, the read is repeated after a barrier.
    ///
    /// # Errors
    /// The errors of `read` and of [`wait`](Self::wait).
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

    /// Returns once a read of the store satisfies the consistency level.
    ///
    /// # Errors
    /// `Unavailable` at the deadline, and immediately while the group is known to have no leader: a node cut off from
    /// the group returns an error instead of stale data. `Overloaded` if too many reads are waiting.
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
