//! [`Problem`]: an error as the management API answers it.

use axum::http::StatusCode;
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
