//! [`Problem`]: an error as the management API answers it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use raftkv_runtime::guard::{self, CrossSite};
use serde::{Deserialize, Serialize};

/// RFC 9457, with a stable `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem, in a few words.
    pub title: String,
    /// What happened, for people.
    pub detail: String,
    /// What happened, for programs; never renamed.
    pub code: String,
}

impl Problem {
    /// With the status' own words as the title.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            code: code.into(),
        }
    }
}

impl From<CrossSite> for Problem {
    fn from(why: CrossSite) -> Self {
        Self::new(StatusCode::FORBIDDEN, guard::CODE, why.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and a number: JSON can always hold them.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        (status, kind, body).into_response()
    }
}
