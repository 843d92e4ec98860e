//! [`Answer`]: an HTTP answer of RaftKV, with the reason on failure.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;

use crate::error::{Error, Kind};

/// A complete HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The revision named by the `ETag`.
    pub fn revision(&self) -> Option<u64> {
        let tag = self.headers.get(hyper::header::ETAG)?.to_str().ok()?;
        tag.trim_start_matches("W/").trim_matches('"').parse().ok()
    }

    /// Machine-readable problem code, present in every RaftKV problem document.
    pub fn code(&self) -> Option<String> {
        let is_error = self.status.is_client_error() || self.status.is_server_error();
        is_error.then(|| Problem::of(self).code).flatten()
    }

    /// The exceeded limit, if named by the problem document.
    pub fn limit(&self) -> Option<u64> {
        Problem::of(self).limit
    }

    /// Converts an unsuccessful answer to an error.
    pub fn error(&self) -> Error {
        let problem = Problem::of(self);
        let said = problem.detail.or(problem.error).or(problem.message).or(problem.title);
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned());
        let mut message =
            if said.is_empty() { self.status.to_string() } else { format!("{}: {said}", self.status.as_u16()) };
        let is_unknown = problem.outcome.as_deref() == Some("unknown");
        // State the unknown outcome once, preferably in the server's words; a code with "unknown" would be a
        // repetition.
        let says_so = said.contains("outcome") && said.contains("unknown");
        if let Some(code) = problem.code.filter(|code| !(says_so && code.contains("unknown"))) {
            message.push_str(&format!(" ({code})"));
        }
        if is_unknown && !says_so {
            message.push_str("; the outcome is unknown: it may have been applied, or may still be");
        }
        Error { kind: Kind::Answered { status: self.status }, message }
    }
}

/// RFC 9457 problem details, and the bodies of the management API. All fields are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    outcome: Option<String>,
    error: Option<String>,
    message: Option<String>,
    limit: Option<u64>,
}

impl Problem {
    fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_become_messages() {
        let answer = |status, body: &'static str| Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let refused =
            answer(StatusCode::PRECONDITION_FAILED, r#"{"detail":"revision is 7","code":"precondition_failed"}"#);
        let error = refused.error();
        assert_eq!(error.message, "412: revision is 7 (precondition_failed)");
        assert!(!error.is_temporary());

        let lost = answer(StatusCode::GATEWAY_TIMEOUT, r#"{"title":"Timeout","outcome":"unknown"}"#).error();
        assert!(lost.is_temporary());
        assert_eq!(lost.message.matches("unknown").count(), 1, "{}", lost.message);
        for told in [
            r#"{"detail":"the outcome is unknown: the connection broke","code":"outcome_unknown","outcome":"unknown"}"#,
            r#"{"detail":"outcome unknown: the connection broke","code":"unknown"}"#,
        ] {
            let told = answer(StatusCode::GATEWAY_TIMEOUT, told).error();
            assert_eq!(told.message.matches("unknown").count(), 1, "{}", told.message);
        }

        assert_eq!(answer(StatusCode::BAD_REQUEST, "plain text").error().message, "400: plain text");
    }
}
