//! [`GuardedBody`]: a request body that cannot be too large, too slow, or too much beside the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::problem::Problem;

/// Why a body was not received whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not arrive within {timeout:?}")]
    TooSlow { timeout: Duration },
    #[error("too many bodies are being received")]
    Crowded,
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// Bytes of request bodies in memory, of all connections together.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }
}

/// One request's part of the [`Budget`]; given back when the request is answered, not when its body is read.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

impl Share {
    pub(crate) fn of(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), held: AtomicUsize::new(0) })
    }

    fn grow(&self, bytes: usize) -> bool {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.budget.max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

/// What a body is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    pub(crate) timeout: Duration,
}

/// A body on its way in.
pub(crate) struct GuardedBody {
    incoming: Incoming,
    share: Arc<Share>,
    limits: BodyLimits,
    received: usize,
    /// Too large: the rest is read and thrown away, within bounds, so that the client gets to read its answer.
    discarding: bool,
    /// The client waits for leave to send: it gets its answer instead.
    expects_continue: bool,
    /// Made when the body is first waited for; most are there at once.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl GuardedBody {
    pub(crate) fn new(incoming: Incoming, share: Arc<Share>, limits: BodyLimits, expects_continue: bool) -> Self {
        let announced = incoming.size_hint().lower();
        let discarding = announced > limits.max_bytes as u64;
        Self { incoming, share, limits, received: 0, discarding, expects_continue, deadline: None }
    }

    fn too_large(&self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::TooLarge { limit: self.limits.max_bytes })))
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let max = self.limits.max_bytes;
        if self.discarding && self.expects_continue {
            return self.too_large();
        }
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let timeout = self.limits.timeout;
                    let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                    ready!(deadline.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(BodyError::TooSlow { timeout })));
                }
            };
            let data = match frame {
                None if self.discarding => return self.too_large(),
                None => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers mean nothing here.
                    Err(_) => continue,
                },
            };
            self.received += data.len();
            self.discarding |= self.received > max;
            if self.discarding {
                if self.received > max.saturating_mul(2) {
                    return self.too_large();
                }
                continue;
            }
            if !self.share.grow(data.len()) {
                return Poll::Ready(Some(Err(BodyError::Crowded)));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.discarding && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The whole body, or what is wrong with it.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, Problem> {
    let error = match body.collect().await {
        Ok(collected) => return Ok(collected.to_bytes()),
        Err(error) => error.into_inner(),
    };
    let detail = error.to_string();
    Err(match error.downcast_ref() {
        Some(&BodyError::TooLarge { limit }) => Problem::too_large("body_too_large", detail, limit),
        Some(BodyError::TooSlow { .. }) => {
            Problem { retryable: true, ..Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail) }
        }
        Some(BodyError::Crowded) => Problem::overloaded(detail, Duration::from_secs(1)),
        Some(BodyError::Broken(_)) | None => Problem::bad_request("broken_body", detail),
    })
}
