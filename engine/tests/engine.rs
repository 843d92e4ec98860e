//! A whole engine over HTTP, with consensus played by the test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{Fate, TestSidecar, until};
use raftkv_engine::config::{Args, Config};
use raftkv_engine::run::{Listeners, RunError, run};
use raftkv_proto::consensus::ConsensusStatus;
use raftkv_runtime::grpc::Endpoint;
use raftkv_runtime::shutdown::Shutdown;
use reqwest::StatusCode;
use tokio::task::JoinHandle;

/// An engine on a free port, and the directory it keeps.
struct Engine {
    http: SocketAddr,
    grpc: Endpoint,
    sidecar: Endpoint,
    stop: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
    client: reqwest::Client,
}

impl Engine {
    async fn start(dir: &tempfile::TempDir, more: &[&str]) -> Self {
        let data_dir = dir.path().to_str().expect("text");
        let given = [
            "raftkv-engine",
            "--node-id",
            "node1",
            "--data-dir",
            data_dir,
            "--http-listen",
            "127.0.0.1:0",
            "--group-listen",
            "127.0.0.1:0",
        ];
        let args = <Args as clap::Parser>::try_parse_from(given.iter().chain(more)).expect("known flags");
        let config = Config::resolve(args).expect("a sound configuration");
        let listeners = Listeners::bind(&config).await.expect("bind");
        let http = listeners.http_address().expect("address");
        let (grpc, sidecar) = (config.grpc_listen.clone(), config.sidecar_grpc.clone());
        let stop = Shutdown::new();
        let running = tokio::spawn(run(config, listeners, stop.clone()));
        Self { http, grpc, sidecar, stop, running, client: reqwest::Client::new() }
    }

    /// Consensus that applies to this engine.
    async fn with_sidecar(&self) -> TestSidecar {
        let sidecar = TestSidecar::over_engine(&self.grpc).await;
        sidecar.serve(&self.sidecar, self.stop.child()).await;
        sidecar
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    async fn put(&self, path: &str, value: &str) -> reqwest::Response {
        self.client
            .put(self.url(path))
            .header("content-type", "text/plain")
            .body(value.to_owned())
            .send()
            .await
            .expect("put")
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.client.get(self.url(path)).send().await.expect("get");
        (response.status(), response.text().await.expect("body"))
    }

    async fn stop(self) {
        self.stop.trigger();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running).await;
        ended.expect("stops in time").expect("no panic").expect("stops gracefully");
    }
}

async fn until_ready(engine: &Engine) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.get("/readyz").await.0 != StatusCode::OK {
        assert!(Instant::now() < deadline, "not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_got_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let engine = Engine::start(&dir, &[]).await;
    let _sidecar = engine.with_sidecar().await;
    until_ready(&engine).await;

    assert_eq!(engine.get("/v1/kv/a").await.0, StatusCode::NOT_FOUND);
    let put = engine.put("/v1/kv/a", "1").await;
    assert!(put.status().is_success(), "{:?}", put);
    assert_eq!(engine.get("/v1/kv/a").await, (StatusCode::OK, "1".to_owned()));
    let (status, listed) = engine.get("/v1/kv?prefix=a").await;
    assert!(status.is_success() && listed.contains("\"a\""), "{status}: {listed}");
    engine.stop().await;

    let engine = Engine::start(&dir, &[]).await;
    assert_eq!(engine.get("/v1/kv/a?consistency=stale").await, (StatusCode::OK, "1".to_owned()));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_sidecar_a_node_is_not_ready_and_answers_503_within_the_deadline() {
    let dir = tempfile::tempdir().expect("directory");
    let engine = Engine::start(&dir, &[]).await;
    assert_eq!(engine.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(engine.get("/healthz").await.0, StatusCode::OK, "the process itself is well");
    let asked = Instant::now();
    assert_eq!(engine.put("/v1/kv/a?timeout=300ms", "1").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(engine.get("/v1/kv/a?timeout=300ms").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_eq!(engine.get("/v1/kv/a?consistency=stale").await.0, StatusCode::NOT_FOUND);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_not_joined_is_not_ready() {
    let dir = tempfile::tempdir().expect("directory");
    let engine = Engine::start(&dir, &[]).await;
    let sidecar = engine.with_sidecar().await;
    sidecar.set_status(ConsensusStatus { role: "waiting".to_owned(), ..ConsensusStatus::default() });
    // The first answer may still be that of the moment before the sidecar was there.
    let deadline = Instant::now() + Duration::from_secs(10);
    let why = loop {
        let (status, why) = engine.get("/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        if why.contains("joined") || Instant::now() > deadline {
            break why;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(why.contains("has not joined a cluster"), "{why}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_504_and_says_so() {
    let dir = tempfile::tempdir().expect("directory");
    let engine = Engine::start(&dir, &[]).await;
    let sidecar = engine.with_sidecar().await;
    assert!(engine.put("/v1/kv/a", "1").await.status().is_success());
    sidecar.fate(|_| Fate::Silent);
    let put = engine.put("/v1/kv/a?timeout=300ms", "2").await;
    assert_eq!(put.status(), StatusCode::GATEWAY_TIMEOUT);
    let body = put.text().await.expect("body");
    assert!(body.contains("unknown"), "{body}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_is_nearly_full_puts_are_507_and_deletes_work() {
    let dir = tempfile::tempdir().expect("directory");
    // More than any disk has.
    let engine = Engine::start(&dir, &["--disk-reserve", "1000000TiB"]).await;
    let _sidecar = engine.with_sidecar().await;
    let put = engine.put("/v1/kv/a", "1").await;
    assert_eq!(put.status(), StatusCode::INSUFFICIENT_STORAGE);
    let delete = engine.client.delete(engine.url("/v1/kv/a")).send().await.expect("delete");
    assert!(delete.status().is_success() || delete.status() == StatusCode::NOT_FOUND, "{}", delete.status());
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_when_the_engine_is_stopped_is_answered() {
    let dir = tempfile::tempdir().expect("directory");
    let engine = Engine::start(&dir, &[]).await;
    let sidecar = engine.with_sidecar().await;
    assert!(engine.put("/v1/kv/a", "1").await.status().is_success());
    let before = sidecar.proposals();
    sidecar.fate(|_| Fate::Late(Duration::from_millis(300)));
    let put = tokio::spawn({
        let (client, url) = (engine.client.clone(), engine.url("/v1/kv/a"));
        async move { client.put(url).header("content-type", "text/plain").body("2").send().await }
    });
    until("it comes to the sidecar", || sidecar.proposals() > before).await;
    // The sidecar outlives the engine, as in a container.
    let stopping = Instant::now();
    engine.stop().await;
    assert!(put.await.expect("client").expect("answered").status().is_success());
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
}
