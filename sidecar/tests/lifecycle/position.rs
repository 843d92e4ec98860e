//! Who moves the engine's position: entries, entries that come again, and snapshots never meet halfway, and an engine that is
//! ahead is no fault.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use raftkv_runtime::grpc::Endpoint;
use raftkv_sidecar::engine::client::EngineClient;
use raftkv_sidecar::engine::state_machine::RemoteStateMachine;
use raftkv_sidecar::peers::SnapshotData;
use raftkv_sidecar::raft::log_store::LogStore;
use raftkv_sidecar::raft::types::{Command, Entry, LeaderId, LogId, SnapshotMeta, StoredMembership};
use raftkv_sidecar::wal::{Entry as WalEntry, Leader, Position as WalPosition, WalOptions};
use tempfile::TempDir;

use crate::cluster::eventually;
use crate::engine::{FakeEngine, Serving};

/// What the engine is told to stage in all tests here.
const STAGED: u64 = 50;
/// So many orders to activate, with the pauses between them, take longer than it takes to notice that the engine has lost something.
const MANY_ATTEMPTS: usize = 9;

/// Last words. Each test has threads of its own, but the hook is a plain function: so they are one list, with the thread's test.
static FATAL: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn on_fatal(message: &str) {
    FATAL.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
}

/// Nothing of what the tests here do may end the sidecar, but for one test, whose word is left out.
fn nothing_was_fatal() {
    let fatal = FATAL.lock().unwrap_or_else(PoisonError::into_inner);
    let fatal: Vec<_> = fatal.iter().filter(|message| !message.contains("nothing staged")).collect();
    assert!(fatal.is_empty(), "{fatal:?}");
}

struct Fixture {
    engine: FakeEngine,
    machine: RemoteStateMachine,
    _serving: Serving,
    _dir: TempDir,
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 7 }, index)
}

fn meta(entries: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(log_id(entries - 1)), last_membership: StoredMembership::default() }
}

impl Fixture {
    /// A log with so many entries, all durable, and an engine that has none of them.
    async fn new(entries: u64) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let log = LogStore::open(WalOptions::new(dir.path().join("log"))).expect("a log");
        let position = |index| WalPosition { leader: Leader { term: 1, node: 7 }, index };
        let entry = |index| WalEntry {
            position: position(index),
            kind: 1,
            stamp: 1,
            second_stamp: None,
            data: Bytes::from_static(b"logged"),
        };
        let (done, durable) = tokio::sync::oneshot::channel();
        let done = move |result: Result<(), _>| {
            let _ = done.send(result.is_ok());
        };
        log.wal().append((0..entries).map(entry).collect(), Some(Box::new(done))).expect("room");
        assert!(durable.await.expect("answered"), "durable");
        let engine = FakeEngine::default();
        let socket = dir.path().join("engine.sock");
        let serving = engine.serve(&socket).await;
        let client = EngineClient::new(&Endpoint::unix(&socket).expect("short path")).expect("a client");
        let flushed = log.durable();
        let mut machine = RemoteStateMachine::new(client.clone(), log, flushed, on_fatal);
        tokio::spawn(client.watch_engine());
        tokio::spawn(machine.watch_engine());
        machine.applied_state().await.expect("the engine answers");
        Self { engine, machine, _serving: serving, _dir: dir }
    }

    async fn apply(&mut self, entries: std::ops::Range<u64>) -> std::io::Result<()> {
        let entries = entries.map(|index| {
            let payloads = vec![Bytes::from_static(b"logged")];
            Ok((
                Entry {
                    log_id: log_id(index),
                    payload: EntryPayload::Normal(Command { wall_ms: 1, group_clock_ms: 0, payloads }),
                },
                None,
            ))
        });
        self.machine.apply(futures::stream::iter(entries.collect::<Vec<_>>())).await
    }

    async fn install(&mut self) -> std::io::Result<()> {
        self.machine.install_snapshot(&meta(STAGED), SnapshotData::Staged(1)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fed_while_a_snapshot_goes_live() {
    let mut f = Fixture::new(20).await;
    f.apply(0..20).await.expect("applied");
    f.engine.stage(STAGED);
    f.engine.hold_activation(true);
    let engine = f.engine.clone();
    let engine_dies = async {
        eventually("it is asked to activate", || async { (engine.activations_held() > 0).then_some(()) }).await;
        // From now on the watch sees an engine that has lost entries; were they brought now, the snapshot would go live in between.
        engine.activate_at_next_request();
        engine.lose(5);
        let asked = engine.activations_held() + MANY_ATTEMPTS;
        eventually("it is asked again and again, or fed", || async {
            (engine.activations_held() >= asked || engine.next_index() != 5).then_some(())
        })
        .await;
        let stood_at = engine.next_index();
        engine.hold_activation(false);
        stood_at
    };
    let (installed, stood_at) = tokio::join!(f.install(), engine_dies);
    installed.expect("the snapshot is live");
    nothing_was_fatal();
    assert_eq!((stood_at, f.engine.next_index()), (5, STAGED), "nobody fed it meanwhile");
    assert!(f.machine.progress().submitted_next() >= STAGED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_a_predecessor_moved_on_is_no_fault() {
    let mut f = Fixture::new(20).await;
    f.apply(0..5).await.expect("applied");
    f.engine.stage(STAGED);
    f.engine.activate_now();
    f.apply(5..12).await.expect("it has them");
    f.apply(12..20).await.expect("it has them");
    assert_eq!(f.engine.next_index(), STAGED);
    assert!(f.machine.progress().submitted_next() >= STAGED, "readers wait for no less than it may show");
    assert_eq!(f.machine.progress().applied(), Some(log_id(19)), "no more than is known");
    nothing_was_fatal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_moves_on_while_it_is_brought_what_it_lost_is_no_fault() {
    let mut f = Fixture::new(20).await;
    f.apply(0..20).await.expect("applied");
    f.engine.stage(STAGED);
    f.engine.activate_at_next_request();
    f.engine.lose(5);
    eventually("it was fed", || async { (f.engine.next_index() == STAGED).then_some(()) }).await;
    // Waits until the feeder is done with it.
    f.apply(0..20).await.expect("it has them");
    nothing_was_fatal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_while_a_stream_is_opened_gets_what_it_lost() {
    let mut f = Fixture::new(20).await;
    f.apply(0..10).await.expect("applied");
    f.engine.stage(10);
    // Leaves no stream open.
    f.machine.install_snapshot(&meta(10), SnapshotData::Staged(1)).await.expect("live");
    f.engine.lose_at_next_stream(3);
    f.apply(10..20).await.expect("applied");
    assert_eq!((f.engine.next_index(), f.engine.payloads().len()), (20, 20));
    nothing_was_fatal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_whose_answer_is_lost_has_worked() {
    let mut f = Fixture::new(20).await;
    f.apply(0..20).await.expect("applied");
    f.engine.stage(STAGED);
    f.engine.lose_next_activation();
    f.install().await.expect("it is live");
    assert_eq!(f.engine.next_index(), STAGED);

    // And one that comes when the engine is beyond it already.
    f.engine.stage(STAGED + 7);
    f.engine.activate_now();
    f.install().await.expect("it has all of it");
    assert_eq!(f.engine.next_index(), STAGED + 7);
    nothing_was_fatal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_the_engine_does_not_have_ends_the_sidecar() {
    let mut f = Fixture::new(20).await;
    f.apply(0..20).await.expect("applied");
    let error = f.install().await.expect_err("nothing is staged");
    assert!(error.to_string().contains("nothing staged"), "{error}");
    assert!(FATAL.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|last| last.contains("nothing staged")));
}
