//! [`Registers`]: many clients that read and write few keys, with a linearizability check.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::{Method, StatusCode};
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::client::{Client, encode_key};
use crate::linearizability::{History, Operation};
use crate::seed::Seed;

/// Longer than an election.
const TIMEOUT: &str = "timeout=20s";
/// Pause between attempts of a put with an `Idempotency-Key`.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum time until a put with an `Idempotency-Key` is acknowledged.
const REPEAT_PATIENCE: Duration = Duration::from_secs(90);
/// Time limit for checking the history of a key. Low concurrency makes the check fast; exponential time indicates a bad test.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);
/// Histories checked concurrently.
const CHECKERS: usize = 2;

/// Answers tolerated by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Only successes and failed conditions.
    Waits,
    /// Also missing answers, and answers for "not applied" and "outcome unknown".
    Faults,
}

/// Running clients, until [`end`](Self::end). Half of the puts have an `Idempotency-Key` and are retried until
/// acknowledged; for other changes, an unknown outcome is final.
#[derive(Debug)]
pub struct Registers {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<anyhow::Result<Seen>>>,
}

#[derive(Debug)]
struct Shared {
    keys: Vec<String>,
    clients: Vec<Client>,
    tolerance: Tolerance,
    going_on: AtomicBool,
    done: AtomicU64,
}

/// Observations of a client.
#[derive(Debug, Default)]
struct Seen {
    histories: Vec<History>,
    /// Key, value, and the revision of the write.
    revisions: Vec<(usize, u64, u64)>,
    unknown: usize,
    refused: usize,
    waits: Vec<Duration>,
}

/// Result of a successful check.
#[derive(Debug)]
pub struct RegistersReport {
    /// Operations in the histories.
    pub operations: usize,
    /// Changes with unknown outcome.
    pub unknown: usize,
    /// Answers meaning "not applied".
    pub refused: usize,
    /// Longest wait for an answer.
    pub longest_wait: Duration,
    /// 99th percentile of the waits.
    pub p99_wait: Duration,
    /// Duration of the check.
    pub checked_in: Duration,
}

impl Registers {
    /// Starts `workers` clients on unused keys, through all `clients` in turn.
    pub fn start(keys: Vec<String>, workers: usize, clients: Vec<Client>, tolerance: Tolerance, seed: Seed) -> Self {
        let shared =
            Arc::new(Shared { keys, clients, tolerance, going_on: AtomicBool::new(true), done: AtomicU64::new(0) });
        let workers = (1..=workers as u64)
            .map(|number| tokio::spawn(Worker::new(Arc::clone(&shared), number, seed.rng(number)).work()))
            .collect();
        Self { shared, workers }
    }

    /// Number of completed operations so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Fails if a client stopped because of a wrong answer; [`check`](Self::check) returns the error.
    pub fn healthy(&self) -> anyhow::Result<()> {
        ensure!(!self.workers.iter().any(JoinHandle::is_finished), "a client has stopped");
        Ok(())
    }

    /// Stops each client after the current operation.
    pub fn end(&self) {
        self.shared.going_on.store(false, Ordering::Relaxed);
    }

    /// Stops the clients and checks the observations: only tolerated answers, a linearizable history for each key, a
    /// single revision for each value.
    pub async fn check(self) -> anyhow::Result<RegistersReport> {
        self.end();
        let mut histories = vec![History::default(); self.shared.keys.len()];
        let mut revisions: HashMap<(usize, u64), u64> = HashMap::new();
        let (mut unknown, mut refused, mut waits) = (0, 0, Vec::new());
        for worker in self.workers {
            let seen = worker.await.context("a client of the registers")??;
            for (key, history) in seen.histories.into_iter().enumerate() {
                histories[key].extend(history);
            }
            for (key, value, revision) in seen.revisions {
                let first = *revisions.entry((key, value)).or_insert(revision);
                ensure!(
                    first == revision,
                    "the value {value} of register {key} was written at revision {first} and again at {revision}"
                );
            }
            unknown += seen.unknown;
            refused += seen.refused;
            waits.extend(seen.waits);
        }
        let operations = histories.iter().map(History::len).sum();
        let start = Instant::now();
        futures::stream::iter(histories.into_iter().enumerate())
            .map(|(key, history)| async move {
                let len = history.len();
                let checked = tokio::task::spawn_blocking(move || history.is_linearizable());
                let linearizable = tokio::time::timeout(CHECK_PATIENCE, checked)
                    .await
                    .with_context(|| format!("the checker takes too long for {len} operations"))??;
                ensure!(linearizable, "the history of register {key}, {len} operations, is not linearizable");
                anyhow::Ok(())
            })
            .buffer_unordered(CHECKERS)
            .try_collect::<()>()
            .await?;
        waits.sort_unstable();
        Ok(RegistersReport {
            operations,
            unknown,
            refused,
            longest_wait: waits.last().copied().unwrap_or_default(),
            p99_wait: waits.get(waits.len() * 99 / 100).copied().unwrap_or_default(),
            checked_in: start.elapsed(),
        })
    }
}

/// A client.
struct Worker {
    shared: Arc<Shared>,
    rng: StdRng,
    seen: Seen,
    /// For each key, the last value and revision seen, for swaps.
    last: Vec<Option<(Option<u64>, u64)>>,
    /// For each key, the highest revision seen.
    highest: Vec<u64>,
    /// The last value written. Every value is written by a single operation.
    value: u64,
    /// Index of the next client, in turn.
    turn: usize,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: u64, rng: StdRng) -> Self {
        let keys = shared.keys.len();
        let seen = Seen { histories: vec![History::default(); keys], ..Seen::default() };
        Self {
            rng,
            seen,
            last: vec![None; keys],
            highest: vec![0; keys],
            value: number << 32,
            turn: number as usize,
            shared,
        }
    }

    async fn work(mut self) -> anyhow::Result<Seen> {
        while self.shared.going_on.load(Ordering::Relaxed) {
            let key = self.rng.random_range(0..self.shared.keys.len());
            match self.rng.random_range(0..20) {
                0..9 => self.read(key).await?,
                9..13 => self.put(key).await?,
                13..17 => self.put_once(key).await?,
                17 => self.delete(key).await?,
                _ => self.swap(key).await?,
            }
            self.shared.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.seen)
    }

    async fn read(&mut self, key: usize) -> anyhow::Result<()> {
        let (begin, answer) = self.send(self.request(Method::GET, key)).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                let (value, revision) = (answer.text()?.parse()?, answer.revision()?);
                self.saw(key, value, revision, false)?;
                self.answered(key, Operation::Read(Some(value)), begin);
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                self.last[key] = Some((None, 0));
                self.answered(key, Operation::Read(None), begin);
            }
            // A read without a result has seen nothing.
            other => self.tolerate("a read", other).map(drop)?,
        }
        Ok(())
    }

    async fn put(&mut self, key: usize) -> anyhow::Result<()> {
        self.value += 1;
        let value = self.value;
        let request = self.request(Method::PUT, key).body(value.to_string());
        let (begin, answer) = self.send(request).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                self.saw(key, value, answer.revision()?, true)?;
                self.answered(key, Operation::Write(value), begin);
            }
            other => self.changed_or_not(key, Operation::Write(value), begin, other)?,
        }
        Ok(())
    }

    /// A put retried until acknowledged: must be applied exactly once.
    async fn put_once(&mut self, key: usize) -> anyhow::Result<()> {
        self.value += 1;
        let value = self.value;
        let idempotency = format!("{}-{value}", self.shared.keys[key]);
        let start = Instant::now();
        loop {
            let request = self.request(Method::PUT, key).body(value.to_string());
            let (_, answer) = self.send(request.header("idempotency-key", &idempotency)).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.saw(key, value, answer.revision()?, true)?;
                    self.answered(key, Operation::Write(value), start);
                    return Ok(());
                }
                other => self.tolerate("a put with an Idempotency-Key", other).map(drop)?,
            }
            ensure!(start.elapsed() < REPEAT_PATIENCE, "a put was not acknowledged for {:.0?}", start.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn delete(&mut self, key: usize) -> anyhow::Result<()> {
        let (begin, answer) = self.send(self.request(Method::DELETE, key)).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => self.answered(key, Operation::Delete, begin),
            // Equivalent to a read without a value.
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => self.answered(key, Operation::Read(None), begin),
            other => self.changed_or_not(key, Operation::Delete, begin, other)?,
        }
        Ok(())
    }

    async fn swap(&mut self, key: usize) -> anyhow::Result<()> {
        let Some((from, revision)) = self.last[key] else { return self.read(key).await };
        self.value += 1;
        let to = self.value;
        let request = self.request(Method::PUT, key).body(to.to_string());
        let request = match from {
            Some(_) => request.header("if-match", format!("\"{revision}\"")),
            None => request.header("if-none-match", "*"),
        };
        let (begin, answer) = self.send(request).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                self.saw(key, to, answer.revision()?, true)?;
                self.answered(key, Operation::Swap { from, to }, begin);
            }
            // A comparison by revision is stricter than by value, but values are unique.
            Ok(answer) if answer.status == StatusCode::PRECONDITION_FAILED => {
                self.last[key] = None;
                self.answered(key, Operation::NoSwap { from }, begin);
            }
            other => self.changed_or_not(key, Operation::MaybeSwap { from, to }, begin, other)?,
        }
        Ok(())
    }

    fn request(&self, method: Method, key: usize) -> reqwest::RequestBuilder {
        let client = &self.shared.clients[self.turn % self.shared.clients.len()];
        let key = encode_key(&self.shared.keys[key]);
        client.request(method, &format!("/v1/kv/{key}?{TIMEOUT}"))
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> (Instant, reqwest::Result<Answer>) {
        self.turn += 1;
        let begin = Instant::now();
        let answer = Client::send(request).await;
        self.seen.waits.push(begin.elapsed());
        (begin, answer)
    }

    /// Records a value with its revision; fails if this client has already seen a later revision of the key.
    fn saw(&mut self, key: usize, value: u64, revision: u64, is_new: bool) -> anyhow::Result<()> {
        let highest = self.highest[key];
        ensure!(
            revision > highest || (revision == highest && !is_new),
            "register {key} has revision {revision} after this client saw {highest}"
        );
        self.highest[key] = revision;
        self.last[key] = Some((Some(value), revision));
        self.seen.revisions.push((key, value, revision));
        Ok(())
    }

    fn answered(&mut self, key: usize, operation: Operation, begin: Instant) {
        self.seen.histories[key].answered(operation, begin, Instant::now());
    }

    fn changed_or_not(
        &mut self,
        key: usize,
        operation: Operation,
        begin: Instant,
        answer: reqwest::Result<Answer>,
    ) -> anyhow::Result<()> {
        if self.tolerate(&format!("{operation:?}"), answer)? {
            self.seen.unknown += 1;
            self.seen.histories[key].unanswered(operation, begin);
        }
        Ok(())
    }

    /// Whether the request may have been applied; fails on an answer that is not tolerated.
    fn tolerate(&mut self, what: &str, answer: reqwest::Result<Answer>) -> anyhow::Result<bool> {
        let (is_unknown, why) = match &answer {
            Ok(answer) => match answer.status {
                StatusCode::GATEWAY_TIMEOUT => (true, answer.to_string()),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (false, answer.to_string()),
                _ => bail!("{what} was answered {answer}"),
            },
            Err(error) => (!error.is_connect(), format!("{:#}", anyhow!(error.to_string()))),
        };
        ensure!(self.shared.tolerance == Tolerance::Faults, "{what} got no result: {why}");
        self.seen.refused += usize::from(!is_unknown);
        Ok(is_unknown)
    }
}
