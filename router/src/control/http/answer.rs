//! How answers and problems look on the wire.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use raftkv_backend::BackendError;
use raftkv_http::{Problem, ProblemOutcome};
use serde::Serialize;

use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::store::StoreError;

/// When to come back after trouble with the meta group: an election.
const SOON: Duration = Duration::from_secs(1);

/// A problem as the answer of a handler.
#[derive(Debug)]
pub(super) struct Refused(Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<BackendError> for Refused {
    fn from(error: BackendError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.into_native_response()
    }
}

/// A JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Our bodies are structs and maps with text keys, which always have a JSON form.
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An operation that was begun, and where to look after it.
pub(super) fn accepted(id: u64, body: &impl Serialize) -> Response {
    let mut response = json(StatusCode::ACCEPTED, body);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/cluster/operations/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What a refusal is to a client.
pub(super) fn rejected(rejected: &Rejected) -> Problem {
    let status = match rejected.code {
        RejectedCode::UnknownGroup | RejectedCode::UnknownOperation | RejectedCode::UnknownNode => {
            StatusCode::NOT_FOUND
        }
        RejectedCode::Invalid => StatusCode::BAD_REQUEST,
        RejectedCode::Conflict
        | RejectedCode::ConfirmationRequired
        | RejectedCode::TooMany
        | RejectedCode::Outdated => StatusCode::CONFLICT,
    };
    let is_passing = matches!(rejected.code, RejectedCode::TooMany | RejectedCode::Outdated);
    Problem { retryable: is_passing, ..Problem::new(status, rejected.code.as_str(), rejected.message.clone()) }
}

/// What trouble with the document is to a client.
pub(super) fn store(error: StoreError) -> Problem {
    let detail = error.to_string();
    match error {
        StoreError::Rejected(reason) => rejected(&reason),
        // Settings that name other nodes than those of the first group: told in the log once, and by /readyz.
        StoreError::Unavailable(_) | StoreError::NotMeta(_) => Problem {
            retryable: true,
            retry_after: Some(SOON),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        },
        StoreError::Unknown(_) => Problem {
            outcome: ProblemOutcome::Unknown,
            ..Problem::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", detail)
        },
        StoreError::State(_) | StoreError::Refused(_) => {
            tracing::error!(error = %detail, "answering 500");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
    }
}

/// There is no map yet.
pub(super) fn no_store() -> Problem {
    BackendError::Unavailable("the meta group has not been reached yet".to_owned()).into()
}

/// Milliseconds since the Unix epoch as RFC 3339; 0 = `None`.
pub(super) fn time(millis: u64) -> Option<String> {
    let at = (millis > 0).then(|| std::time::UNIX_EPOCH.checked_add(Duration::from_millis(millis))).flatten()?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}
