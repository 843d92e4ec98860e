//! [`Interface`]: an HTTP interface of RaftKV, and the marks by which its answers are recognised.

use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::answer::Answer;
use crate::error::Error;
use crate::transport::unknown;

/// Named by every answer of the HTTP API.
const NODE: &str = "raftkv-node";
/// The management API's word for a path that it does not have.
const NO_ROUTE: &str = "no_such_route";
/// The HTTP API's.
const UNKNOWN_PATH: &str = "unknown_path";

/// An interface. Some other program may listen at the address that was given, and a status says nothing about that: its
/// 404 is no missing key, its 200 no value. An answer counts when it has the marks of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Of nodes and routers: keys and values.
    Api,
    /// Of nodes: members and status.
    Management,
    /// Of routers: groups and slots.
    Router,
    /// `/readyz`, of all of them.
    Readiness,
}

impl Interface {
    /// Fails unless it is this interface that answered.
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
            // Whether it is the document that was asked for, its reader tells.
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
        // A proxy may have passed the request on before it failed.
        if status.is_server_error() && !method.is_safe() {
            message.push_str(&format!("; {}", unknown(method)));
        } else if let Some(hint) = hint {
            message.push_str(&format!("; {hint}"));
        }
        Err(Error::stranger(message))
    }

    /// Name of the interface, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "RaftKV's HTTP API",
            Self::Management => "a node's management API",
            Self::Router => "a router",
            Self::Readiness => "RaftKV",
        }
    }
}

/// `ready` of the HTTP API, `{"status": …}` of the management API, whose 503 is no problem document.
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
