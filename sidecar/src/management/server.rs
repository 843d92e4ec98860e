//! Serves the management API with the limits that keep a slow or greedy caller from harming the node.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use raftkv_runtime::grpc::Listener;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// For sending a whole request header; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of operators are small.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longer than the slowest route's own deadline.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);
/// Operators, probes and a handful of nodes; more wait for a place.
const MAX_CONNECTIONS: usize = 256;

/// Serves until the shutdown, then lets requests in flight end for a moment.
pub async fn serve(listener: Listener, router: axum::Router, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let mut incoming = std::pin::pin!(listener.into_stream());
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let stream = tokio::select! {
            () = shutdown.wait() => break,
            next = incoming.next() => match next {
                Some(Ok(stream)) => stream,
                Some(Err(_)) => continue,
                None => break,
            },
        };
        let service = TowerToHyperService::new(router.clone());
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MAX_HEADER_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // A caller that breaks off or sends garbage is no concern of ours.
                _ = connection.as_mut() => {}
                () = shutdown.wait() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(CONNECTION_GRACE, connection).await;
                }
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}
