//! Small pieces of responses that all surfaces use.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use raftkv_backend::Consistency;
use serde::Serialize;

pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const MSGPACK: HeaderValue = HeaderValue::from_static("application/msgpack");
pub(crate) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The revision of the key that was read or written.
pub(crate) const REVISION: HeaderName = HeaderName::from_static("raftkv-revision");
/// The revision at which the key was created.
pub(crate) const CREATE_REVISION: HeaderName = HeaderName::from_static("raftkv-create-revision");
/// The node that answered.
pub(crate) const NODE: HeaderName = HeaderName::from_static("raftkv-node");
/// In a request the freshness asked for, in a response the one served.
pub(crate) const CONSISTENCY: HeaderName = HeaderName::from_static("raftkv-consistency");
/// A client's name for a request, under which it is applied once.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Set when the outcome is that of an earlier request with the same `Idempotency-Key`.
pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Room for those of a read, which has the most: a map that grows on its way there costs as much as a quarter of the answer.
const MOST_HEADERS: usize = 8;

pub(crate) const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A response with a body of one type.
pub(crate) fn reply(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut headers = HeaderMap::with_capacity(MOST_HEADERS);
    headers.insert(header::CONTENT_TYPE, content_type);
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A response with a JSON body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Our bodies are structs and maps with text keys, which always have a JSON form.
    reply(status, JSON, serde_json::to_vec(body).unwrap_or_default())
}

/// A revision as a strong entity tag, and as a number: two views of one buffer.
pub(crate) fn revision(revision: u64) -> (HeaderValue, HeaderValue) {
    let mut digits = itoa::Buffer::new();
    let tag = Bytes::from(["\"", digits.format(revision), "\""].concat());
    let number = tag.slice(1..tag.len() - 1);
    // Digits, with quotes or without, are valid header values.
    let value = |bytes| HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static("\"\""));
    (value(tag), value(number))
}

/// The name of a freshness on the wire.
pub(crate) fn consistency_name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Quorum => "quorum",
        Consistency::Stale => "stale",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_tag_and_a_number() {
        for number in [0, 7, u64::MAX] {
            let (tag, digits) = revision(number);
            assert_eq!(tag, format!("\"{number}\""));
            assert_eq!(digits, number.to_string());
        }
    }
}
