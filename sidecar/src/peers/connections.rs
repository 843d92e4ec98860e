//! [`Peers`]: cached connections to the other members.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftkv_proto::raft::append_response::Outcome;
use raftkv_proto::raft::{AppendResponse, raft_client};
use raftkv_proto::{
    CLUSTER_ID_HEADER, MAX_MESSAGE_BYTES, SENDER_ID_HEADER, TARGET_ID_HEADER, WIRE_VERSION, WIRE_VERSION_HEADER,
};
use raftkv_runtime::clock::boottime_ns;
use raftkv_runtime::grpc::{Meter, Reading, SentBytes, bulk, connect_lazy_metered};
use raftkv_runtime::stage::Stage;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::full::FullMembers;
use super::work::Work;
use crate::raft::acks::{Ack, Acks};
use crate::raft::group_clock::GroupClock;
use crate::raft::handover::Handover;
use crate::raft::keeper::Keeper;
use crate::raft::progress::Progress;
use crate::raft::types::{LeaderId, NodeId, StoredMembership};

/// The generated client over a cached channel.
pub type RaftClient = raft_client::RaftClient<Channel>;

/// How long a connection may take to come up: longer than a retransmitted SYN on a LAN is not worth waiting for.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A peer that vanished without closing is noticed after this plus [`KEEPALIVE_TIMEOUT`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(2_000);
/// How long an HTTP/2 ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(4_000);
/// The same for entries and forwarded requests: a ping waits behind them in the kernel's buffer, on a slow link for many seconds.
/// The connection is made again much earlier when what is in it does not move.
const BUSY_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);
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
    me: NodeId,
    pub(super) progress: Progress,
    pub(super) clock: GroupClock,
    pub(super) keeper: Keeper,
    acks: Acks,
    /// Whether this node's entries get through, for the watch over it and for what members are told of it.
    pub(crate) work: Work,
    /// Whose disk is nearly full, as they say.
    pub(crate) full: FullMembers,
    /// Whom the leader has named as its successor.
    pub(crate) handover: Handover,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    channels: Mutex<HashMap<(String, Lane), Channel>>,
    /// Where members are, as the newest membership known here says.
    places: watch::Sender<HashMap<NodeId, Place>>,
    /// Of the connections that carry entries and forwarded requests.
    meters: Mutex<HashMap<(String, Lane), Meter>>,
    /// Members that are being sent a snapshot.
    in_snapshot: Mutex<HashSet<NodeId>>,
}

/// A snapshot is on its way to a member, until this is dropped.
pub(super) struct SnapshotUnderWay {
    shared: Arc<Shared>,
    target: NodeId,
}

impl Drop for SnapshotUnderWay {
    fn drop(&mut self) {
        self.shared.in_snapshot.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.target);
    }
}

/// Where a member is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    address: String,
    /// Rises when the connection for entries is to be made again.
    attempt: u64,
}

/// Says when a stream of entries is to be ended, because its peer has moved or its connection does not work.
pub(super) struct Moves {
    target: NodeId,
    begun: Option<Place>,
    places: watch::Receiver<HashMap<NodeId, Place>>,
}

impl Moves {
    /// Returns once it is; never after the group has ended.
    pub(super) async fn next(&mut self) {
        let (target, begun) = (self.target, &self.begun);
        if self.places.wait_for(|places| places.get(&target) != begun.as_ref()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Peers {
    /// Of the node `me`. No connections yet.
    ///
    /// What the peers are told of commits follows `progress`, and they are told what `clock` shows; what they answer is noted in `acks`; leadership is
    /// transferred only after `keeper` has revoked the lease.
    pub fn new(
        cluster_id: String,
        me: NodeId,
        progress: Progress,
        clock: GroupClock,
        acks: Acks,
        keeper: Keeper,
    ) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            me,
            progress,
            clock,
            keeper,
            acks,
            work: Work::default(),
            full: FullMembers::default(),
            handover: Handover::default(),
            shared: Arc::default(),
        }
    }

    /// Follows the newest membership: streams and heartbeats to a member that has another address now end and begin there,
    /// and connections to addresses of no member are forgotten.
    pub fn follow(&self, membership: &StoredMembership) {
        let members: HashMap<NodeId, &str> =
            membership.nodes().map(|(id, member)| (*id, member.raft_address.as_str())).collect();
        self.shared.places.send_if_modified(|places| {
            let is_same = places.len() == members.len()
                && members.iter().all(|(id, address)| places.get(id).is_some_and(|place| place.address == *address));
            if !is_same {
                let of = |id: &NodeId, address: &str| match places.get(id) {
                    Some(place) if place.address == address => place.clone(),
                    _ => Place { address: address.to_owned(), attempt: 0 },
                };
                *places = members.iter().map(|(id, address)| (*id, of(id, address))).collect();
            }
            !is_same
        });
        self.lock_channels().retain(|(address, _), _| members.values().any(|member| member == address));
        self.lock_meters().retain(|(address, _), _| members.values().any(|member| member == address));
        self.full.retain(|member| members.contains_key(&member));
    }

    /// Where `target` is; `None` = it is no member that is known here.
    pub(super) fn address_of(&self, target: NodeId) -> Option<String> {
        self.shared.places.borrow().get(&target).map(|place| place.address.clone())
    }

    /// To be asked for before a stream of entries to `target` is opened.
    pub(super) fn moves_of(&self, target: NodeId) -> Moves {
        let places = self.shared.places.subscribe();
        let begun = places.borrow().get(&target).cloned();
        Moves { target, begun, places }
    }

    /// Gives up the connection that carries entries to `target`, and all that is on its way in it: the next one is a new one.
    pub fn remake(&self, target: NodeId) {
        let Some(address) = self.address_of(target) else { return };
        self.lock_channels().remove(&(address, Lane::Append));
        self.shared.places.send_modify(|places| {
            if let Some(place) = places.get_mut(&target) {
                place.attempt += 1;
            }
        });
    }

    /// Notes that a snapshot is on its way to `target`.
    pub(super) fn snapshot_begins(&self, target: NodeId) -> SnapshotUnderWay {
        self.shared.in_snapshot.lock().unwrap_or_else(PoisonError::into_inner).insert(target);
        SnapshotUnderWay { shared: self.shared.clone(), target }
    }

    /// Whether a snapshot is on its way to `target`.
    pub fn is_in_snapshot(&self, target: NodeId) -> bool {
        self.shared.in_snapshot.lock().unwrap_or_else(PoisonError::into_inner).contains(&target)
    }

    /// How far the bytes of the connection that carries entries to `target` have come; `None` while there is none. Blocks for
    /// a moment.
    pub fn entries_reading(&self, target: NodeId) -> Option<Reading> {
        self.reading(&self.address_of(target)?, Lane::Append)
    }

    /// The same for any metered connection, those of [`Lane::Append`] and [`Lane::Forward`].
    pub fn reading(&self, address: &str, lane: Lane) -> Option<Reading> {
        let meter = self.lock_meters().get(&(address.to_owned(), lane))?.clone();
        meter.read()
    }

    /// Notes that `target` has answered what `leader` sent at `sent_ns`, unless it refused; and what it says of its disk.
    pub(super) fn note_ack(&self, target: NodeId, leader: LeaderId, sent_ns: u64, response: &AppendResponse) {
        self.full.heard(target, response.disk_nearly_full);
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
        let mut channels = self.lock_channels();
        if let Some(channel) = channels.get(&(address.to_owned(), lane)) {
            return Ok(Self::wrap(channel.clone()));
        }
        let endpoint = Self::endpoint(address)?;
        let channel = match lane {
            Lane::Append | Lane::Forward => {
                let meter = self.lock_meters().entry((address.to_owned(), lane)).or_default().clone();
                connect_lazy_metered(&endpoint.keep_alive_timeout(BUSY_KEEPALIVE_TIMEOUT), meter)
            }
            Lane::Heartbeat | Lane::Snapshot => endpoint.connect_lazy(),
        };
        channels.insert((address.to_owned(), lane), channel.clone());
        Ok(Self::wrap(channel))
    }

    /// Gives up the connection of one lane to an address: the next client makes a new one.
    pub fn drop_connection(&self, address: &str, lane: Lane) {
        self.lock_channels().remove(&(address.to_owned(), lane));
    }

    /// A client on a connection of its own for a snapshot, and how much it has sent. Not kept: snapshots are rare.
    pub fn bulk_client(&self, address: &str) -> Result<(RaftClient, SentBytes), tonic::transport::Error> {
        let (channel, sent) = bulk(address)?;
        Ok((Self::wrap(channel), sent))
    }

    /// A client on a connection of its own that is up, for talking to a node that may not be a member.
    pub async fn dial(address: &str) -> Result<RaftClient, tonic::transport::Error> {
        Ok(Self::wrap(Self::endpoint(address)?.connect().await?))
    }

    /// Forgets the connections to an address that is no longer a member's.
    pub fn forget(&self, address: &str) {
        self.lock_channels().retain(|(known, _), _| known != address);
    }

    fn lock_channels(&self) -> MutexGuard<'_, HashMap<(String, Lane), Channel>> {
        self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_meters(&self) -> MutexGuard<'_, HashMap<(String, Lane), Meter>> {
        self.shared.meters.lock().unwrap_or_else(PoisonError::into_inner)
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
        metadata.insert(SENDER_ID_HEADER, MetadataValue::from(self.me));
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
