//! [`Answer`]: an HTTP response; [`Put`]: the outcome of a write.

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap};

/// An HTTP response with its complete body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// HTTP body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; fails unless the status is a success.
    pub fn text(&self) -> anyhow::Result<String> {
        ensure!(self.status.is_success(), "{self}");
        Ok(String::from_utf8(self.body.to_vec())?)
    }

    /// The body as JSON, for any status.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| self.to_string())
    }

    /// The value of a header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Media type, without parameters.
    pub fn content_type(&self) -> &str {
        self.header(CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().trim()
    }

    /// The key's revision, from the ETag.
    pub fn revision(&self) -> anyhow::Result<u64> {
        self.header(ETAG.as_str()).trim_matches('"').parse().with_context(|| format!("no revision in the ETag: {self}"))
    }

    /// Fails unless the status is `expected`.
    pub fn expect(self, expected: StatusCode) -> anyhow::Result<Self> {
        ensure!(self.status == expected, "expected {expected}: {self}");
        Ok(self)
    }

    /// Fails unless the status is a success.
    pub fn success(self) -> anyhow::Result<Self> {
        ensure!(self.status.is_success(), "expected a success: {self}");
        Ok(self)
    }

    /// Stable error code of a problem response.
    pub fn problem_code(&self) -> String {
        let code = self.json().ok().and_then(|problem| Some(problem.get("code")?.as_str()?.to_owned()));
        code.unwrap_or_default()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
        write!(f, "{} {body}", self.status)
    }
}

/// Outcome of a write, derived from the response or from its absence.
#[derive(Debug, Clone)]
pub enum Put {
    /// Stored.
    Acked {
        /// The key's revision.
        revision: u64,
        /// Whether the write was already stored by an earlier request with the same `Idempotency-Key`.
        replayed: bool,
    },
    /// Not stored, and never will be.
    Refused(String),
    /// May have been stored, or may be stored later.
    Unknown(String),
}

impl Put {
    /// Classifies a response, or the reason for a missing response.
    pub(crate) fn from(result: reqwest::Result<Answer>) -> Self {
        let answer = match result {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return Self::Refused(format!("{error:#}")),
            Err(error) => return Self::Unknown(format!("{error:#}")),
        };
        match answer.status {
            status if status.is_success() => match answer.revision() {
                Ok(revision) => Self::Acked { revision, replayed: answer.header("idempotency-replayed") == "true" },
                Err(error) => Self::Unknown(error.to_string()),
            },
            StatusCode::GATEWAY_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR => Self::Unknown(answer.to_string()),
            _ => Self::Refused(answer.to_string()),
        }
    }

    /// The revision of an acknowledged put; fails for any other outcome.
    pub fn acked(self) -> anyhow::Result<u64> {
        match self {
            Self::Acked { revision, .. } => Ok(revision),
            Self::Refused(why) => bail!("the put was refused: {why}"),
            Self::Unknown(why) => Err(anyhow!("the put's outcome is unknown: {why}")),
        }
    }
}
