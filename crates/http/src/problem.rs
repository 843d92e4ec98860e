//! [`Problem`]: why a request has no result, and its form on the wire (RFC 9457).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use raftkv_backend::BackendError;
use raftkv_kv::{KeyError, ValueError};
use raftkv_runtime::guard::{self, CrossSite};
use serde::Serialize;

use crate::reply::{IDEMPOTENCY_REPLAYED, TRUE, reply};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// When to come back after a refusal that passes by itself but does not say when.
const SOON: Duration = Duration::from_secs(1);
/// Outcomes of Idempotency-Keys expire one after the other: at the rate at which they were made a day before.
const OUTCOMES_FULL_RETRY: Duration = Duration::from_secs(10);

/// What became of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemOutcome {
    /// Nothing was changed by it, now or later.
    NotApplied,
    /// It may or may not have been applied, now or later.
    Unknown,
}

/// Why a request has no result. Becomes a status, headers and a body only at the edge, in each surface's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What programs tell problems apart by. Never changes its meaning.
    pub code: &'static str,
    /// What happened, for people.
    pub detail: String,
    /// Whether the same request may succeed later without harm.
    pub retryable: bool,
    /// What became of the request.
    pub outcome: ProblemOutcome,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The limit that was exceeded.
    pub limit: Option<u64>,
    /// The key's revision, where a precondition failed; 0 = no such key.
    pub current_revision: Option<u64>,
    /// The methods that are allowed, with 405.
    pub allow: Option<&'static str>,
    /// The outcome is that of an earlier request with the same `Idempotency-Key`.
    pub replayed: bool,
}

/// The body of a problem, as RFC 9457 names its members.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ProblemBody<'a> {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: &'a str,
    /// What programs tell problems apart by.
    pub code: &'a str,
    /// Whether the same request may succeed later without harm.
    pub retryable: bool,
    /// What became of the request.
    pub outcome: ProblemOutcome,
    /// When to try again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_after_ms: Option<u64>,
    /// The limit that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub limit: Option<u64>,
    /// The key's revision, where a precondition failed; 0 = no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub current_revision: Option<u64>,
}

impl Problem {
    /// A problem that is definite and that trying again does not mend.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retryable: false,
            outcome: ProblemOutcome::NotApplied,
            retry_after: None,
            limit: None,
            current_revision: None,
            allow: None,
            replayed: false,
        }
    }

    /// A request that makes no sense: 400.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn too_large(code: &'static str, detail: impl Into<String>, limit: usize) -> Self {
        Self { limit: Some(limit as u64), ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail) }
    }

    pub(crate) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub(crate) fn not_acceptable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
    }

    /// 405, with the methods that the path allows.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path allows {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    pub(crate) fn key_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "key_not_found", "there is no such key")
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_path", "there is nothing at this path; see /openapi.json")
    }

    pub(crate) fn precondition_failed(current: u64) -> Self {
        let detail = match current {
            0 => "the precondition does not hold: there is no such key".to_owned(),
            current => format!("the precondition does not hold: the key is at revision {current}"),
        };
        Self {
            current_revision: Some(current),
            ..Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
        }
    }

    pub(crate) fn idempotency_mismatch() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "the Idempotency-Key was used with another request",
        )
    }

    pub(crate) fn wrong_group() -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong_group", "this group does not own the key's slot")
            .retryable(None)
    }

    /// A request of a browser that must not be served: 403.
    pub(crate) fn cross_site(why: CrossSite) -> Self {
        Self::new(StatusCode::FORBIDDEN, guard::CODE, why.to_string())
    }

    pub(crate) fn overloaded(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail).retryable(Some(retry_after))
    }

    /// A write with an `Idempotency-Key` whose outcome could only be kept by forgetting another one before its time.
    pub(crate) fn outcomes_full() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "idempotency_keys_full",
            "the group keeps the outcomes of as many Idempotency-Keys as it may; each is kept for 24 hours",
        )
        .retryable(Some(OUTCOMES_FULL_RETRY))
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    fn retryable(self, retry_after: Option<Duration>) -> Self {
        Self { retryable: true, retry_after, ..self }
    }

    /// Where the client sent an `Idempotency-Key`, even an unknown outcome may be tried again.
    pub(crate) fn with_idempotency(mut self, has_key: bool) -> Self {
        self.retryable |= has_key && self.outcome == ProblemOutcome::Unknown;
        self
    }

    /// The answer of the native surface.
    pub fn into_native_response(self) -> Response {
        let body = self.native_body();
        let response = reply(self.status, PROBLEM_JSON, body);
        self.with_headers(response)
    }

    /// The native answer in bytes, as the last one of a connection that no HTTP library writes to any more; without its body for a
    /// HEAD request.
    pub(crate) fn into_last_answer(self, is_head: bool) -> Vec<u8> {
        let body = self.native_body();
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.status,
            body.len()
        );
        [head.as_bytes(), if is_head { &[] } else { &body }].concat()
    }

    fn native_body(&self) -> Vec<u8> {
        let body = ProblemBody {
            kind: format!("urn:raftkv:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            retryable: self.retryable,
            outcome: self.outcome,
            retry_after_ms: self.retry_after.map(|d| d.as_millis() as u64),
            limit: self.limit,
            current_revision: self.current_revision,
        };
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Adds the headers that any surface's form of this problem carries.
    pub(crate) fn with_headers(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, TRUE);
        }
        if matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
            // The rest of the body may still be on its way.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<BackendError> for Problem {
    fn from(error: BackendError) -> Self {
        // The code says of which kind it is.
        let detail = error.reason();
        match error {
            BackendError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retryable(Some(SOON))
            }
            BackendError::Overloaded { retry_after } => Self::overloaded(detail, retry_after),
            BackendError::DiskFull(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail).retryable(None)
            }
            // A single operation never comes to several results; where it is not told apart, nothing may be promised.
            BackendError::OutcomeUnknown(_) | BackendError::Partial(_) => Self {
                outcome: ProblemOutcome::Unknown,
                ..Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", detail)
            },
            BackendError::DeadlineExceeded(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded", detail).retryable(Some(SOON))
            }
            BackendError::ShuttingDown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", detail).retryable(Some(SOON))
            }
            BackendError::Internal(_) => {
                tracing::error!(error = %detail, "answering 500");
                Self::internal(detail)
            }
            BackendError::WrongGroup => Self::wrong_group(),
            BackendError::Rejected(_) => Self::new(StatusCode::CONFLICT, "rejected", detail),
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::TooLong { limit, .. } => Self::too_large("key_too_large", error.to_string(), limit),
            KeyError::Empty | KeyError::Reserved => Self::bad_request("invalid_key", error.to_string()),
        }
    }
}

impl From<ValueError> for Problem {
    fn from(error: ValueError) -> Self {
        let detail = error.to_string();
        match error {
            ValueError::Malformed(_) => Self::bad_request("malformed_msgpack", detail),
            ValueError::MalformedJson(_) => Self::bad_request("malformed_json", detail),
            ValueError::TrailingBytes { .. } => Self::bad_request("trailing_bytes", detail),
            ValueError::TooLarge { limit, .. } => Self::too_large("value_too_large", detail, limit),
            // Arrays of messages are batches.
            ValueError::TooMany { limit } => {
                let detail = format!("the batch has more than {limit} operations");
                Self::too_large("batch_too_large", detail, limit)
            }
            ValueError::TooDeep { limit } => {
                Self { limit: Some(limit as u64), ..Self::bad_request("nested_too_deep", detail) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_error_has_its_status_and_says_what_became_of_the_request() {
        use BackendError as E;
        use ProblemOutcome::{NotApplied, Unknown};
        let text = String::new;
        for (error, status, code, retryable, outcome) in [
            (E::Unavailable(text()), 503, "unavailable", true, NotApplied),
            (E::Overloaded { retry_after: SOON }, 429, "overloaded", true, NotApplied),
            (E::DiskFull(text()), 507, "disk_full", true, NotApplied),
            (E::OutcomeUnknown(text()), 504, "outcome_unknown", false, Unknown),
            (E::DeadlineExceeded(text()), 503, "deadline_exceeded", true, NotApplied),
            (E::ShuttingDown, 503, "shutting_down", true, NotApplied),
            (E::WrongGroup, 421, "wrong_group", true, NotApplied),
            (E::Internal(text()), 500, "internal", false, NotApplied),
            (E::Rejected(text()), 409, "rejected", false, NotApplied),
        ] {
            let problem = Problem::from(error);
            let seen = (problem.status.as_u16(), problem.code, problem.retryable, problem.outcome);
            assert_eq!(seen, (status, code, retryable, outcome));
        }
        let unknown = Problem::from(E::OutcomeUnknown(text()));
        assert!(unknown.clone().with_idempotency(true).retryable);
        assert!(!unknown.with_idempotency(false).retryable);
    }

    #[test]
    fn retry_after_is_at_least_a_second_and_rounds_up() {
        for (millis, seconds) in [(0, "1"), (50, "1"), (1000, "1"), (1001, "2")] {
            let response = Problem::overloaded("", Duration::from_millis(millis)).into_native_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }
}
