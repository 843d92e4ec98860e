//! One request to the HTTP surfaces, over a store in memory.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use raftkv_http::{ApiConfig, Front};

#[allow(dead_code)] // The tests of the crate `http` use more of it.
#[path = "../../crates/http/tests/support/memory.rs"]
mod backend;

/// A server of one input, and its store.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    front: Front,
}

/// What was answered.
pub struct Reply {
    pub status: StatusCode,
    pub content_type: String,
    pub body: Bytes,
}

impl Server {
    /// With nothing in it.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { runtime, front: Front::new(backend::Memory::default(), ApiConfig::default(), |routes| routes) }
    }

    /// Sends a request. Whatever it is, the answer is no fault of the server, and a problem is well-formed.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, content_type)
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let (status, content_type, body) = self.runtime.block_on(async {
            let response = self.front.answer(request).await;
            let (parts, body) = response.into_parts();
            let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or_default().to_owned();
            (parts.status, content_type, body.collect().await.expect("a body").to_bytes())
        });
        assert!(!status.is_server_error(), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        if content_type.ends_with("json") {
            serde_json::from_slice::<serde_json::Value>(&body).expect("what is called JSON is JSON");
        }
        if content_type == "application/problem+json" {
            let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem");
            assert_eq!(problem["status"], status.as_u16());
            assert!(problem["code"].is_string() && problem["outcome"] == "not_applied", "{problem}");
        }
        Reply { status, content_type, body }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}
