//! [`EngineBackend`]: one group's key-value store, as the HTTP surfaces see it.

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

/// When a listing that was turned away should come back.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the answer to "are you ready" is kept: load balancers ask often, and the truth changes by elections.
const READY_KEPT: Duration = Duration::from_millis(500);
/// A sidecar that does not say how it is within this is not ready.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A [`Backend`] over the local store, with writes and freshness through the sidecar. Cloning shares everything.
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
    /// Puts the parts together. `name` is the node's.
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

    /// Runs what may read for long off the async threads, when its turn comes.
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
            // Kept until the scan is done, though its client may be gone before.
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

    /// What makes reads of it fresh.
    pub(crate) fn barriers(&self) -> &Barriers {
        &self.shared.barriers
    }

    /// The sidecar.
    pub(crate) fn consensus(&self) -> &ConsensusClient {
        &self.shared.consensus
    }

    /// The disk it is on.
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

    /// Whether the store has been as new as its group, once since this process began. Before, it stands where it was flushed last,
    /// and may not even know that its group is a part of a sharded store. Whoever asks whether this node is [`ready`] finds it out.
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
            // Taken before the read: what the read sees is at least that new.
            let store_revision = store.revision();
            // On this thread: one lookup costs less than handing it to another.
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
        // Held while asking: many who ask at once share one answer.
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

/// Whether a node in this state can answer requests; if not, why.
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
