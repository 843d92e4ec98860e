//! [`Interface`]: an HTTP interface of RaftKV, recognised by marks in the answers.

use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::answer::Answer;
use crate::error::Error;
use crate::transport::unknown;

/// Header in every answer of the HTTP API.
const NODE: &str = "raftkv-node";
/// Code of the management API for an unknown path.
const NO_ROUTE: &str = "no_such_route";
/// Code of the HTTP API for an unknown path.
const UNKNOWN_PATH: &str = "unknown_path";

/// An HTTP interface of RaftKV. Another program may listen at the given address, and the HTTP status does not tell: a
/// 404 of another program is not a missing key, and a 200 is not a value. An answer counts only with the marks of the
/// interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Keys and values, at nodes and routers.
    Api,
    /// Members and status, at nodes.
    Management,
    /// Groups and slots, at routers.
    Router,
    /// `/readyz`, at nodes and routers.
    Readiness,
}

impl Interface {
    /// Fails unless the answer came from this interface.
    pub(crate) fn recognise(
        self,
        endpoint: &str,
        method: &Method,
        answer: &Answer,
        hint: Option<&str>,
    ) -> Result<(), Error> {
        let code = answer.code();
        let is_ours = match (self, code.as_deref()) {
            (Self::Api, Some(NO_ROUTE)) | (Self::Management, Some(UNKNOWN_PATH)) => false,
            (Self::Router, Some(NO_ROUTE | UNKNOWN_PATH | "method_not_allowed")) => false,
            (_, Some(_)) => true,
            (Self::Api, None) => answer.status.is_success() && answer.headers.contains_key(NODE),
            // Any JSON counts; the reader checks the document.
            (Self::Management | Self::Router, None) => {
                answer.status.is_success() && serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok()
            }
            (Self::Readiness, None) => is_readiness(answer),
        };
        if is_ours {
            return Ok(());
        }
        let status = answer.status;
        let mut message = format!("what answers at {endpoint} is not {}: it said {status}", self.name());
        if code.as_deref() == Some(NO_ROUTE) {
            message.push_str(", as a node's management API");
        }
        // A proxy may have forwarded the request before the failure.
        if status.is_server_error() && !method.is_safe() {
            message.push_str(&format!("; {}", unknown(method)));
        } else if let Some(hint) = hint {
            message.push_str(&format!("; {hint}"));
        }
        Err(Error::stranger(message))
    }

    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "RaftKV's HTTP API",
            Self::Management => "a node's management API",
            Self::Router => "a router",
            Self::Readiness => "RaftKV",
        }
    }
}

/// Recognises `ready` of the HTTP API, or `{"status": …}` of the management API, with a 503 outside the problem format.
fn is_readiness(answer: &Answer) -> bool {
    #[derive(Deserialize)]
    struct Health {
        status: String,
    }
    match serde_json::from_slice::<Health>(&answer.body) {
        Ok(health) => matches!(
            (answer.status, health.status.as_str()),
            (StatusCode::OK, "ok") | (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        ),
        Err(_) => answer.status == StatusCode::OK && answer.headers.contains_key(NODE),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::HeaderMap;
    use hyper::header::HeaderValue;

    use super::*;
    use crate::error::Kind;

    fn answer(status: u16, node: bool, body: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        if node {
            headers.insert(NODE, HeaderValue::from_static("node1"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_status_counts_with_the_marks_of_its_interface_only() {
        let problem = r#"{"code":"key_not_found","detail":"there is no such key"}"#;
        let no_route = r#"{"code":"no_such_route","detail":"there is nothing at this path"}"#;
        let no_path = r#"{"code":"unknown_path"}"#;
        use Interface::{Api, Management, Readiness, Router};
        for (interface, status, node, body, is_ours) in [
            (Api, 200, true, "hello", true),
            (Api, 200, false, "hello", false),
            (Api, 404, true, problem, true),
            (Api, 404, false, no_route, false),
            (Api, 404, false, "<html>", false),
            (Api, 502, false, "<html>", false),
            (Management, 200, false, r#"{"result":"removed"}"#, true),
            (Management, 200, false, "<html>", false),
            (Management, 404, true, no_path, false),
            (Management, 404, false, r#"{"code":"no_such_member"}"#, true),
            (Router, 404, false, no_path, false),
            (Router, 405, false, r#"{"code":"method_not_allowed"}"#, false),
            (Router, 404, false, r#"{"code":"unknown_group"}"#, true),
            (Readiness, 200, true, "ready\n", true),
            (Readiness, 200, false, "ready\n", false),
            (Readiness, 200, false, r#"{"status":"ok"}"#, true),
            (Readiness, 503, false, r#"{"status":"unavailable","detail":"no leader"}"#, true),
            (Readiness, 503, true, r#"{"code":"unavailable"}"#, true),
            (Readiness, 200, false, "<html>", false),
        ] {
            let recognised = interface.recognise("http://a:1", &Method::GET, &answer(status, node, body), None);
            assert_eq!(recognised.is_ok(), is_ours, "{interface:?} {status} {body}: {recognised:?}");
        }
    }

    #[test]
    fn the_answer_of_another_program_is_told() {
        let told = |method| {
            Interface::Api
                .recognise("http://a:1", &method, &answer(502, false, ""), Some("name a node"))
                .expect_err("no node")
        };
        let read = told(Method::GET);
        assert!(
            read.kind == Kind::Stranger && read.message.contains("what answers at http://a:1 is not RaftKV's HTTP API")
        );
        assert!(read.message.contains("502") && read.message.contains("name a node"), "{read:?}");
        assert!(told(Method::PUT).message.contains("the outcome is unknown"), "a proxy may have passed it on");
    }
}
