//! Description of this node and the state of the group.

use std::time::{Duration, Instant};

use raftkv_proto::consensus::{ConsensusStatus, Member};
use raftkv_proto::group as pb;
use tokio::sync::Mutex;
use tonic::Status;

use super::status;
use crate::backend::{EngineBackend, read_failed};

/// Cache time of the sidecar's status: every router asks about once per second.
const KEPT: Duration = Duration::from_millis(200);
/// Timeout of the sidecar's status; without an answer the description omits the status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// Role of a node without an answer from the sidecar.
const UNKNOWN_ROLE: &str = "unknown";

/// The last status of the sidecar.
#[derive(Debug, Default)]
pub(super) struct KeptStatus(Mutex<Option<(Instant, ConsensusStatus)>>);

impl KeptStatus {
    async fn get(&self, backend: &EngineBackend) -> ConsensusStatus {
        // Held during the call: concurrent callers share one answer.
        let mut kept = self.0.lock().await;
        if let Some((at, status)) = &*kept
            && at.elapsed() < KEPT
        {
            return status.clone();
        }
        let asked = backend.consensus().status(Instant::now() + STATUS_TIMEOUT).await;
        let status = asked.unwrap_or_else(|error| {
            tracing::debug!("the status of the sidecar is unavailable: {error}");
            ConsensusStatus { role: UNKNOWN_ROLE.to_owned(), ..ConsensusStatus::default() }
        });
        *kept = Some((Instant::now(), status.clone()));
        status
    }
}

/// Describes this node from local state, possibly stale.
pub(super) async fn describe(
    name: &str,
    backend: &EngineBackend,
    kept: &KeptStatus,
    timeout: Duration,
) -> Result<pb::Description, Status> {
    let consensus = kept.get(backend).await;
    let found = backend.scan(Instant::now() + timeout, |store| store.status()).await;
    let store = found.map_err(status::of_backend)?.map_err(|error| status::of_backend(read_failed(error)))?;
    let leads = |member: &&Member| consensus.leader_raft_id != 0 && member.raft_id == consensus.leader_raft_id;
    Ok(pb::Description {
        node: name.to_owned(),
        leader: consensus.members.iter().find(leads).map(|member| member.name.clone()).unwrap_or_default(),
        members: consensus.members.into_iter().map(member).collect(),
        cluster_id: consensus.cluster_id,
        role: consensus.role,
        term: consensus.term,
        ownership: store.ownership.encode(),
        keys: store.keys,
        revision: store.revision,
        clock_ms: store.clock_ms,
        applied_next_index: store.position.next_index,
        disk_bytes: store.disk_bytes,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_hash: store.state_hash,
        cluster_version: store.version,
    })
}

fn member(member: Member) -> pb::Member {
    pb::Member {
        name: member.name,
        voter: member.voter,
        http_address: member.http_address,
        management_address: member.management_address,
        group_address: member.group_address,
    }
}
