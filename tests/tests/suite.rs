//! openraft's own conformance suite against the real write-ahead log and the real engine, over gRPC.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use raftkv_runtime::grpc::Endpoint;
use raftkv_sidecar::engine::client::EngineClient;
use raftkv_sidecar::engine::state_machine::{RemoteStateMachine, SnapshotBuilder};
use raftkv_sidecar::peers::{Outgoing, SnapshotData};
use raftkv_sidecar::raft::log_store::LogStore;
use raftkv_sidecar::raft::types::{Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use raftkv_sidecar::wal::WalOptions;
use raftkv_tests::{Process, binary, eventually_within};
use tempfile::TempDir;
use tokio::sync::watch;

/// For an engine to start, on a machine busy with other tests.
const ENGINE_PATIENCE: Duration = Duration::from_secs(30);

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// An engine of its own for each test of the suite, with its data and the log beside it.
struct Guard {
    _engine: Process,
    _flushed: watch::Sender<u64>,
    _dir: TempDir,
}

struct Builder {
    built: Arc<AtomicUsize>,
}

/// The real state machine, with two things done for it that the suite leaves out and a real group does:
///
/// - The suite's entries have gaps. The engine refuses a gap, so it gets blank entries for them.
/// - The suite installs what the other state machine sends, as it is. A group carries it over the network first: here,
///   straight from one engine to the other.
struct Machine {
    inner: RemoteStateMachine,
    engine: EngineClient,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        self.built.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("rks").tempdir().expect("a directory");
        let engine = Process::new(
            "the engine",
            binary("raftkv-engine").expect("the engine is built"),
            dir.path().join("engine.log"),
        );
        engine.set_env("NODE_ID", "suite");
        engine.set_env("RAFTKV_DATA_DIR", dir.path().to_string_lossy());
        engine.set_env("RAFTKV_HTTP_LISTEN", "127.0.0.1:0");
        engine.set_env("RAFTKV_GROUP_LISTEN", "127.0.0.1:0");
        engine.start().expect("the engine starts");
        let endpoint = Endpoint::unix(dir.path().join("engine.sock")).expect("a short path");
        let client = EngineClient::new(&endpoint).expect("a client");
        eventually_within(ENGINE_PATIENCE, "the engine answers", || async { Ok(client.position().await?) })
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {}", raftkv_tests::tail(&dir.path().join("engine.log"), 20)));
        let log = LogStore::open(WalOptions::new(dir.path().join("log"))).expect("a log");
        // The suite applies entries that it never appended: nothing to wait for.
        let (flushed, durable) = watch::channel(u64::MAX);
        let inner = RemoteStateMachine::new(client.clone(), log.clone(), durable, |message| panic!("fatal: {message}"));
        let guard = Guard { _engine: engine, _flushed: flushed, _dir: dir };
        Ok((guard, log, Machine { inner, engine: client }))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut next = self.engine.position().await.map_err(io::Error::other)?.next_index;
        let entries: Vec<_> = entries.collect().await;
        let mut whole = Vec::new();
        for entry in entries {
            let index = entry.as_ref().map_or(next, |(entry, _)| entry.log_id.index());
            for missing in next..index {
                let log_id = LogId::new(LeaderId { term: 0, node_id: 0 }, missing);
                whole.push(Ok((Entry { log_id, payload: EntryPayload::Blank }, None)));
            }
            next = index + 1;
            whole.push(entry);
        }
        self.inner.apply(futures::stream::iter(whole)).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Outgoing(outgoing) = snapshot else {
            return self.inner.install_snapshot(meta, snapshot).await;
        };
        let Outgoing { header, rest } = *outgoing;
        let chunks = futures::stream::iter([header]).chain(rest.filter_map(|chunk| async { chunk.ok() }));
        let staged = self.engine.snapshot_in(chunks).await.map_err(io::Error::other)?;
        self.inner.install_snapshot(meta, SnapshotData::Staged(staged.token)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_against_the_real_log_and_the_real_engine() {
    let built = Arc::new(AtomicUsize::new(0));
    let outcome = Suite::test_all(Builder { built: Arc::clone(&built) }).await;
    println!("figure: stores built for openraft's suite: {}", built.load(Ordering::Relaxed));
    outcome.expect("the suite passes");
    assert!(built.load(Ordering::Relaxed) > 40, "the suite has fewer tests than it should");
}
