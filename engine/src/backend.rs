//! [`EngineBackend`]: the key-value store of one group, as used by the HTTP surfaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raftkv_backend::{Backend, BackendError, Consistency, Entry, ListRequest, Page, Read, RequestContext, ServedBy};
use raftkv_http::RaftStats;
use raftkv_http::limits::{self, CountedList, MAX_LISTS, NODE_RUNNING_LISTS};
use raftkv_kv::{Key, Op, Outcome};
use raftkv_proto::consensus::ConsensusStatus;
use raftkv_store::{Store, StoreError};
use tokio::sync::{Mutex, Semaphore};

use crate::barrier::Barriers;
use crate::budget::Budget;
use crate::consensus_client::ConsensusClient;
use crate::disk_guard::DiskGuard;
use crate::membership;
use crate::proposer::Proposer;

/// Retry delay for a rejected listing.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Cache time of the readiness answer: load balancers ask often, and readiness changes only with elections.
const READY_KEPT: Duration = Duration::from_millis(500);
/// Timeout of the sidecar's status; without an answer the node is not ready.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A [`Backend`] on top of the local store; writes and read barriers go through the sidecar. Cloning shares the state.
#[derive(Clone)]
pub struct EngineBackend {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    store: Store,
    consensus: ConsensusClient,
    proposer: Proposer,
    barriers: Barriers,
    disk: DiskGuard,
    scans: Budget,
    running_scans: Arc<Semaphore>,
    ready: Mutex<Option<(Instant, Result<(), BackendError>)>>,
    caught_up: AtomicBool,
}

impl EngineBackend {
    /// Assembles the backend. `name` is the node name.
    pub fn new(
        name: String,
        store: Store,
        consensus: ConsensusClient,
        proposer: Proposer,
        barriers: Barriers,
        disk: DiskGuard,
    ) -> Self {
        let shared = Shared {
            name,
            store,
            consensus,
            proposer,
            barriers,
            disk,
            scans: Budget::new(MAX_LISTS),
            running_scans: Arc::new(Semaphore::new(NODE_RUNNING_LISTS)),
            ready: Mutex::new(None),
            caught_up: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a long read outside the async threads, within the limit of concurrent scans.
    pub(crate) async fn scan<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, BackendError> {
        let late = || BackendError::DeadlineExceeded("the listing was not done in time".to_owned());
        let Some(share) = self.shared.scans.take(1) else {
            limits::count_refused_list();
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let counted = CountedList::begin();
        let turn = Arc::clone(&self.shared.running_scans).acquire_owned();
        let turn = match tokio::time::timeout_at(deadline.into(), turn).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => return Err(BackendError::ShuttingDown),
            Err(_) => return Err(late()),
        };
        let store = self.shared.store.clone();
        let scan = tokio::task::spawn_blocking(move || {
            // Held until the scan ends, even if the client leaves earlier.
            let (_share, _turn, _counted) = (share, turn, counted);
            work(&store)
        });
        match tokio::time::timeout_at(deadline.into(), scan).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(BackendError::ShuttingDown),
            Err(_) => Err(late()),
        }
    }

    /// The local store.
    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The barriers for consistent reads.
    pub(crate) fn barriers(&self) -> &Barriers {
        &self.shared.barriers
    }

    /// The sidecar.
    pub(crate) fn consensus(&self) -> &ConsensusClient {
        &self.shared.consensus
    }

    /// The disk guard of the store.
    pub(crate) fn disk(&self) -> &DiskGuard {
        &self.shared.disk
    }

    async fn ask_ready(&self) -> Result<(), BackendError> {
        let status = self.shared.consensus.status(Instant::now() + READY_TIMEOUT).await?;
        check_ready(&status).map_err(|why| BackendError::Unavailable(why.to_owned()))?;
        if !self.has_caught_up() {
            self.shared.barriers.wait(Consistency::Linearizable, Instant::now() + READY_TIMEOUT).await?;
            self.shared.caught_up.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the store has caught up with the group once since this process started. Before, the store has the state
    /// of the last flush, possibly from before the group joined a sharded store. Updated by [`ready`].
    ///
    /// [`ready`]: Backend::ready
    pub(crate) fn has_caught_up(&self) -> bool {
        self.shared.caught_up.load(Ordering::Acquire)
    }
}

impl Backend for EngineBackend {
    async fn write(&self, ctx: RequestContext, ops: Vec<Op>) -> Result<Vec<Outcome>, BackendError> {
        self.shared.barriers.check_service()?;
        self.shared.disk.check(&ops)?;
        self.shared.proposer.propose(ops, ctx.deadline).await
    }

    async fn get(&self, ctx: RequestContext, key: Key) -> Result<Read<Option<Entry>>, BackendError> {
        let store = &self.shared.store;
        let read = || async {
            // Taken before the read: the data read is at least as new.
            let store_revision = store.revision();
            // On this thread: a single lookup costs less than a handover.
            let value = store.get(&key).map_err(read_failed)?;
            Ok(Read { value, store_revision, consistency: ctx.consistency })
        };
        self.shared.barriers.read(ctx.consistency, ctx.deadline, read).await
    }

    async fn list(&self, ctx: RequestContext, request: ListRequest) -> Result<Read<Page>, BackendError> {
        let read = || async {
            let request = request.clone();
            let scan = move |store: &Store| (store.revision(), store.list(&request));
            let (store_revision, page) = self.scan(ctx.deadline, scan).await?;
            let value = page.map_err(read_failed)?;
            Ok(Read { value, store_revision, consistency: ctx.consistency })
        };
        self.shared.barriers.read(ctx.consistency, ctx.deadline, read).await
    }

    async fn join(&self, ctx: RequestContext, name: String, raft_address: String) -> Result<String, BackendError> {
        self.shared.consensus.join(ctx.deadline, name, raft_address).await
    }

    async fn remove(&self, ctx: RequestContext, name: String) -> Result<String, BackendError> {
        self.shared.consensus.remove(ctx.deadline, name).await
    }

    fn served_by(&self) -> ServedBy {
        ServedBy { node: self.shared.name.clone() }
    }

    async fn ready(&self) -> Result<(), BackendError> {
        // Held during the call: concurrent callers share one answer.
        let mut kept = self.shared.ready.lock().await;
        if let Some((at, answer)) = &*kept
            && at.elapsed() < READY_KEPT
        {
            return answer.clone();
        }
        let answer = self.ask_ready().await;
        *kept = Some((Instant::now(), answer.clone()));
        answer
    }
}

impl RaftStats for EngineBackend {
    async fn raft_stats(&self, ctx: RequestContext) -> Result<BTreeMap<String, String>, BackendError> {
        let status = self.shared.consensus.status(ctx.deadline).await?;
        Ok(membership::stats(&status))
    }
}

/// Whether a node in this state can answer requests.
///
/// # Errors
/// The reason the node is not ready.
fn check_ready(status: &ConsensusStatus) -> Result<(), &str> {
    match status.role.as_str() {
        _ if !status.not_ready.is_empty() => Err(&status.not_ready),
        "waiting" => Err("this node has not joined a cluster yet"),
        "removed" => Err("this node was removed from its cluster"),
        "learner" => Err("this node is still catching up"),
        _ if status.leader_raft_id == 0 => Err("no leader is known"),
        _ => Ok(()),
    }
}

pub(crate) fn read_failed(error: StoreError) -> BackendError {
    match error {
        StoreError::Stopped => BackendError::ShuttingDown,
        StoreError::WrongGroup => BackendError::WrongGroup,
        error => {
            tracing::error!("read from the store: {error}");
            BackendError::Internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: &str, leader_raft_id: u64) -> ConsensusStatus {
        ConsensusStatus { role: role.to_owned(), leader_raft_id, ..ConsensusStatus::default() }
    }

    #[test]
    fn a_node_is_ready_when_it_is_a_voter_and_knows_a_leader() {
        assert!(check_ready(&status("leader", 7)).is_ok());
        assert!(check_ready(&status("follower", 7)).is_ok());
        for (role, leader) in [("follower", 0), ("candidate", 0), ("learner", 7), ("waiting", 0), ("removed", 7)] {
            assert!(check_ready(&status(role, leader)).is_err(), "{role}");
        }
        let behind = ConsensusStatus { not_ready: "entries stand still".to_owned(), ..status("follower", 7) };
        assert_eq!(check_ready(&behind), Err("entries stand still"));
    }
}
