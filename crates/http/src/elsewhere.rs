//! [`Elsewhere`]: passes on to a router what a node's own group cannot answer, so that every node of a sharded store answers
//! for every key.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use raftkv_backend::BackendError;
use raftkv_runtime::guard;

use crate::body::read_body;
use crate::front::Front;
use crate::problem::Problem;
use crate::reply::{IDEMPOTENCY_KEY, TRUE};
use crate::routes::{Route, Span};

/// On a request that was passed on once: it is not passed on again.
const FORWARDED: HeaderName = HeaderName::from_static("raftkv-forwarded");
/// Routers are near; where none accepts by then, the next is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections kept to each router: about the callers that a small machine serves at once.
const IDLE_CONNECTIONS: usize = 64;
/// Beyond the longest deadline: the router keeps that itself, and its answer says more than ours would.
const GRACE: Duration = Duration::from_secs(2);
/// Headers of one connection, not of the request or answer that came over it.
const OF_THE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// Where the rest of the store is, and whether there is a rest.
pub struct Elsewhere {
    routers: Vec<Authority>,
    is_part: Box<dyn Fn() -> bool + Send + Sync>,
    patience: Duration,
    http: Client<HttpConnector, Full<Bytes>>,
    /// The router that answered last.
    next: AtomicUsize,
}

impl Elsewhere {
    /// `routers` are `host:port` of their HTTP APIs. `is_part` says whether the node is a part of a sharded store now: as long
    /// as it is not, nothing is passed on. `max_timeout` is the longest deadline of a request.
    ///
    /// Fails when an address is none.
    pub fn new(
        routers: &[String],
        max_timeout: Duration,
        is_part: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self, axum::http::uri::InvalidUri> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS).build(connector);
        Ok(Self {
            routers: routers.iter().map(|router| router.parse()).collect::<Result<_, _>>()?,
            is_part: Box::new(is_part),
            patience: max_timeout + GRACE,
            http,
            next: AtomicUsize::new(0),
        })
    }

    /// `front`, with what its group cannot answer passed on: requests for keys of other groups, lists and batches.
    ///
    /// A request is tried here first, but for lists and batches, which may span groups: 421 means that nothing was done.
    pub fn around(self, front: Front) -> Front {
        if self.routers.is_empty() {
            return front;
        }
        let elsewhere = Arc::new(self);
        Front::answering(move |request| match elsewhere.span(&request) {
            Span::Node => front.answer(request),
            span => Box::pin(pass(Arc::clone(&elsewhere), span, request, front.clone())),
        })
    }

    /// What a request may need of other groups, where there are any.
    fn span(&self, request: &Request) -> Span {
        match Route::of(request.uri().path()).map_or(Span::Node, |route| route.span) {
            Span::Node => Span::Node,
            _ if !(self.is_part)() || request.headers().contains_key(FORWARDED) => Span::Node,
            span => span,
        }
    }

    /// The answer of the first router that can be reached.
    async fn ask(&self, parts: &Parts, body: &Bytes) -> Result<Response, Problem> {
        let first = self.next.load(Ordering::Relaxed);
        let mut why = String::new();
        for at in (first..first + self.routers.len()).map(|at| at % self.routers.len()) {
            let router = &self.routers[at];
            let request = onward(parts, body, router).map_err(|error| Problem::internal(error.to_string()))?;
            let answer = tokio::time::timeout(self.patience, self.http.request(request)).await;
            match answer {
                Ok(Ok(answer)) => {
                    self.next.store(at, Ordering::Relaxed);
                    metrics::counter!("raftkv_http_forwarded_total").increment(1);
                    let (mut answered, body) = answer.into_parts();
                    // The answer to HEAD tells the length of a body that does not come with it.
                    let length = answered.headers.get(header::CONTENT_LENGTH).cloned();
                    remove_of_connection(&mut answered.headers);
                    if let Some(length) = length.filter(|_| parts.method == Method::HEAD) {
                        answered.headers.insert(header::CONTENT_LENGTH, length);
                    }
                    return Ok(Response::from_parts(answered, Body::new(body)));
                }
                Ok(Err(error)) if error.is_connect() => why = format!("{router}: {}", with_causes(&error)),
                Ok(Err(error)) => return Err(broken(parts, format!("{router}: {}", with_causes(&error)))),
                Err(_) => return Err(broken(parts, format!("{router} did not answer in time"))),
            }
        }
        let detail = format!("other groups of the store are asked through a router, and none can be reached: {why}");
        Err(BackendError::Unavailable(detail).into())
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("routers", &self.routers).finish_non_exhaustive()
    }
}

async fn pass(elsewhere: Arc<Elsewhere>, span: Span, request: Request, front: Front) -> Response {
    let (parts, body) = request.into_parts();
    let surface = Route::surface_of(parts.uri.path());
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(problem) => return surface.render(problem),
    };
    if span == Span::Key {
        let here = front.answer(Request::from_parts(parts.clone(), Body::from(body.clone()))).await;
        if here.status() != StatusCode::MISDIRECTED_REQUEST {
            return here;
        }
    }
    elsewhere.ask(&parts, &body).await.unwrap_or_else(|problem| surface.render(problem))
}

/// The request as it is sent to a router.
fn onward(parts: &Parts, body: &Bytes, router: &Authority) -> Result<Request<Full<Bytes>>, axum::http::Error> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(router.clone()).path_and_query(path).build()?;
    let mut request = Request::builder().method(&parts.method).uri(uri).body(Full::new(body.clone()))?;
    *request.headers_mut() = parts.headers.clone();
    remove_of_connection(request.headers_mut());
    // The router is asked by another Host than the browser asked this node by, and this node has decided.
    guard::strip(request.headers_mut());
    request.headers_mut().insert(FORWARDED, TRUE);
    Ok(request)
}

fn remove_of_connection(headers: &mut HeaderMap<HeaderValue>) {
    for name in &OF_THE_CONNECTION {
        headers.remove(name);
    }
}

/// The request was sent and its answer did not come.
fn broken(parts: &Parts, detail: String) -> Problem {
    let path = parts.uri.path();
    if Route::only_reads(&parts.method, path) {
        return BackendError::Unavailable(detail).into();
    }
    let has_key = parts.headers.contains_key(IDEMPOTENCY_KEY);
    Problem::from(BackendError::OutcomeUnknown(detail)).with_idempotency(has_key)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_address_is_refused() {
        assert!(Elsewhere::new(&["router 1".to_owned()], GRACE, || true).is_err());
    }
}
