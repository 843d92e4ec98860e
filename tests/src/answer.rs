//! [`Answer`]: an HTTP answer; [`Put`]: what a writer may conclude from one.

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap};

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What happened.
    pub status: StatusCode,
    /// With what.
    pub headers: HeaderMap,
    /// The content.
    pub body: Bytes,
}

impl Answer {
    /// The content as text, of a success only.
    pub fn text(&self) -> anyhow::Result<String> {
        ensure!(self.status.is_success(), "{self}");
        Ok(String::from_utf8(self.body.to_vec())?)
    }

    /// The content as JSON, of any answer.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| self.to_string())
    }

    /// The value of a header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What kind of content it is, without parameters.
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

    /// Fails unless it is a success.
    pub fn success(self) -> anyhow::Result<Self> {
        ensure!(self.status.is_success(), "expected a success: {self}");
        Ok(self)
    }

    /// The stable code of a problem answer.
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

/// What a writer may conclude from the answer, or from getting none.
#[derive(Debug, Clone)]
pub enum Put {
    /// It is stored.
    Acked {
        /// The key's revision.
        revision: u64,
        /// An earlier request with the same `Idempotency-Key` had stored it.
        replayed: bool,
    },
    /// Definitely not stored, now or later.
    Refused(String),
    /// Stored or not, now or later.
    Unknown(String),
}

impl Put {
    /// Reads an answer, or why there is none.
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

    /// The revision of a put that was stored.
    pub fn acked(self) -> anyhow::Result<u64> {
        match self {
            Self::Acked { revision, .. } => Ok(revision),
            Self::Refused(why) => bail!("the put was refused: {why}"),
            Self::Unknown(why) => Err(anyhow!("the put's outcome is unknown: {why}")),
        }
    }
}
