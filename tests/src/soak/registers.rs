//! Registers: families of keys that many clients read, write, delete and swap, individually, in batches and in lists.

use std::time::Instant;

use anyhow::{Context, ensure};
use rand::RngExt;
use rand::seq::SliceRandom;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::stats::Stats;
use super::work::{Outcome, TIMEOUT, Worker};
use crate::client::encode_key;
use crate::linearizability::Operation;

/// Number of key families, each with a separate prefix.
pub(super) const FAMILIES: usize = 6;
/// Keys per family, all returned by a single list.
const KEYS: usize = 12;
/// Operations per batch.
const BATCH: usize = 8;
/// Operations on a family before its keys are replaced: histories with some hundred operations are checked fast.
const FAMILY_LIFE: u64 = 250 * KEYS as u64;

/// A change of a register.
#[derive(Debug, Clone, Copy)]
enum Change {
    Put(u64),
    Delete,
    /// Conditional on the revision of a value seen earlier; `None` and 0 for an absent key.
    Swap {
        from: Option<u64>,
        revision: u64,
        to: u64,
    },
}

impl Change {
    fn done(self) -> Operation {
        match self {
            Self::Put(value) => Operation::Write(value),
            Self::Delete => Operation::Delete,
            Self::Swap { from, to, .. } => Operation::Swap { from, to },
        }
    }

    fn maybe(self) -> Operation {
        match self {
            Self::Swap { from, to, .. } => Operation::MaybeSwap { from, to },
            other => other.done(),
        }
    }

    fn value(self) -> Option<u64> {
        match self {
            Self::Put(value) | Self::Swap { to: value, .. } => Some(value),
            Self::Delete => None,
        }
    }

    /// Encodes an operation of a batch.
    fn in_batch(self, key: &str) -> Value {
        match self {
            Self::Put(value) => json!({"op": "put", "key": key, "value": value}),
            Self::Delete => json!({"op": "delete", "key": key}),
            Self::Swap { from: None, to, .. } => json!({"op": "put", "key": key, "value": to, "if": {"absent": true}}),
            Self::Swap { revision, to, .. } => {
                json!({"op": "put", "key": key, "value": to, "if": {"revision": revision}})
            }
        }
    }
}

impl Worker {
    /// Works on registers until the end of the episode.
    pub(super) async fn registers(mut self) -> anyhow::Result<super::work::Seen> {
        while self.goes_on() {
            let family = self.rng.random_range(0..FAMILIES);
            let prefix = format!("{}r{family}.{}/", self.shared.prefix, self.shared.registers[family].number());
            let key = format!("{prefix}{:02}", self.rng.random_range(0..KEYS));
            match self.rng.random_range(0..100) {
                0..30 => self.get(&key).await?,
                30..40 => self.change(family, &key, 0, false).await?,
                40..52 => self.change(family, &key, 0, true).await?,
                52..57 => self.change(family, &key, 1, false).await?,
                57..67 => self.change(family, &key, 2, false).await?,
                67..77 => self.batch(family, &prefix, false).await?,
                77..88 => self.batch(family, &prefix, true).await?,
                _ => self.list(family, &prefix).await?,
            }
            self.shared.registers[family].operations(1, FAMILY_LIFE);
        }
        Ok(self.seen)
    }

    async fn get(&mut self, key: &str) -> anyhow::Result<()> {
        let path = format!("/v1/kv/{}?{TIMEOUT}", encode_key(key));
        let (begin, outcome) = self.ask(|client| client.request(Method::GET, &path)).await?;
        let end = Instant::now();
        if let Outcome::Answer(answer) = outcome {
            let found = match answer.status {
                StatusCode::OK => Some((answer.text()?.parse()?, answer.revision()?)),
                _ => None,
            };
            self.saw(key, found, begin, end);
            self.succeeded(1);
        }
        Ok(())
    }

    fn saw(&mut self, key: &str, found: Option<(u64, u64)>, begin: Instant, end: Instant) {
        let last = found.map_or((None, 0), |(value, revision)| (Some(value), revision));
        self.last.insert(key.to_owned(), last);
        self.log(key).read(found, begin, end);
    }

    fn new_change(&mut self, key: &str, sort: usize) -> Change {
        match (sort, self.last.get(key).copied()) {
            (1, _) => Change::Delete,
            (2, Some((from, revision))) => Change::Swap { from, revision, to: self.new_value() },
            _ => Change::Put(self.new_value()),
        }
    }

    /// A put (0), a delete (1) or a swap (2). With `known`, repeated with an `Idempotency-Key` until the outcome is known.
    async fn change(&mut self, family: usize, key: &str, sort: usize, known: bool) -> anyhow::Result<()> {
        let change = self.new_change(key, sort);
        let path = format!("/v1/kv/{}?{TIMEOUT}", encode_key(key));
        let idempotency = format!("{key}-{}", change.value().unwrap_or_default());
        let request = |client: &crate::client::Client| {
            let request = match change {
                Change::Delete => client.request(Method::DELETE, &path),
                Change::Put(value) => client.request(Method::PUT, &path).body(value.to_string()),
                Change::Swap { from: None, to, .. } => {
                    client.request(Method::PUT, &path).header("if-none-match", "*").body(to.to_string())
                }
                Change::Swap { revision, to, .. } => {
                    let revision = format!("\"{revision}\"");
                    client.request(Method::PUT, &path).header("if-match", revision).body(to.to_string())
                }
            };
            if known { request.header("idempotency-key", &idempotency) } else { request }
        };
        let (begin, outcome) = match known {
            true => {
                let (begin, answer) = self.ask_until_known(request).await?;
                (begin, Outcome::Answer(answer))
            }
            false => self.ask(request).await?,
        };
        match outcome {
            Outcome::Answer(answer) => {
                let revision = if answer.status == StatusCode::OK { answer_revision(&answer)? } else { 0 };
                self.changed(key, change, answer.status.as_u16(), revision, begin)?;
            }
            Outcome::Refused => {}
            Outcome::Unknown => self.unknown(family, key, change, begin),
        }
        Ok(())
    }

    fn changed(&mut self, key: &str, change: Change, status: u16, revision: u64, begin: Instant) -> anyhow::Result<()> {
        let end = Instant::now();
        match (status, change) {
            (200, Change::Delete) => self.log(key).answered(Operation::Delete, begin, end),
            // Equivalent to a read without a value.
            (404, Change::Delete) => self.log(key).read(None, begin, end),
            (200, Change::Put(value) | Change::Swap { to: value, .. }) => {
                self.last.insert(key.to_owned(), (Some(value), revision));
                self.log(key).wrote(change.done(), value, revision, begin, end);
            }
            (412, Change::Swap { from, .. }) => {
                self.last.remove(key);
                // A comparison by revision is stricter than by value, but values are unique.
                self.log(key).answered(Operation::NoSwap { from }, begin, end);
            }
            _ => anyhow::bail!("VIOLATION: {change:?} of {key} was answered {status}"),
        }
        self.succeeded(1);
        Ok(())
    }

    fn unknown(&mut self, family: usize, key: &str, change: Change, begin: Instant) {
        Stats::add(&self.shared.stats.unknown, 1);
        self.log(key).unknown(change.maybe(), begin);
        self.shared.registers[family].unknown();
    }

    async fn batch(&mut self, family: usize, prefix: &str, known: bool) -> anyhow::Result<()> {
        let mut keys: Vec<_> = (0..KEYS).map(|number| format!("{prefix}{number:02}")).collect();
        keys.shuffle(&mut self.rng);
        keys.truncate(BATCH);
        let mut changes = Vec::new();
        for key in &keys {
            let sort = [0, 0, 0, 0, 1, 2, 2, 2][self.rng.random_range(0..8)];
            changes.push(self.new_change(key, sort));
        }
        let operations: Vec<_> = keys.iter().zip(&changes).map(|(key, change)| change.in_batch(key)).collect();
        let body = json!({"operations": operations}).to_string();
        let idempotency = format!("{prefix}b{}", self.new_value());
        let path = format!("/v1/batch?{TIMEOUT}");
        let request = |client: &crate::client::Client| {
            let request = client.request(Method::POST, &path).header("content-type", "application/json");
            let request = request.body(body.clone());
            if known { request.header("idempotency-key", &idempotency) } else { request }
        };
        let start = Instant::now();
        loop {
            let (begin, results) = match known {
                true => {
                    let (_, answer) = self.ask_until_known(request).await?;
                    (start, answer.json()?)
                }
                false => match self.ask(request).await? {
                    (begin, Outcome::Answer(answer)) => (begin, answer.json()?),
                    (_, Outcome::Refused) => return Ok(()),
                    (begin, Outcome::Unknown) => {
                        for (key, change) in keys.iter().zip(&changes) {
                            self.unknown(family, key, *change, begin);
                        }
                        return Ok(());
                    }
                },
            };
            let results = results["results"].as_array().context("a batch has results")?.clone();
            ensure!(results.len() == BATCH, "VIOLATION: {BATCH} operations have {} results", results.len());
            let status = |result: &Value| result["status"].as_u64().unwrap_or_default();
            // Each operation has a separate outcome; with an `Idempotency-Key`, the batch is repeated until all outcomes are known.
            if known && results.iter().any(|result| !matches!(status(result), 200 | 404 | 412)) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
            for ((key, change), result) in keys.iter().zip(&changes).zip(&results) {
                match status(result) {
                    200 | 404 | 412 => {
                        let revision = result["revision"].as_u64().unwrap_or_default();
                        self.changed(key, *change, status(result) as u16, revision, begin)?;
                    }
                    429 | 503 | 507 => {}
                    504 => self.unknown(family, key, *change, begin),
                    _ => anyhow::bail!("VIOLATION: {change:?} of {key} in a batch was answered {result}"),
                }
            }
            self.shared.registers[family].operations(BATCH - 1, FAMILY_LIFE);
            return Ok(());
        }
    }

    /// Lists a whole family: a key missing from the list is absent.
    async fn list(&mut self, family: usize, prefix: &str) -> anyhow::Result<()> {
        let Some((begin, entries)) = self.listed(prefix).await? else { return Ok(()) };
        let end = Instant::now();
        let mut entries = entries.into_iter().peekable();
        for number in 0..KEYS {
            let key = format!("{prefix}{number:02}");
            let found = match entries.next_if(|(listed, ..)| *listed == key) {
                Some((_, value, revision)) => Some((number_of(&value)?, revision)),
                None => None,
            };
            self.saw(&key, found, begin, end);
        }
        ensure!(entries.next().is_none(), "VIOLATION: the list of {prefix} has unknown or unordered keys");
        self.succeeded(KEYS);
        self.shared.registers[family].operations(KEYS - 1, FAMILY_LIFE);
        Ok(())
    }

    /// All keys with a prefix, with value and revision; `None` without an answer.
    pub(super) async fn listed(
        &mut self,
        prefix: &str,
    ) -> anyhow::Result<Option<(Instant, Vec<(String, Value, u64)>)>> {
        let mut entries = Vec::new();
        let mut cursor = String::new();
        let start = Instant::now();
        loop {
            let path = format!("/v1/kv?prefix={}&limit=1000&{TIMEOUT}{cursor}", encode_key(prefix));
            let (_, outcome) = self.ask(|client| client.request(Method::GET, &path)).await?;
            let Outcome::Answer(answer) = outcome else { return Ok(None) };
            let page = answer.json()?;
            for entry in page["entries"].as_array().context("a list has entries")? {
                let key = entry["key"].as_str().context("a key")?.to_owned();
                let revision = entry["revision"].as_u64().context("a revision")?;
                entries.push((key, entry["value"].clone(), revision));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode_key(next)),
                None => return Ok(Some((start, entries))),
            }
        }
    }
}

fn answer_revision(answer: &crate::answer::Answer) -> anyhow::Result<u64> {
    // Read from the body, because deletes have no ETag.
    answer.json()?["revision"].as_u64().with_context(|| format!("no revision: {answer}"))
}

/// A number stored as text or as JSON.
pub(super) fn number_of(value: &Value) -> anyhow::Result<u64> {
    match value {
        Value::String(text) => Ok(text.parse()?),
        other => other.as_u64().with_context(|| format!("{other} is no number")),
    }
}
