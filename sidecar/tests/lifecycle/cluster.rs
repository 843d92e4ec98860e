//! Nodes in this process: real sidecars on real sockets, with engines in memory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_kv::{Proposal, SystemCommand};
use raftkv_proto::consensus::consensus_client::ConsensusClient;
use raftkv_proto::consensus::{ProposeRequest, propose_response::Outcome};
use raftkv_runtime::grpc::{self, Endpoint, Listener};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::telemetry::LogFormat;
use raftkv_sidecar::config::Config;
use raftkv_sidecar::peers::management::{Changed, ManagementClient, StatusDocument};
use raftkv_sidecar::raft::timing::Timing;
use raftkv_sidecar::run::{Listeners, RunError, run};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::engine::{FakeEngine, Serving};

/// For anything that must happen: generous, because machines that test are busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

type Running = (Shutdown, JoinHandle<Result<(), RunError>>, Runtime);

/// A node, running or not.
pub(crate) struct TestNode {
    pub(crate) name: &'static str,
    pub(crate) raft: String,
    pub(crate) management: String,
    pub(crate) engine: FakeEngine,
    dir: PathBuf,
    engine_serves: Option<Serving>,
    running: Option<Running>,
    client: ManagementClient,
    http: reqwest::Client,
}

impl TestNode {
    /// Reserves addresses; nothing runs yet.
    pub(crate) async fn new(base: &std::path::Path, name: &'static str) -> Self {
        // Quiet, unless somebody looks for a cause. A second call is refused, as it should be.
        let filter = std::env::var("RAFTKV_LOG").unwrap_or_else(|_| "error".to_owned());
        let _ = raftkv_runtime::telemetry::init(&filter, LogFormat::Text);
        let mut free = Vec::new();
        for _ in 0..2 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            free.push((listener.local_addr().expect("bound").to_string(), listener));
        }
        Self {
            name,
            raft: free[0].0.clone(),
            management: free[1].0.clone(),
            engine: FakeEngine::default(),
            dir: base.join(name),
            engine_serves: None,
            running: None,
            client: ManagementClient::new().expect("client"),
            http: reqwest::Client::new(),
        }
    }

    pub(crate) async fn start(&mut self, bootstrap: bool, join: &[String]) {
        self.start_with(bootstrap, join, &[]).await;
    }

    /// With routers to ask instead of nodes to join.
    pub(crate) async fn start_with(&mut self, bootstrap: bool, join: &[String], routers: &[String]) {
        std::fs::create_dir_all(&self.dir).expect("directory");
        self.start_engine().await;
        let config = Config {
            name: self.name.to_owned(),
            bootstrap,
            join: join.to_vec(),
            routers: routers.to_vec(),
            group: None,
            dir: self.dir.join("sidecar"),
            raft_listen: self.raft.parse().expect("address"),
            raft_advertise: Some(self.raft.clone()),
            management_listen: self.management.parse().expect("address"),
            management_advertise: Some(self.management.clone()),
            allowed_hosts: vec!["kv.example".parse().expect("a name")],
            http_advertise: format!("{}:8080", self.name),
            group_advertise: format!("{}:50053", self.name),
            grpc_listen: Endpoint::unix(self.dir.join("sidecar.sock")).expect("short path"),
            engine_grpc: Endpoint::unix(self.dir.join("engine.sock")).expect("short path"),
            timing: Timing::default(),
            read_lease: true,
            log_retain: Some(1 << 20),
            log_max: 1 << 24,
            snapshot_after: Some(1 << 20),
            disk_reserve: None,
            shutdown_grace: Duration::from_secs(8),
            log: String::new(),
            log_format: LogFormat::Text,
        };
        let shutdown = Shutdown::new();
        let until = shutdown.clone();
        // A runtime of its own, so that it can be killed.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let running = runtime.spawn(async move {
            let listeners = Listeners {
                raft: bind(&config.raft_listen).await,
                management: bind(&config.management_listen).await,
                engine: bind(&config.grpc_listen).await,
            };
            run(config, listeners, until).await
        });
        self.running = Some((shutdown, running, runtime));
    }

    pub(crate) async fn start_engine(&mut self) {
        if self.engine_serves.is_none() {
            self.engine_serves = Some(self.engine.serve(&self.dir.join("engine.sock")).await);
        }
    }

    /// As if it were killed.
    pub(crate) fn stop_engine(&mut self) {
        self.engine_serves = None;
    }

    /// In peace.
    pub(crate) async fn stop(&mut self) {
        if let Some((shutdown, running, runtime)) = self.running.take() {
            shutdown.trigger();
            running.await.expect("no panic").expect("ends well");
            end(runtime).await;
        }
        self.stop_engine();
    }

    /// Until it ends by itself, with an error.
    pub(crate) async fn ended(&mut self) -> RunError {
        let (_, running, runtime) = self.running.take().expect("it runs");
        let ended = tokio::time::timeout(DEADLINE, running).await.expect("it ends").expect("no panic");
        end(runtime).await;
        self.stop_engine();
        ended.expect_err("an error")
    }

    /// The directory of both its processes.
    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Both processes, without a word.
    pub(crate) async fn kill(&mut self) {
        self.stop_engine();
        if let Some((_, _, runtime)) = self.running.take() {
            end(runtime).await;
        }
    }

    /// Forgets everything, as a new disk would.
    pub(crate) fn wipe(&mut self) {
        std::fs::remove_dir_all(&self.dir).expect("wiped");
        self.engine = FakeEngine::default();
    }

    pub(crate) async fn status(&self) -> Option<StatusDocument> {
        self.client.status(&self.management, None).await.ok()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("http://{}{path}", self.management)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    pub(crate) async fn post(&self, path: &str) -> Result<Changed, String> {
        self.post_body(path, "").await
    }

    pub(crate) async fn post_body(&self, path: &str, body: &'static str) -> Result<Changed, String> {
        let request = self.http.post(format!("http://{}{path}", self.management)).body(body);
        let response = request.send().await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.text().await.map_err(|error| error.to_string())?;
        match status.is_success() {
            true => serde_json::from_str(&body).map_err(|error| error.to_string()),
            false => Err(format!("{status}: {body}")),
        }
    }

    /// One proposal, as this node's engine would make it.
    pub(crate) async fn propose(&self, payload: &'static str) -> Option<Outcome> {
        let endpoint = Endpoint::unix(self.dir.join("sidecar.sock")).expect("short path");
        let channel = grpc::connect(&endpoint, grpc::ChannelOptions::default()).await.ok()?;
        let request =
            ProposeRequest { id: 1, payload: entry_of(payload), timeout_ms: 5_000, callers: 1, takes_space: false };
        let requests = futures::stream::iter([request]);
        let mut answers = ConsensusClient::new(channel).propose(requests).await.ok()?.into_inner();
        answers.message().await.ok()??.outcome
    }
}

/// What is proposed for a text: something that a leader admits.
pub(crate) fn entry_of(text: &'static str) -> Bytes {
    let (key, value) = (Bytes::from_static(b"of a test"), Bytes::from_static(text.as_bytes()));
    Proposal::System(SystemCommand::PutKey { key, expected_version: 0, value }).encode()
}

/// Until nothing of it is left, locks included.
async fn end(runtime: Runtime) {
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
    ended.await.expect("ended");
}

async fn bind(endpoint: &Endpoint) -> Listener {
    eventually("the address is free again", || async { Listener::bind(endpoint).await.ok() }).await
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The status of the node that leads with exactly these voters, which all nodes given agree on.
pub(crate) async fn settled(nodes: &[&TestNode], voters: &[&str]) -> StatusDocument {
    eventually(&format!("the voters are {voters:?}"), || async {
        let mut leader = None;
        for node in nodes {
            let status = node.status().await?;
            let mut names: Vec<&str> =
                status.members.iter().filter(|member| member.voter).map(|member| member.name.as_str()).collect();
            names.sort_unstable();
            if names != voters || status.members.len() != voters.len() || status.node.leader.is_none() {
                return None;
            }
            if status.node.role == "leader" {
                leader = Some(status);
            }
        }
        leader
    })
    .await
}

/// The place of the node that leads.
pub(crate) fn place_of(nodes: &[TestNode], name: &str) -> usize {
    nodes.iter().position(|node| node.name == name).expect("a node of the test")
}
