//! [`Client`]: reads and writes keys.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::endpoints::{Endpoints, encode};
use crate::error::Error;
use crate::interface::Interface;
use crate::retry::{ATTEMPT, Request, Retry, fresh_key};
use crate::transport::Transport;

const MSGPACK: HeaderValue = HeaderValue::from_static("application/msgpack");
const ANY: HeaderValue = HeaderValue::from_static("*");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Default timeout of a call, retries included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Margin of the client timeout above the server timeout, so the server's answer arrives.
const MARGIN: Duration = Duration::from_secs(3);

/// Reads and writes keys of a RaftKV store, through any node or router. Cheap to clone.
///
/// Reads are linearizable. A call is retried until the timeout while a retry may succeed. Each write has an
/// `Idempotency-Key` and is therefore applied at most once. A call with the error [`Kind::Lost`](crate::Kind::Lost) has
/// an unknown outcome.
///
/// Values can be any type supported by `serde`; values are stored as MsgPack, and clients of the JSON interface read
/// the same values as JSON.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    timeout: Duration,
}

/// A value with the revision of the last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<V> {
    /// The value.
    pub value: V,
    /// Revision of the last write to the key; rises with each write.
    pub revision: u64,
}

/// Precondition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// None: the write replaces any value.
    #[default]
    Always,
    /// The key does not exist.
    Absent,
    /// The last write to the key has this revision.
    Revision(u64),
}

/// Outcome of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The write is applied at this revision.
    Applied {
        /// Revision of the write.
        revision: u64,
    },
    /// The condition is false; nothing has changed.
    Conflict,
}

impl Client {
    /// Creates a client for the store at `endpoints`, with a timeout of 10 s per call.
    pub fn new(endpoints: Endpoints) -> Self {
        Self { transport: Transport::new(Interface::Api, endpoints, ATTEMPT + MARGIN), timeout: TIMEOUT }
    }

    /// Sets the timeout per call, retries included.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Reads a key; `None` if the key does not exist.
    ///
    /// # Errors
    /// No server answered in time, or the value is not a `V`.
    pub async fn get<V: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry<V>>, Error> {
        let answer = self.send(Method::GET, key.as_ref(), &[(ACCEPT, MSGPACK)], Bytes::new()).await?;
        if is_missing(&answer) {
            return Ok(None);
        }
        let revision = revision(&answer)?;
        let value = rmp_serde::from_slice(&answer.body)
            .map_err(|error| Error::usage(format!("the value is of another type: {error}")))?;
        Ok(Some(Entry { value, revision }))
    }

    /// Writes a key if `condition` holds.
    ///
    /// # Errors
    /// The value cannot be represented, or no server answered in time: with [`Kind::Lost`](crate::Kind::Lost) the
    /// outcome is unknown.
    pub async fn put<V: Serialize + ?Sized>(
        &self,
        key: impl AsRef<[u8]>,
        value: &V,
        condition: Condition,
    ) -> Result<Written, Error> {
        // Structures as maps with field names: readable for other languages, and open for new fields.
        let body = rmp_serde::to_vec_named(value).map_err(Error::usage)?;
        let mut headers = vec![(CONTENT_TYPE, MSGPACK), (IDEMPOTENCY_KEY, fresh_key())];
        headers.extend(header(condition)?);
        written(&self.send(Method::PUT, key.as_ref(), &headers, body.into()).await?)
    }

    /// Deletes a key if `condition` holds. Deleting a missing key is a [`Written::Conflict`].
    ///
    /// # Errors
    /// No server answered in time: with [`Kind::Lost`](crate::Kind::Lost) the outcome is unknown.
    pub async fn delete(&self, key: impl AsRef<[u8]>, condition: Condition) -> Result<Written, Error> {
        let mut headers = vec![(IDEMPOTENCY_KEY, fresh_key())];
        headers.extend(header(condition)?);
        let answer = self.send(Method::DELETE, key.as_ref(), &headers, Bytes::new()).await?;
        if is_missing(&answer) { Ok(Written::Conflict) } else { written(&answer) }
    }

    async fn send(
        &self,
        method: Method,
        key: &[u8],
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, Error> {
        if key.is_empty() {
            return Err(Error::usage("the key is empty"));
        }
        let path = format!("/v1/kv/{}", encode(key));
        let request = Request { method, path, headers, body, is_repeatable: true };
        Retry::within(self.timeout).send(&self.transport, &request, |_| {}).await
    }
}

fn header(condition: Condition) -> Result<Option<(HeaderName, HeaderValue)>, Error> {
    Ok(match condition {
        Condition::Always => None,
        Condition::Absent => Some((IF_NONE_MATCH, ANY)),
        Condition::Revision(revision) => {
            Some((IF_MATCH, HeaderValue::try_from(format!("\"{revision}\"")).map_err(Error::usage)?))
        }
    })
}

/// Whether the key does not exist. Any other 404 says nothing about the key.
fn is_missing(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND && answer.code().as_deref() == Some("key_not_found")
}

fn written(answer: &Answer) -> Result<Written, Error> {
    match answer.status {
        StatusCode::PRECONDITION_FAILED => Ok(Written::Conflict),
        _ => Ok(Written::Applied { revision: revision(answer)? }),
    }
}

/// Returns the revision of a successful answer: from the `ETag`, or from the body of an answer to a delete.
fn revision(answer: &Answer) -> Result<u64, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Outcome {
        revision: Option<u64>,
    }
    let of_body = || serde_json::from_slice::<Outcome>(&answer.body).unwrap_or_default().revision;
    match answer.status.is_success().then(|| answer.revision().or_else(of_body)).flatten() {
        Some(revision) => Ok(revision),
        None => Err(answer.error()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn answer(status: StatusCode, tag: Option<&'static str>, body: &'static str) -> Answer {
        let tag = tag.map(|tag| (hyper::header::ETAG, HeaderValue::from_static(tag)));
        Answer { status, headers: HeaderMap::from_iter(tag), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_write_is_applied_or_refused_or_failed() {
        let applied = answer(StatusCode::OK, Some("\"7\""), "");
        assert_eq!(written(&applied), Ok(Written::Applied { revision: 7 }));
        let deleted = answer(StatusCode::OK, None, r#"{"revision":204,"existed":true}"#);
        assert_eq!(written(&deleted), Ok(Written::Applied { revision: 204 }));
        assert_eq!(written(&answer(StatusCode::PRECONDITION_FAILED, Some("\"7\""), "{}")), Ok(Written::Conflict));
        let full = written(&answer(StatusCode::INSUFFICIENT_STORAGE, None, r#"{"detail":"the disk is full"}"#));
        assert_eq!(full.map_err(|error| error.message), Err("507: the disk is full".to_owned()));
    }

    #[test]
    fn only_a_missing_key_is_missing() {
        assert!(is_missing(&answer(StatusCode::NOT_FOUND, None, r#"{"code":"key_not_found"}"#)));
        assert!(!is_missing(&answer(StatusCode::NOT_FOUND, None, r#"{"code":"unknown_path"}"#)));
    }
}
