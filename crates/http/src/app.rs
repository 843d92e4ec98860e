//! [`App`]: what every handler works with, and the steps that all surfaces share.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use raftkv_backend::{Backend, BackendError, Consistency, Entry, Read, RequestContext};
use raftkv_kv::{Command, Idempotency, Key, Limits, Op, Outcome, Precondition};
use raftkv_runtime::stage::Stage;

use crate::config::{ApiConfig, IDEMPOTENCY_KEEP};
use crate::fingerprint::fingerprint;
use crate::observe::Observer;
use crate::problem::Problem;
use crate::query::{Query, invalid, percent_decode};
use crate::reply::{CONSISTENCY, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, NODE, TRUE};
use crate::surface::Surface;

/// The backend and what was decided at the start.
pub(crate) struct App<B> {
    pub(crate) backend: B,
    pub(crate) config: ApiConfig,
    node: HeaderValue,
    observer: Observer,
}

/// A single write that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Of the key; 0 when nothing was there to delete.
    pub(crate) revision: u64,
    /// Created by a set, existed before a delete.
    pub(crate) flag: bool,
    /// The outcome is that of an earlier request with the same `Idempotency-Key`.
    pub(crate) replayed: bool,
}

impl Written {
    /// The answer, with the mark of a repeat where the outcome is that of an earlier request.
    pub(crate) fn mark(self, mut response: Response) -> Response {
        if self.replayed {
            response.headers_mut().insert(IDEMPOTENCY_REPLAYED, TRUE);
        }
        response
    }
}

impl<B: Backend> App<B> {
    pub(crate) fn new(backend: B, config: ApiConfig) -> Self {
        let node = HeaderValue::try_from(backend.served_by().node);
        let node = node.unwrap_or(HeaderValue::from_static("unnamed"));
        Self { backend, config, node, observer: Observer::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// A route of a surface.
    pub(crate) fn endpoint<F, Fut>(self: &Arc<Self>, surface: Surface, handle: F) -> MethodRouter
    where
        F: Fn(Arc<Self>, Parts, Body) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let app = Arc::clone(self);
        any(move |request: Request| Arc::clone(&app).answer(surface, handle, request))
    }

    /// The answer to a request of a surface: measured, with the surface's form of problems and the node's name.
    pub(crate) async fn answer<F, Fut>(self: Arc<Self>, surface: Surface, handle: F, request: Request) -> Response
    where
        F: Fn(Arc<Self>, Parts, Body) -> Fut,
        Fut: Future<Output = Result<Response, Problem>>,
    {
        let since = Instant::now();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let result = handle(Arc::clone(&self), parts, body).await;
        let mut response = result.unwrap_or_else(|problem| surface.render(problem));
        response.headers_mut().insert(NODE, self.node.clone());
        self.observer.record(surface, &method, response.status(), since);
        response
    }

    /// Deadline and freshness of a request: `?timeout=` and `?consistency=`, or the header `Raftkv-Consistency`.
    pub(crate) fn context(&self, parts: &Parts, query: &mut Query) -> Result<RequestContext, Problem> {
        let timeout = match query.take_text("timeout")? {
            None => self.config.default_timeout,
            Some(text) => parse_timeout(&text, self.config.max_timeout)?,
        };
        let consistency = match query.take_text("consistency")? {
            Some(name) => parse_consistency(&name)?,
            None => match parts.headers.get(CONSISTENCY) {
                None => Consistency::default(),
                Some(name) => parse_consistency(name.to_str().unwrap_or_default())?,
            },
        };
        let began = Instant::now();
        Ok(RequestContext { began, deadline: began + timeout, consistency })
    }

    /// The context of a request that takes no other parameters, or where others are ignored.
    pub(crate) fn plain_context(&self, parts: &Parts) -> Result<RequestContext, Problem> {
        self.context(parts, &mut Query::of(parts)?)
    }

    /// The context of a change of membership, which has to bring a node up to date: the longest deadline unless told.
    /// It takes no other parameters: who writes the node into the URL means something, and must not be misunderstood.
    pub(crate) fn patient_context(&self, parts: &Parts) -> Result<RequestContext, Problem> {
        let asked = Query::of(parts)?.take("timeout")?.is_some();
        let mut query = Query::of(parts)?;
        let ctx = self.context(parts, &mut query)?;
        query.finish()?;
        let longest = Instant::now() + self.config.max_timeout;
        Ok(RequestContext { deadline: if asked { ctx.deadline } else { longest }, ..ctx })
    }

    /// The key that the path holds after `prefix`, percent-decoded. Slashes in it may be encoded or not.
    pub(crate) fn path_key(&self, parts: &Parts, prefix: &str) -> Result<Key, Problem> {
        let raw = parts.uri.path().strip_prefix(prefix).unwrap_or_default();
        Ok(Key::new(percent_decode(raw, false)?, self.limits())?)
    }

    /// The client's `Idempotency-Key`.
    pub(crate) fn idempotency_key(&self, parts: &Parts) -> Result<Option<Bytes>, Problem> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(None);
        };
        let limit = self.limits().max_idempotency_key_bytes;
        match value.len() {
            0 => Err(Problem::bad_request("invalid_idempotency_key", "the Idempotency-Key is empty")),
            len if len > limit => Err(Problem {
                limit: Some(limit as u64),
                ..Problem::bad_request(
                    "invalid_idempotency_key",
                    format!("the Idempotency-Key has {len} bytes; the limit is {limit}"),
                )
            }),
            _ => Ok(Some(Bytes::copy_from_slice(value.as_bytes()))),
        }
    }

    /// Reads one key.
    pub(crate) async fn read(&self, ctx: RequestContext, key: Key) -> Result<Read<Option<Entry>>, Problem> {
        Ok(self.backend.get(ctx, key).await?)
    }

    /// Has the backend apply operations that are read and checked.
    pub(crate) async fn propose(&self, ctx: RequestContext, ops: Vec<Op>) -> Result<Vec<Outcome>, BackendError> {
        Stage::Parse.since(ctx.began);
        self.backend.write(ctx, ops).await
    }

    /// Applies one change, with the client's `Idempotency-Key` if it sent one.
    pub(crate) async fn write(
        &self,
        ctx: RequestContext,
        parts: &Parts,
        command: Command,
        precondition: Option<Precondition>,
    ) -> Result<Written, Problem> {
        let key = self.idempotency_key(parts)?;
        let has_key = key.is_some();
        let op = operation(command, precondition, key);
        let outcomes = self.propose(ctx, vec![op]).await;
        let outcomes = outcomes.map_err(|e| Problem::from(e).with_idempotency(has_key))?;
        match <[Outcome; 1]>::try_from(outcomes) {
            Ok([outcome]) => written(outcome),
            Err(outcomes) => Err(Problem::internal(format!("{} outcomes of one operation", outcomes.len()))),
        }
    }
}

/// An operation with the record under which it is applied once.
pub(crate) fn operation(command: Command, precondition: Option<Precondition>, key: Option<Bytes>) -> Op {
    let idempotency = key.map(|key| Idempotency {
        key,
        fingerprint: fingerprint(&command, precondition),
        keep_ms: IDEMPOTENCY_KEEP.as_millis() as u64,
    });
    Op { command, precondition, idempotency }
}

/// What an outcome means: something written, or a problem.
pub(crate) fn written(outcome: Outcome) -> Result<Written, Problem> {
    match outcome {
        Outcome::Set { revision, created: flag } | Outcome::Deleted { revision, existed: flag } => {
            Ok(Written { revision, flag, replayed: false })
        }
        Outcome::PreconditionFailed { current } => Err(Problem::precondition_failed(current)),
        Outcome::IdempotencyMismatch => Err(Problem::idempotency_mismatch()),
        Outcome::WrongGroup => Err(Problem::wrong_group()),
        Outcome::OutcomesFull => Err(Problem::outcomes_full()),
        Outcome::Replayed(original) => written(*original)
            .map(|done| Written { replayed: true, ..done })
            .map_err(|problem| Problem { replayed: true, ..problem }),
    }
}

fn parse_consistency(name: &str) -> Result<Consistency, Problem> {
    match name {
        "linearizable" => Ok(Consistency::Linearizable),
        // What it was called when only it used the lease.
        "lease" => Ok(Consistency::Linearizable),
        "quorum" => Ok(Consistency::Quorum),
        "stale" => Ok(Consistency::Stale),
        _ => Err(invalid("consistency", "it is none of linearizable, quorum, stale")),
    }
}

/// Milliseconds, or a number with `ms`, `s` or `m`; at most `longest`.
fn parse_timeout(text: &str, longest: Duration) -> Result<Duration, Problem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(invalid("timeout", "it is not like 500ms, 2s or 1m; a number without a unit is milliseconds")),
    };
    match number.parse::<u64>() {
        Ok(n) if n > 0 => {
            let asked = Duration::from_millis(n.saturating_mul(factor));
            if asked <= longest {
                return Ok(asked);
            }
            let longest_ms = longest.as_millis() as u64;
            let why = format!("RAFTKV_MAX_REQUEST_TIMEOUT of this server grants {longest_ms}ms at most");
            Err(Problem { limit: Some(longest_ms), ..invalid("timeout", &why) })
        }
        _ => Err(invalid("timeout", "it is not a positive number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_timeout_has_a_unit_or_is_in_milliseconds() {
        for (text, millis) in [("250", 250), ("250ms", 250), ("2s", 2_000), ("1m", 60_000)] {
            assert_eq!(parse_timeout(text, MINUTE).unwrap(), Duration::from_millis(millis));
        }
        for text in ["", "0", "-1", "s", "1h", "1.5s", "99999999999999999999", "1 s"] {
            assert_eq!(parse_timeout(text, MINUTE).unwrap_err().code, "invalid_parameter", "{text}");
        }
        for text in ["60001", "60001ms", "61s", "2m", "18446744073709551615m"] {
            let problem = parse_timeout(text, MINUTE).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.limit), (400, Some(60_000)), "{text}");
            assert!(problem.detail.contains("60000ms"), "{}", problem.detail);
        }
        for text in ["60000", "60s"] {
            assert_eq!(parse_timeout(text, MINUTE), Ok(MINUTE), "{text}");
        }
    }

    #[test]
    fn an_outcome_is_something_written_or_a_problem() {
        let replayed = |outcome| written(Outcome::Replayed(Box::new(outcome)));
        let first = Written { revision: 3, flag: true, replayed: false };
        assert_eq!(written(Outcome::Set { revision: 3, created: true }), Ok(first));
        assert_eq!(replayed(Outcome::Set { revision: 3, created: true }), Ok(Written { replayed: true, ..first }));
        let status = |outcome| written(outcome).unwrap_err().status.as_u16();
        assert_eq!(status(Outcome::PreconditionFailed { current: 0 }), 412);
        assert_eq!(status(Outcome::IdempotencyMismatch), 422);
        assert_eq!(status(Outcome::WrongGroup), 421);
        assert_eq!(status(Outcome::OutcomesFull), 429);
        let refused = replayed(Outcome::PreconditionFailed { current: 7 }).unwrap_err();
        assert_eq!((refused.current_revision, refused.replayed), (Some(7), true));
        assert!(!written(Outcome::PreconditionFailed { current: 7 }).unwrap_err().replayed);
    }
}
