//! Append lists and counters: each value is derived from the previous value, with compare-and-swap.

use std::time::Instant;

use anyhow::ensure;
use rand::RngExt;
use reqwest::{Method, StatusCode};

use super::stats::Stats;
use super::work::{Outcome, Seen, TIMEOUT, Worker};
use crate::client::{Client, encode_key};
use crate::linearizability::Operation;

/// Append lists in use at once.
pub(super) const LISTS: usize = 2;
/// Counters in use at once.
pub(super) const COUNTERS: usize = 2;
/// Appends or adds before a key is replaced.
const LIFE: u64 = 120;

impl Worker {
    /// Appends to lists: reads a list, and writes the list with an additional element unless another client was faster.
    pub(super) async fn appends(mut self) -> anyhow::Result<Seen> {
        while self.goes_on() {
            let list = self.rng.random_range(0..LISTS);
            let key = format!("{}a{list}.{}", self.shared.prefix, self.shared.lists[list].number());
            let Some((text, revision)) = self.read_text(&key).await? else { continue };
            let known = self.seen.texts.entry(key.clone()).or_default();
            ensure!(text.starts_with(known.as_str()), "VIOLATION: {key} was {known:?}, and then {text:?}");
            known.clone_from(&text);
            let from = last_of(&text)?;
            let to = self.new_value();
            let body = format!("{text}{to},");
            let (begin, outcome) = self.ask(|client| put(client, &key, revision, &body)).await?;
            let end = Instant::now();
            match outcome {
                Outcome::Answer(answer) if answer.status == StatusCode::OK => {
                    self.seen.appended.push((key.clone(), to));
                    self.log(&key).wrote(Operation::Swap { from, to }, to, answer.revision()?, begin, end);
                    self.succeeded(1);
                    Stats::add(&self.shared.stats.appended, 1);
                    self.shared.lists[list].operations(1, LIFE);
                }
                Outcome::Answer(answer) if answer.status == StatusCode::PRECONDITION_FAILED => {
                    self.seen.not_appended.push((key.clone(), to));
                    self.log(&key).answered(Operation::NoSwap { from }, begin, end);
                    self.succeeded(1);
                }
                Outcome::Answer(answer) => anyhow::bail!("VIOLATION: an append was answered {answer}"),
                Outcome::Refused => self.seen.not_appended.push((key, to)),
                Outcome::Unknown => {
                    self.log(&key).unknown(Operation::MaybeSwap { from, to }, begin);
                    Stats::add(&self.shared.stats.unknown, 1);
                    self.shared.lists[list].unknown();
                }
            }
        }
        Ok(self.seen)
    }

    /// Increments counters, each time with an `Idempotency-Key` until the outcome is known. A counter then equals the
    /// number of acknowledged increments.
    pub(super) async fn counts(mut self) -> anyhow::Result<Seen> {
        while self.goes_on() {
            let counter = self.rng.random_range(0..COUNTERS);
            let key = format!("{}c{counter}.{}", self.shared.prefix, self.shared.counters[counter].number());
            let Some((text, revision)) = self.read_text(&key).await? else { continue };
            let from = last_of(&text)?;
            let to = from.unwrap_or_default() + 1;
            let idempotency = format!("{key}-{}", self.new_value());
            let request =
                |client: &Client| put(client, &key, revision, &to.to_string()).header("idempotency-key", &idempotency);
            let (begin, answer) = self.ask_until_known(request).await?;
            let end = Instant::now();
            match answer.status {
                StatusCode::OK => {
                    self.log(&key).wrote(Operation::Swap { from, to }, to, answer.revision()?, begin, end);
                    *self.seen.adds.entry(key.clone()).or_default() += 1;
                    Stats::add(&self.shared.stats.adds, 1);
                    self.shared.counters[counter].operations(1, LIFE);
                }
                StatusCode::PRECONDITION_FAILED => {
                    self.log(&key).answered(Operation::NoSwap { from }, begin, end);
                }
                _ => anyhow::bail!("VIOLATION: an add was answered {answer}"),
            }
            self.succeeded(1);
        }
        Ok(self.seen)
    }

    /// Text and revision of a key; empty and 0 for a missing key. `None` without an answer.
    async fn read_text(&mut self, key: &str) -> anyhow::Result<Option<(String, u64)>> {
        let path = format!("/v1/kv/{}?{TIMEOUT}", encode_key(key));
        let (begin, outcome) = self.ask(|client| client.request(Method::GET, &path)).await?;
        let end = Instant::now();
        let Outcome::Answer(answer) = outcome else { return Ok(None) };
        self.succeeded(1);
        if answer.status != StatusCode::OK {
            self.log(key).read(None, begin, end);
            return Ok(Some((String::new(), 0)));
        }
        let (text, revision) = (answer.text()?, answer.revision()?);
        let last = last_of(&text)?.map(|last| (last, revision));
        self.log(key).read(last, begin, end);
        Ok(Some((text, revision)))
    }
}

fn put(client: &Client, key: &str, revision: u64, body: &str) -> reqwest::RequestBuilder {
    let request = client.request(Method::PUT, &format!("/v1/kv/{}?{TIMEOUT}", encode_key(key)));
    let request = request.header("content-type", "text/plain").body(body.to_owned());
    match revision {
        0 => request.header("if-none-match", "*"),
        _ => request.header("if-match", format!("\"{revision}\"")),
    }
}

/// The last number of a list, or the value of a counter.
pub(super) fn last_of(text: &str) -> anyhow::Result<Option<u64>> {
    match text.trim_end_matches(',').rsplit(',').next() {
        None | Some("") => Ok(None),
        Some(last) => Ok(Some(last.parse()?)),
    }
}
