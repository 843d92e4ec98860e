//! The gRPC service of this group for routers: [`GroupService`].
//!
//! A call may name the intended group and sharded store; on a mismatch the call fails with `UNAVAILABLE` and without
//! effect. Backend errors become status codes only in [`status`].

mod admission;
mod answers;
mod describe;
mod propose;
mod read;
mod room;
mod scan;
pub(crate) mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use raftkv_kv::Ownership;
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse, UpgradeRequest, UpgradeStatus};
use raftkv_proto::group as pb;
use raftkv_proto::group::group_server::{Group, GroupServer};
use raftkv_proto::{GROUP_HEADER, MAX_MESSAGE_BYTES, STORE_HEADER};
use raftkv_runtime::grpc::Client;
use raftkv_runtime::shutdown::Shutdown;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::backend::EngineBackend;
use crate::budget::Budget;
use crate::proposer::Shortcut;
use crate::upgrade::Upgrader;

use admission::Admission;
use describe::KeptStatus;
use read::Reader;
use room::Room;

/// Maximum request size: a proposal may be as large as a log entry, at most 16 MiB, plus a margin.
const MAX_REQUEST_BYTES: usize = 20 * 1024 * 1024;
/// Maximum open streams of proposals and of reads; each router has one or two of each. Further streams are refused as
/// overload.
const MAX_STREAMS: usize = 512;
/// Maximum bytes of unanswered proposals in all streams, half of the bytes per address: several times the bytes in
/// flight of all routers of a store. Beyond the limit proposals are refused as overload.
const PROPOSAL_ROOM_BYTES: usize = 256 * 1024 * 1024;
/// Maximum bytes in all streams of keys being read, and of values until sent. Beyond the limit reads are refused as
/// overload.
const READ_ROOM_BYTES: usize = 128 * 1024 * 1024;
/// Read requests and answers up to this size do not count against [`READ_ROOM_BYTES`], because the number of such reads
/// is bounded.
const UNCOUNTED_BYTES: usize = 4 * 1024;
/// Maximum length of a system key name, and of the start or end key of a listing: above every stored length.
const MAX_NAMED_BYTES: usize = 64 * 1024;
/// Maximum length of an export cursor, which contains a key.
const MAX_CURSOR_BYTES: usize = 2 * MAX_NAMED_BYTES;

/// Timeouts of calls.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For calls without a timeout.
    pub default: Duration,
    /// Upper bound.
    pub max: Duration,
}

impl Timeouts {
    fn deadline(&self, asked_ms: u32) -> Instant {
        let timeout = match asked_ms {
            0 => self.default,
            asked => Duration::from_millis(asked.into()).min(self.max),
        };
        Instant::now() + timeout
    }
}

/// Serves `raftkv_proto::group` on top of the parts of an engine. Cloning shares the state.
#[derive(Clone)]
pub struct GroupService {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    backend: EngineBackend,
    timeouts: Timeouts,
    admission: Admission,
    status: KeptStatus,
    upgrader: Upgrader,
    shortcut: Shortcut,
    streams: Budget,
    proposal_room: Room,
    read_room: Budget,
    stop: Shutdown,
}

impl GroupService {
    /// `name` is the node name. The store reports applied batches through `shortcut`. After `stop` streams finish
    /// accepted requests and end.
    pub fn new(name: String, backend: EngineBackend, shortcut: Shortcut, timeouts: Timeouts, stop: Shutdown) -> Self {
        let admission = Admission::new(backend.disk().clone());
        let upgrader = Upgrader::new(backend.clone());
        let shared = Shared {
            name,
            backend,
            timeouts,
            admission,
            status: KeptStatus::default(),
            upgrader,
            shortcut,
            streams: Budget::new(MAX_STREAMS),
            proposal_room: Room::new(PROPOSAL_ROOM_BYTES),
            read_room: Budget::new(READ_ROOM_BYTES),
            stop,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The [`Upgrader`] of this group.
    pub fn upgrader(&self) -> Upgrader {
        self.shared.upgrader.clone()
    }

    /// Returns the tonic service with the message size limits.
    pub fn into_server(self) -> GroupServer<Self> {
        GroupServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Refuses calls intended for another group.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        check_identity(request.metadata(), &self.shared.backend.store().ownership())
    }
}

/// Checks the group and store in the metadata, if any, against the identity of this group.
///
/// The identity known to this node may be outdated: after a wipe, a node rejoins the group before learning of the
/// sharded store. A mismatch therefore only tells the router to ask another node.
fn check_identity(metadata: &MetadataMap, ownership: &Ownership) -> Result<(), Status> {
    let store = header(metadata, STORE_HEADER, |text| u64::from_str_radix(text, 16).ok())?;
    let group = header(metadata, GROUP_HEADER, |text| text.parse::<u32>().ok())?;
    let is_meant =
        store.is_none_or(|store| store == ownership.store) && group.is_none_or(|group| group == ownership.group);
    if is_meant {
        return Ok(());
    }
    Err(Status::unavailable(if ownership.is_sharded() {
        format!("this node is of group {} of store {:016x}", ownership.group, ownership.store)
    } else {
        "this node knows of no sharded store".to_owned()
    }))
}

/// Refuses an oversized field before the field is kept during the call.
fn check_length(bytes: &[u8], most: usize) -> Result<(), Status> {
    if bytes.len() <= most {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{} bytes for a key or a cursor; {most} at most", bytes.len())))
}

fn header<T>(
    metadata: &MetadataMap,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Status> {
    let Some(value) = metadata.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse);
    parsed.map(Some).ok_or_else(|| Status::invalid_argument(format!("the metadata {name} cannot be understood")))
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Group for GroupService {
    type ProposeStream = BoxStream<ProposeResponse>;
    type ReadStream = BoxStream<pb::ReadResponse>;

    async fn propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        self.check(&request)?;
        let share = self.shared.streams.take(1).ok_or_else(status::too_many_streams)?;
        let link = self.shared.backend.consensus().proposals();
        let (shortcut, admission) = (self.shared.shortcut.end(), self.shared.admission.clone());
        let client = request.extensions().get::<Option<Client>>().and_then(|client| Some(client.as_ref()?.network()));
        let room = self.shared.proposal_room.of(client);
        let (stop, shares) = (self.shared.stop.clone(), propose::Shares { _stream: share, room });
        Ok(Response::new(Box::pin(propose::start(request.into_inner(), link, shortcut, admission, stop, shares))))
    }

    async fn read(&self, request: Request<Streaming<pb::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        self.check(&request)?;
        let share = self.shared.streams.take(1).ok_or_else(status::too_many_streams)?;
        let (backend, room) = (self.shared.backend.clone(), self.shared.read_room.clone());
        let reader = Reader { backend, timeouts: self.shared.timeouts, room };
        Ok(Response::new(Box::pin(reader.serve(request.into_inner(), self.shared.stop.clone(), share))))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        check_length(&request.start, MAX_NAMED_BYTES)?;
        check_length(request.end.as_deref().unwrap_or_default(), MAX_NAMED_BYTES)?;
        let deadline = self.shared.timeouts.deadline(request.timeout_ms);
        scan::list(&self.shared.backend, request, deadline).await.map(Response::new)
    }

    async fn get_system_key(
        &self,
        request: Request<pb::GetSystemKeyRequest>,
    ) -> Result<Response<pb::SystemKey>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        check_length(&request.key, MAX_NAMED_BYTES)?;
        let deadline = self.shared.timeouts.deadline(request.timeout_ms);
        scan::system_key(&self.shared.backend, &request.key, deadline).await.map(Response::new)
    }

    async fn export(&self, request: Request<pb::ExportRequest>) -> Result<Response<pb::ExportPage>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        check_length(&request.cursor, MAX_CURSOR_BYTES)?;
        let deadline = self.shared.timeouts.deadline(request.timeout_ms);
        scan::export(&self.shared.backend, request, deadline).await.map(Response::new)
    }

    async fn describe(&self, request: Request<pb::DescribeRequest>) -> Result<Response<pb::Description>, Status> {
        self.check(&request)?;
        let shared = &self.shared;
        describe::describe(&shared.name, &shared.backend, &shared.status, shared.timeouts.default)
            .await
            .map(Response::new)
    }

    async fn upgrade(&self, request: Request<UpgradeRequest>) -> Result<Response<UpgradeStatus>, Status> {
        self.check(&request)?;
        self.shared.upgrader.handle(request.into_inner()).await.map(Response::new).map_err(status::of_backend)
    }
}

/// The limits of this service for `docs/reference/limits.md`.
#[cfg(test)]
pub(crate) fn limits() -> Vec<raftkv_runtime::limits_page::Row> {
    use raftkv_runtime::limits_page::{bytes, count, time};
    vec![
        ("request", bytes(MAX_REQUEST_BYTES)),
        ("answer", bytes(MAX_MESSAGE_BYTES)),
        ("streams", count(MAX_STREAMS)),
        ("room of proposals", bytes(PROPOSAL_ROOM_BYTES)),
        ("room of an address's proposals", bytes(PROPOSAL_ROOM_BYTES / 2)),
        ("room of reads", bytes(READ_ROOM_BYTES)),
        ("uncounted read", bytes(UNCOUNTED_BYTES)),
        ("proposals of a stream", count(propose::MAX_IN_FLIGHT)),
        ("bytes of the proposals of a stream", bytes(propose::MAX_IN_FLIGHT_BYTES)),
        ("longest wait of a proposal", time(propose::LONGEST_TIMEOUT)),
        ("unread answer to a proposal", time(propose::ANSWER_PATIENCE)),
        ("reads of a stream", count(read::MAX_IN_FLIGHT)),
        ("unread answer to a read", time(read::ANSWER_PATIENCE)),
        ("keys of a read", count(read::MAX_KEYS)),
        ("keys and values of a read", bytes(read::MAX_ANSWER_BYTES)),
        ("first or last key of a listing, system key", bytes(MAX_NAMED_BYTES)),
        ("cursor of an export", bytes(MAX_CURSOR_BYTES)),
        ("page of a listing", bytes(usize::try_from(scan::MAX_LIST_BYTES).unwrap())),
        ("page of an export", bytes(scan::MAX_EXPORT_BYTES)),
    ]
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn checked(headers: &[(&'static str, &'static str)], ownership: &Ownership) -> Option<Code> {
        let mut metadata = MetadataMap::new();
        for &(name, value) in headers {
            metadata.insert(name, value.parse().expect("text"));
        }
        check_identity(&metadata, ownership).err().map(|status| status.code())
    }

    #[test]
    fn a_call_that_means_another_group_is_for_another_node() {
        let alone = Ownership::default();
        let sharded = Ownership { store: 0xabc, group: 2, ..Ownership::default() };
        let meant = [(STORE_HEADER, "0000000000000abc"), (GROUP_HEADER, "2")];
        assert_eq!(checked(&meant, &sharded), None);
        assert_eq!(checked(&[], &sharded), None);
        assert_eq!(checked(&[], &alone), None);
        assert_eq!(checked(&meant, &alone), Some(Code::Unavailable));
        let others = [[(STORE_HEADER, "abd"), (GROUP_HEADER, "2")], [(STORE_HEADER, "abc"), (GROUP_HEADER, "3")]];
        for other in others {
            assert_eq!(checked(&other, &sharded), Some(Code::Unavailable), "{other:?}");
        }
        for malformed in [(STORE_HEADER, "xyz"), (GROUP_HEADER, "-1"), (GROUP_HEADER, "")] {
            assert_eq!(checked(&[malformed], &sharded), Some(Code::InvalidArgument), "{malformed:?}");
        }
    }
}
