//! [`Client`]: HTTP requests to a single node.

use std::sync::OnceLock;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::Method;

use crate::answer::{Answer, Put};

/// Characters to percent-encode in a path segment: all except RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Request timeout: well above any `?timeout=` in a test.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Connect timeout. Nothing on loopback takes longer: a paused process accepts connections, a dead process refuses at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The HTTP client shared by all tests of this process.
pub fn http() -> &'static reqwest::Client {
    static HTTP: OnceLock<reqwest::Client> = OnceLock::new();
    HTTP.get_or_init(new_http)
}

fn new_http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .build()
        .unwrap_or_else(|error| panic!("an HTTP client without TLS needs nothing that could be missing: {error}"))
}

/// Percent-encodes a key for a path or a query.
pub fn encode_key(key: impl AsRef<[u8]>) -> String {
    percent_encode(key.as_ref(), RESERVED).to_string()
}

/// A client of a single HTTP address. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// Connects to `host:port`.
    pub fn new(address: impl std::fmt::Display) -> Self {
        Self { http: http().clone(), base: format!("http://{address}") }
    }

    /// As [`new`](Self::new), without sharing connections with other clients of this process.
    pub fn unshared(address: impl std::fmt::Display) -> Self {
        Self { http: new_http(), base: format!("http://{address}") }
    }

    /// A request to a path, which may have a query.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads the complete response.
    pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    /// `GET` of any path.
    pub async fn get_path(&self, path: &str) -> reqwest::Result<Answer> {
        Self::send(self.request(Method::GET, path)).await
    }

    /// `POST` to any path, with a body of a type.
    pub async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Answer> {
        Self::send(self.request(Method::POST, path).header("content-type", content_type).body(body)).await
    }

    /// Puts a text value.
    pub async fn put(&self, key: &str, value: impl Into<String>) -> reqwest::Result<Put> {
        Ok(self.put_with(key, value, "", None).await)
    }

    /// Puts a text value with a query (`?timeout=2s`) and an optional `Idempotency-Key`. A missing response is an outcome, not an error.
    pub async fn put_with(&self, key: &str, value: impl Into<String>, query: &str, idempotency: Option<&str>) -> Put {
        let mut request = self.request(Method::PUT, &format!("/v1/kv/{}{query}", encode_key(key))).body(value.into());
        if let Some(idempotency) = idempotency {
            request = request.header("idempotency-key", idempotency);
        }
        Put::from(Self::send(request).await)
    }

    /// Gets a key with a linearizable read.
    pub async fn get(&self, key: &str) -> reqwest::Result<Answer> {
        self.get_with(key, "").await
    }

    /// Gets a key with a stale read from this node.
    pub async fn get_stale(&self, key: &str) -> reqwest::Result<Answer> {
        self.get_with(key, "?consistency=stale").await
    }

    /// Gets a key with a query.
    pub async fn get_with(&self, key: &str, query: &str) -> reqwest::Result<Answer> {
        self.get_path(&format!("/v1/kv/{}{query}", encode_key(key))).await
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str) -> reqwest::Result<Answer> {
        Self::send(self.request(Method::DELETE, &format!("/v1/kv/{}", encode_key(key)))).await
    }
}
