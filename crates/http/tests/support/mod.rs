//! A real server on a real socket over a store in memory, and a client that can misbehave.
#![allow(dead_code)] // Each test file uses its part.

mod client;
mod counters;
mod memory;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raftkv_http::{ApiConfig, Front, HttpLimits, serve};
use raftkv_kv::Limits;
use raftkv_runtime::scrapes::Scrapes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use client::{Connection, Reply};
pub(crate) use counters::Counters;
pub(crate) use memory::Memory;

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) memory: Memory,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(HttpLimits::default(), Limits::default()).await
    }

    pub(crate) async fn with(http: HttpLimits, limits: Limits) -> Self {
        let memory = Memory::default();
        let metrics = Some(Arc::new(Scrapes::new(|| "up 1\n".to_owned())));
        let config = ApiConfig { limits, metrics, ..ApiConfig::default() };
        let front = Front::new(memory.clone(), config, |routes| routes);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, front, http, shutdown.clone().cancelled_owned()));
        Self { addr, memory, shutdown, task }
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.addr).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.connect().await.send(method, path, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Reply {
        self.send("PUT", path, &[], body.as_bytes()).await
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}
