//! The cluster document under many writers, with answers that are lost: every change takes place once or not at all.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use raftkv_kv::{Answer, Effect, GroupFacts, Ownership, Proposal, PutKey, SystemAnswer, SystemCommand, put_key};
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{Applied, ProposeRequest, ProposeResponse, Unknown, UpgradeRequest, UpgradeStatus};
use raftkv_proto::group::group_server::{Group, GroupServer};
use raftkv_proto::group::{
    DescribeRequest, Description, ExportPage, ExportRequest, GetSystemKeyRequest, ListRequest, ListResponse, Member,
    ReadRequest, ReadResponse, SystemKey,
};
use raftkv_router::control::document::records::{OperationKind, OperationState};
use raftkv_router::control::document::rejected::RejectedCode;
use raftkv_router::control::document::state::ClusterState;
use raftkv_router::control::document::store::{ClusterStore, StoreError};
use raftkv_router::data::group::GroupClient;
use raftkv_router::data::map::MapWatch;
use raftkv_runtime::shutdown::Shutdown;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// Every call ends by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of one proposal. Each is something that a group may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Apply,
    /// Applied, then answered "unknown".
    UnknownApplied,
    /// Answered "unknown", never applied.
    UnknownLost,
    /// Answered "unknown", and applied later.
    UnknownLate,
}

/// A group of one node without a log: the real rules of system keys and of ownership, and faults on request.
#[derive(Debug, Clone)]
struct TestGroup {
    state: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    keys: BTreeMap<Bytes, (u64, Bytes)>,
    ownership: Ownership,
    stored_keys: u64,
    rng: StdRng,
    faults: bool,
}

impl TestGroup {
    async fn start(seed: u64) -> (Self, String) {
        let held = Held {
            keys: BTreeMap::new(),
            ownership: Ownership::default(),
            stored_keys: 0,
            rng: StdRng::seed_from_u64(seed),
            faults: false,
        };
        let group = Self { state: Arc::new(Mutex::new(held)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(GroupServer::new(group.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (group, address)
    }

    fn set_faults(&self, faults: bool) {
        self.state.lock().unwrap().faults = faults;
    }

    fn apply(&self, payload: &[u8]) -> Bytes {
        let held = &mut *self.state.lock().unwrap();
        let Proposal::System(command) = Proposal::decode(payload).unwrap() else {
            panic!("only system commands are sent here");
        };
        let facts = GroupFacts { keys: held.stored_keys, ..GroupFacts::default() };
        let answer = match held.ownership.apply(command, &facts) {
            Err(refusal) => SystemAnswer::Refused(refusal),
            Ok(Effect::PutKey { key, expected_version, value }) => {
                let stored = held.keys.get(&key).map(|(version, value)| (*version, value.as_ref()));
                match put_key(&key, expected_version, &value, stored) {
                    Err(refusal) => SystemAnswer::Refused(refusal),
                    Ok(PutKey::Repeated { version }) => SystemAnswer::KeyPut { version },
                    Ok(PutKey::Write { version }) => {
                        held.keys.insert(key, (version, value));
                        SystemAnswer::KeyPut { version }
                    }
                }
            }
            Ok(_) => SystemAnswer::Done,
        };
        Answer::System(answer).encode()
    }

    fn fate(&self) -> Fate {
        let held = &mut *self.state.lock().unwrap();
        if !held.faults {
            return Fate::Apply;
        }
        match held.rng.random_range(0..10) {
            0 => Fate::UnknownApplied,
            1 => Fate::UnknownLost,
            2 => Fate::UnknownLate,
            _ => Fate::Apply,
        }
    }

    fn propose(&self, request: ProposeRequest) -> ProposeResponse {
        let unknown = Outcome::Unknown(Unknown { message: "the answer was lost".to_owned() });
        let outcome = match self.fate() {
            Fate::Apply => Outcome::Applied(Applied { index: 1, answer: self.apply(&request.payload) }),
            Fate::UnknownApplied => {
                self.apply(&request.payload);
                unknown
            }
            Fate::UnknownLost => unknown,
            Fate::UnknownLate => {
                let group = self.clone();
                let wait = Duration::from_millis(self.state.lock().unwrap().rng.random_range(1..120));
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    group.apply(&request.payload);
                });
                unknown
            }
        };
        ProposeResponse { id: request.id, outcome: Some(outcome) }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Group for TestGroup {
    type ProposeStream = Answers<ProposeResponse>;
    type ReadStream = Answers<ReadResponse>;

    async fn propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
        let (group, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                if sender.send(Ok(group.propose(request))).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn read(&self, _: Request<Streaming<ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("no keys here"))
    }

    async fn get_system_key(&self, request: Request<GetSystemKeyRequest>) -> Result<Response<SystemKey>, Status> {
        let held = self.state.lock().unwrap();
        let (version, value) = held.keys.get(&request.into_inner().key).cloned().unwrap_or_default();
        Ok(Response::new(SystemKey { version, value }))
    }

    async fn export(&self, _: Request<ExportRequest>) -> Result<Response<ExportPage>, Status> {
        Err(Status::unimplemented("no keys here"))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        let held = self.state.lock().unwrap();
        let member = Member { name: "n1".to_owned(), voter: true, ..Member::default() };
        Ok(Response::new(Description {
            node: "n1".to_owned(),
            cluster_id: "c1".to_owned(),
            role: "leader".to_owned(),
            leader: "n1".to_owned(),
            term: 1,
            members: vec![member],
            ownership: held.ownership.encode(),
            keys: held.stored_keys,
            ..Description::default()
        }))
    }

    async fn upgrade(&self, _: Request<UpgradeRequest>) -> Result<Response<UpgradeStatus>, Status> {
        Err(Status::unimplemented("as version 0.1.0"))
    }
}

fn store(address: &str, router: &str, stop: &Shutdown) -> (ClusterStore, MapWatch) {
    let maps = MapWatch::new();
    let (client, _) = GroupClient::start(router, vec![address.to_owned()], None, stop);
    (ClusterStore::new(client, maps.clone(), router.to_owned()), maps)
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_routers_make_one_store_and_its_group_keeps_its_keys() {
    let (group, address) = TestGroup::start(1).await;
    group.state.lock().unwrap().stored_keys = 5;
    let stop = Shutdown::new();
    let addresses = [address.clone()];
    let routers: Vec<_> = (0..4).map(|number| store(&address, &format!("r{number}"), &stop)).collect();
    let opened = futures::future::join_all(routers.iter().map(|(store, _)| store.open(&addresses, 3, soon()))).await;
    let ids: BTreeSet<u64> = opened.iter().map(|found| found.as_ref().unwrap().state.store).collect();
    assert_eq!(ids.len(), 1, "one store");
    let id = *ids.first().unwrap();
    {
        let held = group.state.lock().unwrap();
        assert_eq!((held.ownership.store, held.ownership.group), (id, 1));
        assert!(held.ownership.serves(0) && held.ownership.serves(16_383), "it owns every slot");
    }
    for (_, maps) in &routers {
        assert_eq!(maps.current().unwrap().group_of(b"any"), Some(1));
    }
    // A router that comes later finds what is there.
    let (late, _) = store(&address, "late", &stop);
    assert_eq!(late.open(&addresses, 5, soon()).await.unwrap().state.replicas, 3);
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_store_are_no_meta_group() {
    let (group, address) = TestGroup::start(2).await;
    let adopt = SystemCommand::Adopt { store: 99, group: 4, keep: false };
    group.apply(&Proposal::System(adopt).encode());
    let stop = Shutdown::new();
    let (store, maps) = store(&address, "r", &stop);
    let error = store.open(std::slice::from_ref(&address), 3, soon()).await.unwrap_err();
    let says = |error: &StoreError| matches!(error, StoreError::NotMeta(why) if why.contains("group 4 of store"));
    assert!(says(&error), "{error}");
    // Nor do requests that come meanwhile read or change what is there.
    let read = store.read(soon()).await.unwrap_err();
    assert!(says(&read), "{read}");
    let changed = store.update(soon(), |state| state.enqueue(OperationKind::Rebalance {}, None, 1)).await.unwrap_err();
    assert!(says(&changed), "{changed}");
    assert!(maps.current().is_none() && maps.explanation().unwrap().contains("group 4"), "nothing is served by it");
    assert!(group.state.lock().unwrap().keys.is_empty(), "a document was written into another store's group");

    // Where a version before this one wrote a document there, it is not taken for a store.
    let left = ClusterState::init(7, vec!["a:1".to_owned()], 3).encode();
    group.state.lock().unwrap().keys.insert(Bytes::from_static(b"cluster"), (1, left.into()));
    let error = store.open(&[address], 3, soon()).await.unwrap_err();
    assert!(says(&error) && maps.current().is_none(), "{error}");
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_store_is_made_on_the_word_of_a_minority() {
    let (group, address) = TestGroup::start(5).await;
    let stop = Shutdown::new();
    let (router, maps) = store(&address, "r", &stop);
    // The others do not answer: they may know of a store.
    let named = [address.clone(), "127.0.0.1:1".to_owned()];
    let error = router.open(&named, 3, soon()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.starts_with("1 of the 2 nodes")), "{error}");
    assert!(maps.current().is_none() && group.state.lock().unwrap().keys.is_empty(), "it wrote a document");
    router.open(&[address], 3, soon()).await.unwrap();
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_made_by_half_is_finished_and_one_without_its_document_is_not_replaced() {
    let (group, address) = TestGroup::start(4).await;
    let stop = Shutdown::new();
    let (router, maps) = store(&address, "r", &stop);
    assert!(matches!(router.read(soon()).await, Err(StoreError::Unavailable(_))), "nothing was found yet");
    // Its router died between the document and the group's adoption.
    let document = Bytes::from(ClusterState::init(7, vec![address.clone()], 3).encode());
    group.state.lock().unwrap().keys.insert(Bytes::from_static(b"cluster"), (1, document));
    let addresses = [address.clone()];
    assert_eq!(router.open(&addresses, 3, soon()).await.unwrap().state.store, 7);
    assert_eq!(group.state.lock().unwrap().ownership.store, 7);
    assert_eq!(maps.current().unwrap().store, 7);

    group.state.lock().unwrap().keys.clear();
    let (late, _) = store(&address, "late", &stop);
    let error = late.open(&addresses, 3, soon()).await.unwrap_err();
    assert!(matches!(&error, StoreError::NotMeta(why) if why.contains("document is missing")), "{error}");
    assert!(group.state.lock().unwrap().keys.is_empty(), "another store was begun over the keys of the first");
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_takes_place_once_or_not_at_all_though_answers_are_lost() {
    let seed = rand::random();
    println!("seed {seed}");
    let (group, address) = TestGroup::start(seed).await;
    let stop = Shutdown::new();
    let routers: Vec<_> = (0..3).map(|number| store(&address, &format!("r{number}"), &stop).0).collect();
    for router in &routers {
        router.open(std::slice::from_ref(&address), 3, soon()).await.unwrap();
    }
    group.set_faults(true);
    // Each router asks for rebalances and cancels its own: a change that was made twice would show.
    let work = routers.iter().cloned().enumerate().map(|(number, store)| async move {
        let mut mine = Vec::new();
        let mut unknown = 0;
        for at in 0..8u64 {
            // The rate tells whose it is.
            let rate = 1_000 * (number as u64 + 1) + at;
            let asked = store.update(soon(), |state| state.enqueue(OperationKind::Rebalance {}, Some(rate), 1)).await;
            match asked {
                Ok((id, found)) => {
                    assert_eq!(found.state.operations[&id].rate_bytes_per_second, Some(rate), "its own id");
                    mine.push((id, rate));
                }
                Err(StoreError::Unknown(_)) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (mine, unknown)
    });
    let done: Vec<_> =
        futures::future::join_all(work.map(tokio::spawn)).await.into_iter().map(Result::unwrap).collect();
    group.set_faults(false);
    let found = routers[0].read(soon()).await.unwrap();
    let mut rates = BTreeSet::new();
    for operation in found.state.operations.values() {
        assert!(rates.insert(operation.rate_bytes_per_second), "made twice: {operation:?}");
    }
    let made: usize = done.iter().map(|(mine, _)| mine.len()).sum();
    let unknown: usize = done.iter().map(|(_, unknown)| unknown).sum();
    for (id, rate) in done.iter().flat_map(|(mine, _)| mine) {
        assert_eq!(found.state.operations[id].rate_bytes_per_second, Some(*rate));
    }
    assert!(made + unknown == 24 && found.state.operations.len() <= made + unknown, "{made} made, {unknown} unknown");
    assert_eq!(unknown, 0, "with so much time each becomes known");
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_change_leaves_the_document_as_it_was() {
    let (_, address) = TestGroup::start(3).await;
    let stop = Shutdown::new();
    let (store, _) = store(&address, "r", &stop);
    let before = store.open(&[address], 3, soon()).await.unwrap();
    let refused = store.update(soon(), |state| state.remove_group(1, false, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Rejected(reason) if reason.code == RejectedCode::ConfirmationRequired));
    let ((), unchanged) = store.update(soon(), |_| Ok(())).await.unwrap();
    assert_eq!(unchanged.version, before.version, "what changes nothing is not written");
    let (id, after) = store.update(soon(), |state| state.enqueue(OperationKind::Rebalance {}, None, 1)).await.unwrap();
    assert_eq!(after.version, before.version + 1);
    assert_eq!(after.state.operations[&id].state, OperationState::Pending);
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_cannot_be_used_leaves_the_last_good_one_in_its_place() {
    let (group, address) = TestGroup::start(6).await;
    let stop = Shutdown::new();
    let (router, maps) = store(&address, "r", &stop);
    let good = router.open(std::slice::from_ref(&address), 3, soon()).await.unwrap();
    assert_eq!(router.unusable(), None);
    let put = |version: u64, document: &[u8]| {
        let document = Bytes::copy_from_slice(document);
        group.state.lock().unwrap().keys.insert(Bytes::from_static(b"cluster"), (version, document));
    };
    let foreign = ClusterState::init(good.state.store ^ 1, vec![address.clone()], 3).encode();
    let older = ClusterState { epoch: good.state.epoch - 1, ..(*good.state).clone() }.encode();
    for (at, bad) in (1..).zip([&b"not json"[..], b"{}", &foreign, &older]) {
        put(good.version + at, bad);
        assert!(matches!(router.read(soon()).await, Err(StoreError::State(_))), "{}", bad.escape_ascii());
        assert!(router.unusable().is_some_and(|why| why.starts_with(&format!("version {}", good.version + at))));
        assert_eq!(router.latest().map(|latest| latest.version), Some(good.version), "it is kept");
        assert_eq!(maps.current().map(|map| (map.store, map.version)), Some((good.state.store, good.version)));
        let refused = router.update(soon(), |state| state.enqueue(OperationKind::Rebalance {}, None, 1)).await;
        assert!(matches!(refused, Err(StoreError::State(_))), "nothing is built on it");
    }
    let next = ClusterState { epoch: good.state.epoch + 1, ..(*good.state).clone() };
    put(good.version + 9, &next.encode());
    assert_eq!(router.read(soon()).await.unwrap().version, good.version + 9);
    assert_eq!((router.unusable(), maps.current().unwrap().version), (None, good.version + 9));
    stop.trigger();
}
