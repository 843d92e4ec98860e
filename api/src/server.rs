//! [`serve`]: the accept loop, the limits of connections and requests, and the drain.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use raftkv_runtime::guard::Hosts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::body::{BodyLimits, Budget, GuardedBody, Share};
use crate::browsers;
use crate::front::Front;
use crate::head::Refused;
use crate::once;
use crate::problem::Problem;
use crate::surface::Surface;
use crate::watch::{Answer, Watch, Watched};

/// When a shed request may come back: about as long as what is in flight takes.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A pause after an accept that failed for want of file descriptors or memory, which only time gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest a connection goes without being looked at for timeouts.
const MAX_TICK: Duration = Duration::from_secs(1);

/// How long a client whose head was refused may continue to send before its connection is reset, and how much.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: usize = 1024 * 1024;

/// What connections and requests are held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections. More wait in the kernel's queue until one closes; the idle ones do, in time.
    pub max_connections: usize,
    /// Requests being worked on. More are answered 429 with Retry-After, before any work; health checks never are.
    pub max_in_flight: usize,
    /// The head of a request, in bytes; more is answered 431, and the connection is closed.
    pub max_header_bytes: usize,
    /// The body of a request, in bytes; more is answered 413.
    pub max_body_bytes: usize,
    /// The bodies of all requests in memory, in bytes; more is answered 429.
    pub max_buffered_bytes: usize,
    /// How long the head of a request may take from its first byte, and the first request from the connection on.
    pub header_timeout: Duration,
    /// How long the body of a request may take; longer is answered 408.
    pub body_timeout: Duration,
    /// How long a connection may be without a request.
    pub keep_alive_timeout: Duration,
    /// How long a client may leave its answer unread.
    pub write_timeout: Duration,
    /// How long requests in flight get to end once shutdown has begun.
    pub drain_timeout: Duration,
    /// Host names by which browsers may send requests; other requests of browsers are answered 403.
    pub hosts: Hosts,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            // Half of the descriptors that containers usually get at least.
            max_connections: 8_192,
            max_in_flight: 4_096,
            // A key of 4 KiB, percent-encoded, and then some.
            max_header_bytes: 32 * 1024,
            // The largest batch of the default limits in JSON, with room for its encoding.
            max_body_bytes: 16 * 1024 * 1024,
            max_buffered_bytes: 64 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            // Above the usual idle time of load balancers (60 s), so that they close first and never meet a closed one.
            keep_alive_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            hosts: Hosts::default(),
        }
    }
}

impl HttpLimits {
    /// Often enough to keep the shortest timeout within a quarter of it.
    fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.keep_alive_timeout).min(self.write_timeout);
        (shortest / 4).clamp(Duration::from_millis(1), MAX_TICK)
    }
}

/// What all connections share.
struct Shared {
    front: Front,
    limits: HttpLimits,
    in_flight: AtomicUsize,
    budget: Arc<Budget>,
}

/// Answers as `front` does on `listener` until `shutdown` is ready and the requests in flight have ended, or the drain timeout
/// has passed. New connections are refused from the moment `shutdown` is ready; what is then in flight is answered with
/// `Connection: close`.
///
/// Every task it starts has ended when it returns; dropping it ends them at once.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let drain_timeout = limits.drain_timeout;
    let budget = Budget::new(limits.max_buffered_bytes);
    let shared = Arc::new(Shared { front, limits, in_flight: AtomicUsize::new(0), budget });
    let draining = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let open = metrics::gauge!("raftkv_http_connections");

    loop {
        // A connection is accepted only when there is a place for it.
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = tasks.join_next() => report(ended),
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (shared, draining, open) = (Arc::clone(&shared), draining.clone(), open.clone());
                    open.increment(1.0);
                    tasks.spawn(async move {
                        connection(stream, &shared, draining).await;
                        open.decrement(1.0);
                        drop(place);
                    });
                }
                Err(e) if is_of_one_connection(&e) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }

    drop(listener);
    draining.cancel();
    let drained = tokio::time::timeout(drain_timeout, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = tasks.len(), "the drain timeout has passed; closing what is left");
        tasks.shutdown().await;
    }
    open.set(0.0);
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!(error = %e, "a connection's task panicked");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(stream: TcpStream, shared: &Arc<Shared>, draining: CancellationToken) {
    // Answers are small and written whole: nothing is gained by holding them back. Fails only on a dead connection.
    let _ = stream.set_nodelay(true);
    let watch = Watch::new();
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        let watch = Arc::clone(&watch);
        // At once: before its answer is first asked for, the connection may be read from.
        watch.request_begins();
        async move {
            let response = answer(&shared, request).await;
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, watch)))
        }
    });
    let max_head = shared.limits.max_header_bytes;
    let io = TokioIo::new(Watched::new(stream, &watch, max_head));
    // Beyond our own limit, which is told in words.
    let mut serving = http1::Builder::new().max_header_size(max_head.saturating_mul(2)).serve_connection(io, service);
    let tick = shared.limits.tick();
    let mut timer = pin!(tokio::time::sleep(tick));
    let mut shutdown = pin!(draining.cancelled());
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            result = &mut serving => {
                // It has answered by itself what it cannot parse, and nothing more may come then.
                let is_answered = result.as_ref().is_err_and(hyper::Error::is_parse);
                let refused = serving.into_parts().io.into_inner().into_refused();
                if let Some((stream, refused)) = refused.filter(|_| !is_answered) {
                    metrics::counter!("raftkv_http_connections_cut_total", "reason" => "bad_head").increment(1);
                    refuse(stream, refused).await;
                } else if let Err(e) = result {
                    // The client's doing: a request that is no HTTP, or a connection that broke.
                    tracing::debug!(error = %e, "connection ended");
                    metrics::counter!("raftkv_http_connections_cut_total", "reason" => "error").increment(1);
                }
                return;
            }
            () = &mut timer => {
                if let Some(why) = watch.overdue(&shared.limits) {
                    metrics::counter!("raftkv_http_connections_cut_total", "reason" => why.name()).increment(1);
                    return;
                }
                timer.as_mut().reset(tokio::time::Instant::now() + tick);
            }
            () = &mut shutdown, if !is_draining => {
                is_draining = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
            }
        }
    }
}

/// Answers a head that no handler is shown, and ends the connection. The path may not be known: the form is the native one.
async fn refuse(mut stream: TcpStream, refused: Refused) {
    let answer = refused.why.problem().into_last_answer(refused.is_head);
    let answered = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        // A connection that is closed with bytes unread is reset, and the client may not get to read its answer.
        let (mut left, mut scratch) = (MAX_LINGER_BYTES, [0; 4096]);
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, answered).await {
        tracing::debug!(%error, "the client of a refused head went away");
    }
}

/// A request's place among those in flight.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response {
    let limits = &shared.limits;
    let surface = Surface::of(request.uri().path());
    let _place = match surface {
        Surface::Operations => None,
        _ => match InFlight::enter(&shared.in_flight, limits.max_in_flight) {
            Some(place) => Some(place),
            None => {
                metrics::counter!("raftkv_http_requests_shed_total").increment(1);
                let detail = format!("{} requests are in flight already", limits.max_in_flight);
                return surface.render(Problem::overloaded(detail, RETRY_AFTER));
            }
        },
    };
    let checked = once::check(request.headers()).and_then(|()| browsers::check(&request, &limits.hosts));
    if let Err(problem) = checked {
        return surface.render(problem);
    }
    let mut share = None;
    let request = if request.body().is_end_stream() {
        request.map(|_| Body::empty())
    } else {
        let part = share.insert(Share::of(&shared.budget));
        let body_limits = BodyLimits { max_bytes: limits.max_body_bytes, timeout: limits.body_timeout };
        let expects_continue = expects_continue(request.headers());
        request.map(|body| Body::new(GuardedBody::new(body, Arc::clone(part), body_limits, expects_continue)))
    };
    let response = shared.front.answer(request).await;
    // The request's bytes may be in use up to here.
    drop(share);
    response
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
