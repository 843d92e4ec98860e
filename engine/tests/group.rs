//! The group service of a whole engine, over TCP, with consensus played by the test.

use std::time::{Duration, Instant};

use crate::support::{Fate, TestSidecar, key, set};
use bytes::Bytes;
use futures::StreamExt;
use raftkv_engine::config::{Args, Config};
use raftkv_engine::run::{Listeners, RunError, run};
use raftkv_kv::{
    Answer, Batch, Command, ImportPage, Op, Outcome, Ownership, Proposal, SlotSet, SystemAnswer, SystemCommand, slot_of,
};
use raftkv_proto::consensus::propose_response::Outcome as Proposed;
use raftkv_proto::consensus::{ConsensusStatus, Member, ProposeRequest, ProposeResponse, RefusedReason};
use raftkv_proto::group::group_client::GroupClient;
use raftkv_proto::group::read_response::Outcome as ReadOutcome;
use raftkv_proto::group::read_result::Result as Found;
use raftkv_proto::group::{
    DescribeRequest, ExportRequest, GetSystemKeyRequest, ListRequest, ReadRequest, ReadResponse, SystemKey,
};
use raftkv_proto::{GROUP_HEADER, STORE_HEADER};
use raftkv_runtime::grpc::{ChannelOptions, Endpoint, connect_lazy};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

struct Engine {
    http: String,
    rpc: GroupClient<Channel>,
    group: Endpoint,
    grpc: Endpoint,
    sidecar: Endpoint,
    stop: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
    _dir: tempfile::TempDir,
}

impl Engine {
    async fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let data_dir = dir.path().to_str().expect("text");
        let mut given = vec!["raftkv-engine", "--node-id", "node1", "--data-dir", data_dir];
        given.extend(["--http-listen", "127.0.0.1:0", "--group-listen", "127.0.0.1:0"]);
        let args = <Args as clap::Parser>::try_parse_from(given.iter().chain(more)).expect("known flags");
        let config = Config::resolve(args).expect("a sound configuration");
        let listeners = Listeners::bind(&config).await.expect("bind");
        let http = format!("http://{}", listeners.http_address().expect("address"));
        let channel = connect_lazy(listeners.group_address(), ChannelOptions::default()).expect("a sound endpoint");
        let group = listeners.group_address().clone();
        let (grpc, sidecar) = (config.grpc_listen.clone(), config.sidecar_grpc.clone());
        let stop = Shutdown::new();
        let running = tokio::spawn(run(config, listeners, stop.clone()));
        Self { http, rpc: GroupClient::new(channel), group, grpc, sidecar, stop, running, _dir: dir }
    }

    async fn with_sidecar(&self) -> TestSidecar {
        let sidecar = TestSidecar::over_engine(&self.grpc).await;
        sidecar.serve(&self.sidecar, self.stop.child()).await;
        sidecar
    }

    async fn proposals(&self) -> Proposals {
        let (requests, receiver) = mpsc::channel(16);
        let mut rpc = self.rpc.clone();
        let answers = rpc.propose(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
        Proposals { requests, answers, next_id: 1 }
    }

    async fn read(&self, keys: &[&str]) -> ReadResponse {
        let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        let request = ReadRequest { id: 77, consistency: 0, timeout_ms: 2_000, keys };
        // Left open until the answer is there.
        let requests = futures::StreamExt::chain(tokio_stream::once(request), futures::stream::pending());
        let mut answers = self.rpc.clone().read(requests).await.expect("a stream").into_inner();
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time");
        answer.expect("no error").expect("an answer")
    }

    async fn found(&self, keys: &[&str]) -> Vec<Found> {
        match self.read(keys).await {
            ReadResponse { id: 77, outcome: Some(ReadOutcome::Results(results)) } => {
                results.results.into_iter().map(|result| result.result.expect("a result")).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.trigger();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running).await;
        ended.expect("stops in time").expect("no panic").expect("stops gracefully");
    }
}

/// A router's stream.
struct Proposals {
    requests: mpsc::Sender<ProposeRequest>,
    answers: Streaming<ProposeResponse>,
    next_id: u64,
}

impl Proposals {
    async fn send(&mut self, payload: Bytes) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.requests
            .send(ProposeRequest { id, payload, timeout_ms: 2_000, callers: 1, takes_space: false })
            .await
            .expect("open");
        id
    }

    async fn answer(&mut self) -> ProposeResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time");
        answer.expect("no error").expect("an answer")
    }

    async fn ask(&mut self, payload: Bytes) -> Proposed {
        let id = self.send(payload).await;
        let answer = self.answer().await;
        assert_eq!(answer.id, id);
        answer.outcome.expect("an outcome")
    }

    async fn apply(&mut self, proposal: Proposal) -> Answer {
        match self.ask(proposal.encode()).await {
            Proposed::Applied(applied) => Answer::decode(&applied.answer).expect("an answer"),
            other => panic!("{other:?}"),
        }
    }

    async fn system(&mut self, command: SystemCommand) -> SystemAnswer {
        match self.apply(Proposal::System(command)).await {
            Answer::System(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn ops(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let Answer::SessionOpened { session } = self.apply(Proposal::OpenSession).await else { panic!() };
        let batch = Batch { session, sequence: 1, acknowledged_below: 0, ops };
        match self.apply(Proposal::Batch(batch)).await {
            Answer::Applied(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }
}

fn slots_of(keys: &[&str]) -> SlotSet {
    keys.iter().map(|key| slot_of(key.as_bytes())).collect()
}

fn refused(outcome: Proposed) -> RefusedReason {
    match outcome {
        Proposed::Refused(refused) => refused.reason(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_serves_its_slots_and_tells_of_the_others() {
    let engine = Engine::start(&[]).await;
    let _sidecar = engine.with_sidecar().await;
    let mut proposals = engine.proposals().await;
    let mut rpc = engine.rpc.clone();
    proposals.ops(vec![set("a", "1"), set("b", "2"), set("c", "3")]).await;
    assert_eq!(proposals.system(SystemCommand::Adopt { store: 0xabc, group: 3, keep: true }).await, SystemAnswer::Done);
    let away = SystemCommand::Disown { id: 1, slots: slots_of(&["b"]) };
    assert_eq!(proposals.system(away).await, SystemAnswer::Done);
    assert_eq!(proposals.ops(vec![set("b", "4")]).await, [Outcome::WrongGroup]);

    let found = engine.found(&["a", "b", "nothing", "c"]).await;
    assert!(
        matches!(&found[..], [Found::Entry(a), Found::WrongGroup(true), Found::Absent(true), Found::Entry(c)]
            if &*a.key == b"a" && a.revision == 1 && &*c.value == b"\xa13"),
        "{found:?}"
    );
    let many: Vec<String> = (0..300).map(|i| format!("k{i}")).chain(["a".to_owned()]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(engine.found(&many).await.last(), Some(Found::Entry(_))), "more than are read on the spot");

    let all = ListRequest { limit: 10, max_bytes: 1_000_000, ..ListRequest::default() };
    let page = rpc.list(all).await.expect("a page").into_inner();
    assert_eq!(page.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), [b"a", b"c"]);
    let served: usize = page.served.iter().map(|range| (range.last - range.first + 1) as usize).sum();
    assert_eq!((served, page.next), (usize::from(raftkv_kv::SLOTS) - 1, None));

    for (path, status) in [("/v1/kv/a", 200), ("/v1/kv/b", 421), ("/v1/kv/b?consistency=stale", 421)] {
        let response = reqwest::get(format!("{}{path}", engine.http)).await.expect("get");
        assert_eq!(response.status().as_u16(), status, "{path}");
        if status == 421 {
            assert!(response.text().await.expect("body").contains("\"wrong_group\""));
        }
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_means_another_group_is_refused() {
    let engine = Engine::start(&[]).await;
    let _sidecar = engine.with_sidecar().await;
    let mut rpc = engine.rpc.clone();
    let meant = |store: &'static str, group: &'static str| {
        let mut request = Request::new(DescribeRequest {});
        request.metadata_mut().insert(STORE_HEADER, store.parse().expect("text"));
        request.metadata_mut().insert(GROUP_HEADER, group.parse().expect("text"));
        request
    };
    assert_eq!(rpc.describe(meant("abc", "3")).await.unwrap_err().code(), Code::Unavailable, "not adopted");
    let adopt = SystemCommand::Adopt { store: 0xabc, group: 3, keep: false };
    assert_eq!(engine.proposals().await.system(adopt).await, SystemAnswer::Done);
    assert!(rpc.describe(meant("0000000000000abc", "3")).await.is_ok());
    assert!(rpc.describe(DescribeRequest {}).await.is_ok());
    assert_eq!(rpc.describe(meant("abc", "4")).await.unwrap_err().code(), Code::Unavailable);
    let mut stream = Request::new(futures::stream::pending::<ProposeRequest>());
    stream.metadata_mut().insert(STORE_HEADER, "abd".parse().expect("text"));
    assert_eq!(rpc.propose(stream).await.unwrap_err().code(), Code::Unavailable);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_is_said_of_what_was_never_sent_and_unknown_of_what_was() {
    let engine = Engine::start(&[]).await;
    let mut proposals = engine.proposals().await;
    let open = Proposal::OpenSession.encode();
    assert_eq!(refused(proposals.ask(open.clone()).await), RefusedReason::NoLeader, "no sidecar");
    let read = engine.read(&["a"]).await;
    assert!(matches!(read.outcome, Some(ReadOutcome::Refused(_))), "{read:?}");

    let sidecar = engine.with_sidecar().await;
    let deadline = Instant::now() + PATIENCE;
    while !matches!(proposals.ask(open.clone()).await, Proposed::Applied(_)) {
        assert!(Instant::now() < deadline, "the sidecar is found");
    }
    for garbage in [&b""[..], b"\x01\xc1", b"\x63"] {
        let met = sidecar.proposals();
        assert_eq!(refused(proposals.ask(Bytes::from_static(garbage)).await), RefusedReason::NotAdmitted);
        assert_eq!(sidecar.proposals(), met, "no replica sees it");
    }
    sidecar.fate(|_| Fate::BreakApplied);
    let (first, second) = (proposals.send(open.clone()).await, proposals.send(open.clone()).await);
    let mut unknown = Vec::new();
    for _ in 0..2 {
        let answer = proposals.answer().await;
        // The second may have come when the stream was gone already, and then waits for the next, which breaks, too.
        assert!(matches!(answer.outcome, Some(Proposed::Unknown(_))), "{answer:?}");
        unknown.push(answer.id);
    }
    unknown.sort_unstable();
    assert_eq!(unknown, [first, second]);
    sidecar.fate(|_| Fate::Refuse);
    assert_eq!(refused(proposals.ask(open.clone()).await), RefusedReason::NoLeader, "as the sidecar says");
    sidecar.fate(|_| Fate::Apply);
    assert!(matches!(proposals.ask(open).await, Proposed::Applied(_)), "on the same stream");
    engine.stop().await;
}

/// The sidecar loses every answer to a batch, and the router gets it: this node's store has told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_hears_from_the_store_of_the_node_that_it_asks() {
    let engine = Engine::start(&[]).await;
    let sidecar = engine.with_sidecar().await;
    let (mut one, mut other) = (engine.proposals().await, engine.proposals().await);
    sidecar.fate(|proposal| if matches!(proposal, Proposal::Batch(_)) { Fate::UnknownApplied } else { Fate::Apply });
    for revision in [1, 3, 5] {
        let outcomes = one.ops(vec![set("a", "1"), set("b", "1")]).await;
        assert_eq!(outcomes.len(), 2);
        assert!(matches!(outcomes[0], Outcome::Set { revision: told, .. } if told == revision), "{outcomes:?}");
    }
    // Of another router's session, and each of its own.
    let Answer::SessionOpened { session } = other.apply(Proposal::OpenSession).await else { panic!() };
    for sequence in 1..=5 {
        let batch = Batch { session, sequence, acknowledged_below: sequence, ops: vec![set("c", "1")] };
        match other.apply(Proposal::Batch(batch)).await {
            Answer::Applied(outcomes) => assert!(matches!(outcomes[0], Outcome::Set { .. }), "{outcomes:?}"),
            told => panic!("{told:?}"),
        }
    }
    // What was applied before has its answer over the link only, which loses it.
    let batch = Batch { session, sequence: 5, acknowledged_below: 5, ops: vec![set("c", "1")] };
    let again = other.ask(Proposal::Batch(batch).encode()).await;
    assert!(matches!(again, Proposed::Unknown(_)), "{again:?}");
    engine.stop().await;
}

/// Neither the turns of long reads nor the room of their answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_reads_no_answers_keeps_nothing_from_others() {
    let engine = Engine::start(&[]).await;
    let _sidecar = engine.with_sidecar().await;
    let value = "v".repeat(30_000);
    engine.proposals().await.ops(vec![set("a", &value)]).await;
    // More keys than are read on the spot, and more answers than there is room for.
    let keys = ["a"; 100];
    let request = ReadRequest {
        id: 1,
        timeout_ms: 2_000,
        keys: keys.map(|_| Bytes::from_static(b"a")).into(),
        ..ReadRequest::default()
    };
    let requests = futures::stream::repeat(request).take(64).chain(futures::stream::pending());
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", engine.group)).expect("an address");
    let channel = channel.initial_stream_window_size(1_024).connect_lazy();
    let unread = GroupClient::new(channel).read(requests).await.expect("a stream");

    let until = async |what: &str, is_so: fn(&ReadOutcome) -> bool| {
        let deadline = Instant::now() + 2 * PATIENCE;
        while !engine.read(&keys).await.outcome.is_some_and(|outcome| is_so(&outcome)) {
            assert!(Instant::now() < deadline, "{what}");
            // Each one leaves a stream open, and a connection has 256.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    until("the room is full", |outcome| matches!(outcome, ReadOutcome::Refused(_))).await;
    let list = ListRequest { limit: 10, max_bytes: 1_000, timeout_ms: 2_000, ..ListRequest::default() };
    engine.rpc.clone().list(list).await.expect("it gets its turn");
    until("what is not read is forgotten", |outcome| matches!(outcome, ReadOutcome::Results(_))).await;
    drop(unread);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_only_what_deletes_is_taken() {
    let engine = Engine::start(&["--disk-reserve", "1048576g"]).await;
    let _sidecar = engine.with_sidecar().await;
    let mut proposals = engine.proposals().await;
    let delete = Op::from(Command::Delete { key: key("a") });
    assert_eq!(proposals.ops(vec![delete]).await, [Outcome::Deleted { revision: 0, existed: false }]);
    let batch = Batch { session: 1, sequence: 9, acknowledged_below: 0, ops: vec![set("a", "1")] };
    assert_eq!(refused(proposals.ask(Proposal::Batch(batch).encode()).await), RefusedReason::DiskFull);
    let adopt = SystemCommand::Adopt { store: 1, group: 1, keep: true };
    assert_eq!(proposals.system(adopt).await, SystemAnswer::Done);
    engine.stop().await;
}

/// The tables of the store end the process where they are asked for a key of more than 65,535 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_longer_than_any_is_not_there() {
    let engine = Engine::start(&[]).await;
    let _sidecar = engine.with_sidecar().await;
    let mut proposals = engine.proposals().await;
    proposals.ops(vec![set("a", "1"), set("l", "2")]).await;
    let mut rpc = engine.rpc.clone();
    for length in [65_534, 65_535, 65_536, 1 << 20] {
        let long = "k".repeat(length);
        assert_eq!(engine.found(&[&long]).await, [Found::Absent(true)]);
        assert_eq!(engine.found(&[long.as_str(); 18]).await, [const { Found::Absent(true) }; 18]);
        let key = Bytes::from(long);
        let ask = GetSystemKeyRequest { key: key.clone(), timeout_ms: 2_000 };
        let answer = rpc.get_system_key(ask).await;
        if length > 65_536 {
            assert_eq!(answer.expect_err("too long a name").code(), Code::InvalidArgument);
        } else {
            assert_eq!(answer.expect("answer").into_inner(), SystemKey::default());
        }
        for (start, end, first) in [(key.clone(), None, &b"l"[..]), (Bytes::new(), Some(key), &b"a"[..])] {
            let list =
                ListRequest { start, end, limit: 10, max_bytes: 1_000, timeout_ms: 2_000, ..ListRequest::default() };
            let page = rpc.list(list).await;
            if length > 65_536 {
                assert_eq!(page.expect_err("too long a bound").code(), Code::InvalidArgument);
                continue;
            }
            let page = page.expect("a page").into_inner();
            assert_eq!(page.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), [first], "{length}");
        }
    }
    // No document has such a name either, whoever proposes it.
    let put = SystemCommand::PutKey { key: vec![b'k'; 70_000].into(), expected_version: 0, value: Bytes::new() };
    assert!(matches!(proposals.ask(Proposal::System(put).encode()).await, Proposed::Refused(_)));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_exports_and_who_one_talks_to() {
    let engine = Engine::start(&[]).await;
    let sidecar = engine.with_sidecar().await;
    let mut rpc = engine.rpc.clone();
    let mut proposals = engine.proposals().await;
    let ask = GetSystemKeyRequest { key: Bytes::from_static(b"a document"), timeout_ms: 2_000 };
    assert_eq!(rpc.get_system_key(ask.clone()).await.expect("answer").into_inner(), SystemKey::default());
    let put = SystemCommand::PutKey { key: ask.key.clone(), expected_version: 0, value: Bytes::from_static(b"{}") };
    assert_eq!(proposals.system(put).await, SystemAnswer::KeyPut { version: 1 });
    let found = rpc.get_system_key(ask).await.expect("answer").into_inner();
    assert_eq!((found.version, &*found.value), (1, &b"{}"[..]));

    proposals.ops(vec![set("a", "1"), set("b", "2")]).await;
    proposals.system(SystemCommand::Adopt { store: 5, group: 1, keep: true }).await;
    let export = ExportRequest { move_id: 9, max_bytes: 1_000, timeout_ms: 2_000, ..ExportRequest::default() };
    assert_eq!(rpc.export(export.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    proposals.system(SystemCommand::BeginExport { id: 9, slots: slots_of(&["a"]), version: 1 }).await;
    let page = rpc.export(export.clone()).await.expect("a page").into_inner();
    assert_eq!(ImportPage::decode(&page.records).expect("a page").records.len(), 1);
    assert_eq!((page.keys, page.base_done, page.changes_done, page.changes_total), (1, true, 0, 0));
    proposals.ops(vec![set("a", "3"), set("a", "4"), set("b", "5")]).await;
    let next = rpc.export(ExportRequest { cursor: page.cursor, ..export.clone() }).await.expect("a page").into_inner();
    assert_eq!(ImportPage::decode(&next.records).expect("a page").records.len(), 1, "once, as it is now");
    assert_eq!((next.changes_done, next.changes_total), (2, 2));
    let bad = ExportRequest { cursor: Bytes::from_static(b"x"), ..export };
    assert_eq!(rpc.export(bad).await.unwrap_err().code(), Code::InvalidArgument);

    let member = |raft_id, name: &str| Member {
        raft_id,
        name: name.to_owned(),
        voter: true,
        group_address: format!("{name}:50053"),
        ..Member::default()
    };
    sidecar.set_status(ConsensusStatus {
        cluster_id: "c1".to_owned(),
        role: "follower".to_owned(),
        term: 4,
        leader_raft_id: 2,
        members: vec![member(1, "node1"), member(2, "node2")],
        ..ConsensusStatus::default()
    });
    let about = rpc.describe(DescribeRequest {}).await.expect("answer").into_inner();
    assert_eq!((about.node.as_str(), about.leader.as_str(), about.term), ("node1", "node2", 4));
    assert_eq!(about.members[1].group_address, "node2:50053");
    let ownership = Ownership::decode(&about.ownership).expect("an ownership");
    assert_eq!((ownership.store, ownership.group), (5, 1));
    assert_eq!(ownership.outgoing.map(|out| out.changes), Some(2));
    assert_eq!((about.keys, about.revision), (2, 5));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stops_answers_what_it_has_taken() {
    let engine = Engine::start(&[]).await;
    let sidecar = engine.with_sidecar().await;
    let mut proposals = engine.proposals().await;
    assert!(matches!(proposals.apply(Proposal::OpenSession).await, Answer::SessionOpened { .. }));
    sidecar.fate(|_| Fate::Late(Duration::from_millis(300)));
    let id = proposals.send(Proposal::OpenSession.encode()).await;
    let met = Instant::now() + PATIENCE;
    while sidecar.proposals() < 2 {
        assert!(Instant::now() < met, "it comes to the sidecar");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The sidecar outlives the engine's streams, as a real one does.
    let stop = engine.stop.clone();
    stop.trigger();
    let answer = proposals.answer().await;
    assert_eq!(answer.id, id);
    assert!(matches!(answer.outcome, Some(Proposed::Applied(_) | Proposed::Unknown(_))), "{answer:?}");
    assert!(proposals.answers.message().await.is_ok_and(|more| more.is_none()), "then the stream ends");
    engine.stop().await;
}
