//! [`Surface`]: which of the HTTP interfaces a request speaks, and how that one tells a problem.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::problem::Problem;
use crate::reply::{TEXT, json, reply};

/// One of the HTTP interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/v1/kv` and `/v1/batch`, and every path that no other surface claims.
    Native,
    /// `/insert-val` and `/get-val`.
    RaftKv,
    /// `/v1/storage/key`.
    Keva,
    /// `/store` and `/raft`.
    Arima,
    /// `/put`, `/get` and `/delete`.
    Ravel,
    /// Health, metrics and the description of it all. Never shed.
    Operations,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

impl Surface {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::RaftKv => "raftkv",
            Self::Keva => "keva",
            Self::Arima => "arima",
            Self::Ravel => "ravel",
            Self::Operations => "operations",
        }
    }

    /// The problem as the clients of this surface know it: their bodies, but an honest status.
    pub(crate) fn render(self, problem: Problem) -> Response {
        let response = match self {
            Self::Native | Self::Operations => return problem.into_native_response(),
            Self::RaftKv if problem.code == "key_not_found" => reply(problem.status, TEXT, "Key Not Found"),
            Self::RaftKv => reply(problem.status, TEXT, format!("error: {}", problem.detail)),
            Self::Keva | Self::Ravel => json(problem.status, &ErrorBody { error: &problem.detail }),
            Self::Arima => json(arima_status(problem.status), &ErrorBody { error: &problem.detail }),
        };
        problem.with_headers(response)
    }
}

/// Arima's clients know 422 for whatever is wrong with a request.
fn arima_status(status: StatusCode) -> StatusCode {
    match status.as_u16() {
        400 | 404 | 406 | 409 | 412 | 413 | 415 => StatusCode::UNPROCESSABLE_ENTITY,
        _ => status,
    }
}
