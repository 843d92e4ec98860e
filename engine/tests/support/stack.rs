//! [`Stack`]: a store, a sidecar and a connection between them.

use std::time::{Duration, Instant};

use raftkv_engine::consensus_client::ConsensusClient;
use raftkv_engine::proposer::{Proposer, Shortcut, ShortcutEnd};
use raftkv_kv::{Command, Key, Limits, Op, Value};
use raftkv_runtime::grpc::{ChannelOptions, Endpoint, connect_lazy};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_store::{Store, StoreOptions};

use super::TestSidecar;

/// What a test of the engine's parts stands on. Everything ends with it.
pub struct Stack {
    pub store: Store,
    pub sidecar: TestSidecar,
    pub client: ConsensusClient,
    pub endpoint: Endpoint,
    pub stop: Shutdown,
    shortcut: Option<ShortcutEnd>,
    sidecar_stop: Shutdown,
    // Last: removed when nobody uses it any more.
    _dir: tempfile::TempDir,
}

impl Stack {
    pub async fn start() -> Self {
        let stack = Self::without_sidecar();
        stack.sidecar.serve(&stack.endpoint, stack.sidecar_stop.clone()).await;
        stack
    }

    /// One whose store tells the proposer of batches itself, as that of an engine does.
    pub async fn with_shortcut() -> Self {
        let shortcut = Shortcut::default();
        let end = shortcut.end();
        let mut stack = Self::over(StoreOptions { shortcut: Some(shortcut), ..StoreOptions::default() });
        stack.shortcut = Some(end);
        stack.sidecar.serve(&stack.endpoint, stack.sidecar_stop.clone()).await;
        stack
    }

    pub fn without_sidecar() -> Self {
        Self::over(StoreOptions::default())
    }

    fn over(options: StoreOptions) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let store = Store::open(&dir.path().join("engine"), options).expect("open the store");
        let endpoint = Endpoint::unix(dir.path().join("sidecar.sock")).expect("short path");
        let channel = connect_lazy(&endpoint, ChannelOptions::default()).expect("a sound endpoint");
        let stop = Shutdown::new();
        Self {
            sidecar: TestSidecar::new(store.clone()),
            store,
            client: ConsensusClient::new(channel),
            endpoint,
            shortcut: None,
            sidecar_stop: stop.child(),
            stop,
            _dir: dir,
        }
    }

    /// A proposer to the sidecar; the first one of a stack with a shortcut uses it.
    pub fn proposer(&mut self, grace: Duration) -> Proposer {
        let (proposals, stop) = (self.client.proposals(), self.stop.child());
        match self.shortcut.take() {
            Some(end) => Proposer::start_beside(end, proposals, stop, grace).0,
            None => Proposer::start(proposals, stop, grace).0,
        }
    }

    pub async fn start_sidecar(&self) {
        self.sidecar.serve(&self.endpoint, self.sidecar_stop.clone()).await;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

pub fn key(name: &str) -> Key {
    Key::new(name.to_owned(), &Limits::default()).expect("a sound key")
}

pub fn set(name: &str, value: &str) -> Op {
    let value = Value::text(value, &Limits::default()).expect("a small value");
    Op::from(Command::Set { key: key(name), value, expires_at_ms: 0 })
}

pub fn deadline_in(time: Duration) -> Instant {
    Instant::now() + time
}
