//! [`GuardedBody`]: a request body that cannot be too large, too slow, or too much beside the others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::pace::{BodyLimits, Pace};
use crate::problem::Problem;
use crate::room::Held;
use crate::watch::Watch;

/// Why a body was not received whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not arrive within {timeout:?}")]
    Late { timeout: Duration },
    #[error("the body arrived with less than {speed} bytes a second")]
    TooSlow { speed: u64 },
    #[error("others needed the room, and this body was the slowest")]
    Cut,
    #[error("too many bodies are being received")]
    Crowded,
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// A body on its way in.
pub(crate) struct GuardedBody {
    incoming: Incoming,
    held: Arc<Held>,
    watch: Arc<Watch>,
    limits: BodyLimits,
    received: usize,
    /// Too large: the rest is read and thrown away, within bounds, so that the client gets to read its answer.
    discarding: bool,
    /// The client waits for leave to send: it gets its answer instead.
    expects_continue: bool,
    /// Made when the body is first waited for; most are there at once.
    pace: Option<Box<Pace>>,
}

impl GuardedBody {
    /// `held` counts what arrives over the connection of `watch`.
    pub(crate) fn new(
        incoming: Incoming,
        held: Arc<Held>,
        watch: Arc<Watch>,
        limits: BodyLimits,
        expects_continue: bool,
    ) -> Self {
        let announced = incoming.size_hint().lower();
        let discarding = announced > limits.max_bytes as u64;
        Self { incoming, held, watch, limits, received: 0, discarding, expects_continue, pace: None }
    }

    fn too_large(&self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::TooLarge { limit: self.limits.max_bytes })))
    }

    /// Waits until something is wrong with how the body arrives.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.held.is_cut() {
            return Poll::Ready(BodyError::Cut);
        }
        let (received, limits) = (self.received, self.limits);
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::begin(received, &limits)));
        loop {
            match ready!(pace.poll_speed(cx, received, &limits)) {
                // A connection has one task: the waker stays good until the next time.
                Ok(speed) => {
                    self.held.measure(speed, cx.waker());
                    self.watch.has_slow_body(speed < limits.slow_below);
                }
                Err(error) => {
                    metrics::counter!("raftkv_http_bodies_slow_total").increment(1);
                    return Poll::Ready(error);
                }
            }
        }
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
                Poll::Pending => return self.poll_overdue(cx).map(|error| Some(Err(error))),
            };
            let data = match frame {
                None if self.discarding => return self.too_large(),
                None => {
                    // It is worked on from here on, and not waited for. It may have been cut just before.
                    self.held.unlist();
                    return Poll::Ready(self.held.is_cut().then_some(Err(BodyError::Cut)));
                }
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
            if self.held.grow(data.len()).is_err() {
                let error = if self.held.is_cut() { BodyError::Cut } else { BodyError::Crowded };
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        // The one that was waited for is read to its end, where that is told.
        !self.discarding && self.pace.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for GuardedBody {
    fn drop(&mut self) {
        if self.pace.is_some() {
            self.held.unlist();
            self.watch.has_slow_body(false);
        }
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
        Some(BodyError::Late { .. } | BodyError::TooSlow { .. } | BodyError::Cut) => {
            Problem { retryable: true, ..Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail) }
        }
        Some(BodyError::Crowded) => Problem::overloaded(detail, Duration::from_secs(1)),
        Some(BodyError::Broken(_)) | None => Problem::bad_request("broken_body", detail),
    })
}
