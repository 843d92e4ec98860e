//! [`Peers`]: cached connections to the other members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftkv_proto::raft::append_response::Outcome;
use raftkv_proto::raft::{AppendResponse, raft_client};
use raftkv_proto::{CLUSTER_ID_HEADER, MAX_MESSAGE_BYTES, TARGET_ID_HEADER, WIRE_VERSION, WIRE_VERSION_HEADER};
use raftkv_runtime::clock::boottime_ns;
use raftkv_runtime::stage::Stage;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::lease::{Ack, Acks, Keeper};
use crate::progress::Progress;
use crate::types::{LeaderId, NodeId};

/// The generated client over a cached channel.
pub type RaftClient = raft_client::RaftClient<Channel>;

/// How long a connection may take to come up: longer than a retransmitted SYN on a LAN is not worth waiting for.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A peer that vanished without closing is noticed after this plus [`KEEPALIVE_TIMEOUT`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(2_000);
/// How long an HTTP/2 ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(4_000);
/// Large windows: a page of entries must not wait for a window update.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// What a connection is for. Each has its own, so that none waits behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Replication.
    Append,
    /// Heartbeats, votes and leadership transfer: small and urgent.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Forwarded proposals and barriers.
    Forward,
}

/// Connections to the other members, made on first use and kept. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    cluster_id: Arc<str>,
    pub(super) progress: Progress,
    pub(super) keeper: Keeper,
    acks: Acks,
    channels: Arc<Mutex<HashMap<(String, Lane), Channel>>>,
}

impl Peers {
    /// No connections yet.
    ///
    /// What the peers are told of commits follows `progress`; what they answer is noted in `acks`; leadership is
    /// transferred only after `keeper` has revoked the lease.
    pub fn new(cluster_id: String, progress: Progress, acks: Acks, keeper: Keeper) -> Self {
        Self { cluster_id: cluster_id.into(), progress, keeper, acks, channels: Arc::default() }
    }

    /// Notes that `target` has answered what `leader` sent at `sent_ns`, unless it refused.
    pub(super) fn note_ack(&self, target: NodeId, leader: LeaderId, sent_ns: u64, response: &AppendResponse) {
        if matches!(response.outcome, Some(Outcome::Matched(_))) {
            Stage::Replicate.took(Duration::from_nanos(boottime_ns().saturating_sub(sent_ns)));
            let promise = Duration::from_millis(u64::from(response.promise_ms));
            self.acks.note(target, Ack { leader, sent_ns, promise });
        }
    }

    /// The cluster every message names.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// A client for `address`. Does not connect yet; a broken connection is made again by itself.
    pub fn client(&self, address: &str, lane: Lane) -> Result<RaftClient, tonic::transport::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&(address.to_owned(), lane)) {
            return Ok(Self::wrap(channel.clone()));
        }
        let channel = Self::endpoint(address)?.connect_lazy();
        channels.insert((address.to_owned(), lane), channel.clone());
        Ok(Self::wrap(channel))
    }

    /// A client on a connection of its own that is up, for talking to a node that may not be a member.
    pub async fn dial(address: &str) -> Result<RaftClient, tonic::transport::Error> {
        Ok(Self::wrap(Self::endpoint(address)?.connect().await?))
    }

    /// Forgets the connections to an address that is no longer a member's.
    pub fn forget(&self, address: &str) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _), _| known != address);
    }

    /// Wraps a message with the cluster and the raft id it is meant for.
    pub fn request<T>(&self, target: NodeId, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let metadata = request.metadata_mut();
        // Cluster ids are hexadecimal and numbers are digits: always valid header values.
        if let Ok(value) = MetadataValue::try_from(self.cluster_id.as_ref()) {
            metadata.insert(CLUSTER_ID_HEADER, value);
        }
        metadata.insert(TARGET_ID_HEADER, MetadataValue::from(target));
        metadata.insert(WIRE_VERSION_HEADER, MetadataValue::from(WIRE_VERSION));
        request
    }

    fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES))
    }

    fn wrap(channel: Channel) -> RaftClient {
        RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}
