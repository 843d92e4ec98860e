//! Serves the management API with the limits that keep a slow or greedy caller from harming the node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use raftkv_runtime::grpc::{Connection, Listener};
use raftkv_runtime::reminder::Reminder;
use raftkv_runtime::shutdown::Shutdown;
use tokio_util::task::TaskTracker;

use super::places::{Places, Seat};
use super::write_timeout::WriteTimeout;
use crate::peers::management::Problem;

/// For sending a whole request header; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a caller to take an answer whole.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of operators are small.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longer than the slowest route's own deadline.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);
/// Operators, probes and a handful of nodes.
const MAX_CONNECTIONS: usize = 256;
/// When all places are taken, a connection that has waited for its client for so long makes room for a new one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Further connections, which are taken when there is no other place. Only probes are answered on them.
const MAX_RESERVED: usize = 32;
/// How long such a connection may exist.
const RESERVED_LIFETIME: Duration = Duration::from_secs(5);
/// The probes.
const PROBES: [&str; 4] = ["/health", "/healthz", "/livez", "/readyz"];
/// When a caller without a place may come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Connections of the port at a time, all together.
pub const MOST_CONNECTIONS: usize = MAX_CONNECTIONS + MAX_RESERVED;

/// Serves until the shutdown, then lets requests in flight end for a moment.
pub async fn serve(listener: Listener, router: axum::Router, shutdown: Shutdown) {
    let (places, reserved) = (Places::new(MAX_CONNECTIONS), Places::new(MAX_RESERVED));
    let connections = TaskTracker::new();
    let mut reminder = Reminder::default();
    let mut incoming = std::pin::pin!(listener.into_stream());
    loop {
        let stream = tokio::select! {
            () = shutdown.wait() => break,
            next = incoming.next() => match next {
                Some(Ok(stream)) => stream,
                Some(Err(_)) => continue,
                None => break,
            },
        };
        if let Some(seat) = places.take(PATIENCE) {
            connections.spawn(connection(stream, router.clone(), seat, Kind::Ordinary, shutdown.clone()));
            continue;
        }
        let text = format!(
            "all {MAX_CONNECTIONS} connections of the management port are in use: new ones are for probes only"
        );
        if let Some(again) = reminder.due(&text) {
            tracing::warn!("{text}{again}");
        }
        // They are answered at once, so that one which waits is a connection that says nothing.
        if let Some(seat) = reserved.take(Duration::ZERO) {
            connections.spawn(connection(stream, router.clone(), seat, Kind::Reserved, shutdown.clone()));
        }
    }
    connections.close();
    connections.wait().await;
}

/// What is answered on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything.
    Ordinary,
    /// One probe.
    Reserved,
}

async fn connection(stream: Connection, router: axum::Router, seat: Seat, kind: Kind, shutdown: Shutdown) {
    let seat = Arc::new(seat);
    let answering = Arc::clone(&seat);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, busy) = (router.clone(), answering.busy());
        async move {
            let response = answer(router, request, kind).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(kind == Kind::Ordinary)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_TIMEOUT)), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A caller that breaks off or sends garbage is no concern of ours.
        _ = connection.as_mut() => {}
        () = seat.cut() => cut("too_many"),
        () = tokio::time::sleep(RESERVED_LIFETIME), if kind == Kind::Reserved => cut("reserved"),
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(CONNECTION_GRACE, connection).await;
        }
    }
}

fn cut(reason: &'static str) {
    metrics::counter!("raftkv_management_connections_cut_total", "reason" => reason).increment(1);
}

async fn answer(router: axum::Router, request: Request<Incoming>, kind: Kind) -> Response {
    if kind == Kind::Reserved && !PROBES.contains(&request.uri().path()) {
        let detail = format!("all {MAX_CONNECTIONS} connections of this port are in use; nothing was done");
        let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).into_response();
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        return response;
    }
    match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What `docs/reference/limits.md` says of the port.
#[cfg(test)]
pub(crate) fn limits() -> Vec<raftkv_runtime::limits_page::Row> {
    use raftkv_runtime::limits_page::{bytes, count, time};
    use raftkv_runtime::scrapes::LEAST_GAP;
    vec![
        ("connections", count(MAX_CONNECTIONS)),
        ("connections for probes", count(MAX_RESERVED)),
        ("life of a connection for probes", time(RESERVED_LIFETIME)),
        ("wait before a connection makes room", time(PATIENCE)),
        ("head", bytes(MAX_HEADER_BYTES)),
        ("time for a request, or without one", time(HEADER_TIMEOUT)),
        ("time to read an answer", time(WRITE_TIMEOUT)),
        ("shutdown grace", time(CONNECTION_GRACE)),
        ("metrics rendering interval", time(LEAST_GAP)),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    async fn ask(address: &str, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.expect("an answer in time")?;
        Ok(answer)
    }

    /// Looks every ten milliseconds until it is so.
    async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !is_so().await {
            assert!(start.elapsed() < TIMEOUT, "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn connections_that_are_kept_busy_leave_room_for_probes_and_idle_ones_for_everybody() {
        let slow = Arc::new(AtomicUsize::new(0));
        let begun = Arc::clone(&slow);
        let begin = move || {
            begun.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<String>()
        };
        let router = axum::Router::new()
            .route("/livez", get(|| async { "alive" }))
            .route("/status", get(|| async { "status" }))
            .route("/slow", get(begin));
        let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bind");
        let address = listener.endpoint().to_string();
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(serve(listener, router, shutdown.clone()));

        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(&address).await.expect("connect");
            stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("write");
            held.push(stream);
        }
        // Until the last request has been seen, its connection waits for its client.
        until("all are worked on", async || slow.load(Ordering::Relaxed) == MAX_CONNECTIONS).await;
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_RESERVED {
            silent.push(TcpStream::connect(&address).await.expect("connect"));
        }
        let probe = ask(&address, "/livez").await.expect("a place is kept");
        assert!(probe.starts_with("HTTP/1.1 200") && probe.ends_with("alive"), "{probe}");
        let refused = ask(&address, "/status").await.expect("an answer");
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("\"overloaded\""), "{refused}");
        assert!(refused.to_ascii_lowercase().contains("retry-after: 1"), "{refused}");

        // Those that say nothing hold no place.
        drop(held);
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(&address).await.expect("connect"));
        }
        until("another one is answered", async || {
            // Until one has been silent for long enough, others get no place, or one for probes.
            let answer = ask(&address, "/status").await.unwrap_or_default();
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("status")
        })
        .await;
        shutdown.trigger();
        tokio::time::timeout(TIMEOUT, serving).await.expect("it ends").expect("no panic");
    }
}
