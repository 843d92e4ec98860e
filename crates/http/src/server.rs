//! [`serve`]: the accept loop, the limits of connections and requests, and the drain.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use metrics::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::body::GuardedBody;
use crate::browsers;
use crate::front::Front;
use crate::head::Refused;
use crate::limits::{HttpLimits, UNCOUNTED_ANSWER_BYTES};
use crate::once;
use crate::pace::BodyLimits;
use crate::places::{BETWEEN_SCANS, Places};
use crate::problem::Problem;
use crate::room::{Rooms, Share};
use crate::routes::{LIST, Route};
use crate::surface::Surface;
use crate::watch::{Told, Watch, Watched};

/// When a shed request may come back: about as long as what is in flight takes.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A pause after an accept that failed for want of file descriptors or memory, which only time gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often gauges are set, and idle connections are looked for where places are few.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Why a request is refused whose answer would have no room.
const UNREAD: &str = "answers that their clients have not read take all the room there is for them";

/// How long a client whose head was refused may continue to send before its connection is reset, and how much.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: usize = 1024 * 1024;

/// What all connections share.
struct Shared {
    front: Front,
    limits: HttpLimits,
    in_flight: AtomicUsize,
    bodies: Arc<Rooms>,
    answers: Arc<Rooms>,
    operations: Arc<Rooms>,
    in_flight_gauge: Gauge,
}

impl Shared {
    fn new(front: Front, limits: HttpLimits) -> Self {
        Self {
            front,
            in_flight: AtomicUsize::new(0),
            bodies: Rooms::of_bodies(&limits),
            answers: Rooms::of_answers(&limits),
            operations: Rooms::of_operations(&limits),
            in_flight_gauge: metrics::gauge!("raftkv_http_requests_in_flight"),
            limits,
        }
    }

    /// Sets the gauges of what is in use.
    fn publish(&self) {
        self.bodies.publish();
        self.answers.publish();
        self.operations.publish();
        self.in_flight_gauge.set(self.in_flight.load(Ordering::Relaxed) as f64);
    }
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
    let places = Places::new(&limits);
    let shared = Arc::new(Shared::new(front, limits));
    let draining = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        // A connection is accepted only when there is a place for it.
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let is_full = connections.available_permits() == 0;
        tokio::select! {
            () = &mut shutdown => break,
            // Somebody may be waiting for a place: not until the next housekeeping.
            () = tokio::time::sleep(BETWEEN_SCANS), if is_full => places.thin_out(),
            Some(ended) = tasks.join_next() => report(ended),
            _ = housekeeping.tick() => {
                shared.publish();
                // Those that have become idle since the last connection came.
                places.thin_out();
            }
            (permit, accepted) = accepted => match accepted {
                Ok((stream, address)) => {
                    let (shared, draining) = (Arc::clone(&shared), draining.clone());
                    let watch = Watch::new();
                    let place = places.enter(address.ip(), &watch);
                    tasks.spawn(async move {
                        connection(stream, &shared, watch, draining).await;
                        drop((place, permit));
                    });
                    places.thin_out();
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
    shared.publish();
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

async fn connection(stream: TcpStream, shared: &Arc<Shared>, watch: Arc<Watch>, draining: CancellationToken) {
    // Answers are small and written whole: nothing is gained by holding them back. Fails only on a dead connection.
    let _ = stream.set_nodelay(true);
    watch.is_run_by(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let service = service_fn(|request| {
        // At once: before its answer is first asked for, the connection may be read from.
        watch.request_begins();
        answer(Arc::clone(shared), Arc::clone(&watch), request)
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
            // Polled with the others whenever the task runs: who tells the connection something wakes it.
            told = poll_fn(|_| watch.told().map_or(Poll::Pending, Poll::Ready)) => match told {
                Told::Close => std::pin::Pin::new(&mut serving).graceful_shutdown(),
                // Counted by who chose it.
                Told::End | Told::Cut => return,
            },
            () = &mut timer => {
                if let Some(why) = watch.overdue(&shared.limits) {
                    metrics::counter!("raftkv_http_connections_cut_total", "reason" => why.name()).increment(1);
                    return;
                }
                watch.measure(&shared.limits);
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
    /// A place, and whether there was one: without, it is to be given back.
    fn enter(count: &'a AtomicUsize, max: usize) -> (Self, bool) {
        let before = count.fetch_add(1, Ordering::Relaxed);
        (Self(count), before < max)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer to a request, whose body counts until it is written if it is not small. One future: requests and answers are some hundred
/// bytes, and each future in another would have them copied.
async fn answer(
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path();
    let surface = Route::surface_of(path);
    let only_reads = Route::only_reads(request.method(), path);
    let _place = match admit(&shared, surface, only_reads, &request) {
        Ok(place) => place,
        Err(problem) => return Ok(surface.render(problem).map(|body| Answer::new(body, None, watch))),
    };
    let mut share = None;
    let request = if request.body().is_end_stream() {
        request.map(|_| Body::empty())
    } else {
        let expected = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
        let held = Arc::clone(share.insert(Share::of(&shared.bodies, expected)).held());
        let expects_continue = expects_continue(request.headers());
        let (watch, limits) = (Arc::clone(&watch), BodyLimits::of(&shared.limits));
        request.map(|body| Body::new(GuardedBody::new(body, held, watch, limits, expects_continue)))
    };
    let response = shared.front.answer(request).await;
    // The request's bytes may be in use up to here.
    drop(share);
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    if bytes <= UNCOUNTED_ANSWER_BYTES {
        return Ok(response.map(|body| Answer::new(body, None, watch)));
    }
    let rooms = match surface {
        Surface::Operations => &shared.operations,
        _ => &shared.answers,
    };
    Ok(match count(rooms, only_reads, bytes) {
        Ok(share) => response.map(|body| Answer::new(body, Some(share), watch)),
        Err(problem) => surface.render(problem).map(|body| Answer::new(body, None, watch)),
    })
}

/// Counts an answer in the room of its size. One that only tells something is refused where there is none.
fn count(rooms: &Arc<Rooms>, only_reads: bool, bytes: usize) -> Result<Share, Problem> {
    let share = Share::of(rooms, bytes);
    if !only_reads {
        share.held().overdraw(bytes);
    } else if share.held().grow(bytes).is_err() {
        return Err(Problem::overloaded(UNREAD, RETRY_AFTER));
    }
    Ok(share)
}

/// The place of a request among those in flight, or why it is refused before any work. Health checks need no place.
fn admit<'a>(
    shared: &'a Shared,
    surface: Surface,
    only_reads: bool,
    request: &Request<Incoming>,
) -> Result<Option<InFlight<'a>>, Problem> {
    let shed = |detail: String| {
        metrics::counter!("raftkv_http_requests_shed_total").increment(1);
        Problem::overloaded(detail, RETRY_AFTER)
    };
    let max = shared.limits.max_in_flight;
    let place = match surface {
        Surface::Operations => None,
        _ => {
            let (place, is_within) = InFlight::enter(&shared.in_flight, max);
            // Another's request that still waits for its body gives way: its place is free when its task has run.
            if !is_within && !shared.bodies.cut_one() {
                return Err(shed(format!("{max} requests are in flight already")));
            }
            Some(place)
        }
    };
    once::check(request.headers())?;
    browsers::check(request, &shared.limits.hosts)?;
    // A change that was made is told whether there is room or not. So one whose answer may be counted is refused before.
    let may_be_long = || request.body().size_hint().upper().is_none_or(|bytes| bytes > UNCOUNTED_ANSWER_BYTES as u64);
    let has_no_room = match only_reads {
        false => may_be_long() && shared.answers.are_overdrawn(),
        // A page takes work and memory before its size is known.
        true => request.uri().path() == LIST && shared.answers.is_large_full(),
    };
    if has_no_room { Err(shed(UNREAD.to_owned())) } else { Ok(place) }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
