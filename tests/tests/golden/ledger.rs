//! [`Ledger`]: requests that were sent, and the contents that a store has after them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use raftkv_tests::{Answer, Client, encode_key, eventually};
use reqwest::Method;
use serde::{Deserialize, Serialize};

/// A write of one key, as it goes over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Percent-encoded.
    pub(super) key: String,
    /// MsgPack in base64; `None` = a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The name and the value of a header with a precondition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

/// The parts of an answer that a repeat must have as well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    pub(super) status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_revision: Option<u64>,
    #[serde(skip)]
    pub(super) replayed: bool,
}

/// A value with its revisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// MsgPack in base64.
    value: String,
    revision: u64,
    create_revision: u64,
}

/// A request with an `Idempotency-Key`, and the answer that its repeats get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Repeat {
    request: Request,
    reply: Reply,
}

/// Everything that must be read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// By percent-encoded key.
    pub(super) entries: BTreeMap<String, Entry>,
    /// Keys that were deleted.
    pub(super) gone: BTreeSet<String>,
    pub(super) repeats: Vec<Repeat>,
}

impl Request {
    pub(super) fn put(key: impl AsRef<[u8]>, value: &rmpv::Value) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value)?;
        Ok(Self::put_bytes(key, &bytes))
    }

    /// Of a value that is encoded already.
    pub(super) fn put_bytes(key: impl AsRef<[u8]>, value: &[u8]) -> Self {
        Self { value: Some(STANDARD.encode(value)), ..Self::delete(key) }
    }

    pub(super) fn delete(key: impl AsRef<[u8]>) -> Self {
        Self { key: encode_key(key), value: None, condition: None, idempotency_key: None }
    }

    /// Of a key that is percent-encoded already; a delete without a value.
    pub(super) fn of_encoded(key: &str, value: Option<&rmpv::Value>) -> anyhow::Result<Self> {
        let request = match value {
            Some(value) => Self::put("", value)?,
            None => Self::delete(""),
        };
        Ok(Self { key: key.to_owned(), ..request })
    }

    pub(super) fn only_if(mut self, header: &str, value: impl Into<String>) -> Self {
        self.condition = Some((header.to_owned(), value.into()));
        self
    }

    pub(super) fn once(mut self, idempotency_key: &str) -> Self {
        self.idempotency_key = Some(idempotency_key.to_owned());
        self
    }

    /// Sends it. Fails on any answer after which the outcome could still change.
    pub(super) async fn send(&self, client: &Client) -> anyhow::Result<Reply> {
        let path = format!("/v1/kv/{}?timeout=20s", self.key);
        let mut request = match &self.value {
            None => client.request(Method::DELETE, &path),
            Some(value) => client
                .request(Method::PUT, &path)
                .header("content-type", "application/msgpack")
                .body(STANDARD.decode(value)?),
        };
        if let Some((header, value)) = &self.condition {
            request = request.header(header, value);
        }
        if let Some(idempotency_key) = &self.idempotency_key {
            request = request.header("idempotency-key", idempotency_key);
        }
        let answer = Client::send(request).await?;
        ensure!(matches!(answer.status.as_u16(), 200 | 404 | 412 | 422), "{self:?} was answered {answer}");
        Reply::of(&answer)
    }
}

impl Entry {
    /// Whether a service told the same.
    pub(super) fn is(&self, told: &raftkv_proto::group::Entry) -> bool {
        let revisions = (self.revision, self.create_revision) == (told.revision, told.create_revision);
        revisions && self.value == STANDARD.encode(&told.value) && told.expires_at_ms == 0
    }
}

impl Reply {
    fn of(answer: &Answer) -> anyhow::Result<Self> {
        let reply: Self = serde_json::from_slice(&answer.body).with_context(|| answer.to_string())?;
        let replayed = answer.header("idempotency-replayed") == "true";
        Ok(Self { status: answer.status.as_u16(), replayed, ..reply })
    }
}

impl Ledger {
    /// Sends a write and notes its effect.
    pub(super) async fn write(&mut self, client: &Client, request: Request) -> anyhow::Result<Reply> {
        let reply = request.send(client).await?;
        ensure!(!reply.replayed, "{request:?} was sent before");
        if reply.status == 200 {
            let revision = reply.revision.context("a revision")?;
            match &request.value {
                Some(value) => {
                    let known = self.entries.get(&request.key);
                    let create_revision = known.map_or(revision, |known| known.create_revision);
                    ensure!(reply.created == Some(known.is_none()), "{request:?} was answered {reply:?}");
                    let entry = Entry { value: value.clone(), revision, create_revision };
                    self.entries.insert(request.key.clone(), entry);
                    self.gone.remove(&request.key);
                }
                None => {
                    ensure!(self.entries.remove(&request.key).is_some(), "{request:?} was answered {reply:?}");
                    self.gone.insert(request.key.clone());
                }
            }
        }
        // An outcome is kept, whatever it is; a mismatch is none.
        if request.idempotency_key.is_some() && reply.status != 422 {
            self.repeats.push(Repeat { request, reply: reply.clone() });
        }
        Ok(reply)
    }

    /// Notes a key that was made otherwise, with its value's MsgPack.
    pub(super) fn note(&mut self, key: &str, value: &[u8], revision: u64) {
        let entry = Entry { value: STANDARD.encode(value), revision, create_revision: revision };
        self.entries.insert(encode_key(key), entry);
    }

    /// As [`write`](Self::write), for one that must be answered with this status.
    pub(super) async fn answered(&mut self, client: &Client, request: Request, status: u16) -> anyhow::Result<Reply> {
        let what = format!("{request:?}");
        let reply = self.write(client, request).await?;
        ensure!(reply.status == status, "{what} was answered {reply:?}");
        Ok(reply)
    }

    /// Reads every key at `client`, bit for bit and with its revisions; those that were deleted are not there.
    pub(super) async fn check(&self, client: &Client, consistency: &str) -> anyhow::Result<()> {
        for (key, entry) in &self.entries {
            let answer = get(client, key, consistency).await?;
            let answer = answer.success().with_context(|| format!("read {key}"))?;
            let create_revision: u64 = answer.header("raftkv-create-revision").parse().context("a create revision")?;
            let found = Entry { value: STANDARD.encode(&answer.body), revision: answer.revision()?, create_revision };
            ensure!(&found == entry, "{key} is {found:?} and was {entry:?}");
        }
        for key in &self.gone {
            let answer = get(client, key, consistency).await?;
            ensure!(answer.status == 404, "{key} was deleted and is {answer}");
        }
        Ok(())
    }

    /// Repeats each request that has an `Idempotency-Key`: the answers are those of the first time, and say so. Of a failed
    /// precondition version 0.1.0 does not say so, which `all` = false allows for.
    pub(super) async fn check_repeats(&self, client: &Client, all: bool) -> anyhow::Result<()> {
        for Repeat { request, reply } in &self.repeats {
            let again = request.send(client).await?;
            let expected = Reply { replayed: all || reply.status != 412, ..reply.clone() };
            ensure!(again == expected, "a repeat of {request:?} was answered {again:?} and not {expected:?}");
        }
        Ok(())
    }
}

async fn get(client: &Client, key: &str, consistency: &str) -> anyhow::Result<Answer> {
    let path = format!("/v1/kv/{key}?timeout=20s&consistency={consistency}");
    eventually("the key can be read", || async {
        let request = client.request(Method::GET, &path).header("accept", "application/msgpack");
        let answer = Client::send(request).await?;
        ensure!(!answer.status.is_server_error(), "{answer}");
        Ok(answer)
    })
    .await
}
