//! [`Problem`] as an answer.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use raftkv_runtime::guard::{self, CrossSite};

use crate::peers::management::Problem;

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
