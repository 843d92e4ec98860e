//! [`Work`]: the clients of an episode.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{RequestBuilder, StatusCode};
use tokio::task::JoinHandle;

use super::key_log::KeyLog;
use super::stats::Stats;
use crate::answer::Answer;
use crate::client::Client;

/// Deadline in requests.
pub(super) const TIMEOUT: &str = "timeout=3s";
/// Client timeout: a paused process does not even report a missed deadline.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between attempts of a request with an `Idempotency-Key`.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum time until a request with an `Idempotency-Key` is answered: longer than any fault.
const REPEAT_PATIENCE: Duration = Duration::from_secs(240);
/// Number of clients of each type.
const REGISTERS: u64 = 10;
const APPENDERS: u64 = 2;
const COUNTERS: u64 = 2;
const SETS: u64 = 2;
/// Number of changes with unknown outcome before a family of keys is replaced: the checker must try all possible outcomes.
const MAX_UNKNOWN: u64 = 3;

/// Generation of keys: increases when the keys must be replaced.
#[derive(Debug, Default)]
pub(super) struct Generation {
    number: AtomicU64,
    unknown: AtomicU64,
    operations: AtomicU64,
}

impl Generation {
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Counts a change with unknown outcome.
    pub(super) fn unknown(&self) {
        if self.unknown.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_UNKNOWN {
            self.next();
        }
    }

    /// Counts operations; the generation is replaced at `limit`.
    pub(super) fn operations(&self, number: usize, limit: u64) {
        if self.operations.fetch_add(number as u64, Ordering::Relaxed) + number as u64 >= limit {
            self.next();
        }
    }

    fn next(&self) {
        self.unknown.store(0, Ordering::Relaxed);
        self.operations.store(0, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Relaxed);
    }
}

/// State shared by all clients of an episode.
pub(super) struct Shared {
    /// Prefix of all keys in the episode.
    pub(super) prefix: String,
    clients: Vec<Client>,
    going_on: AtomicBool,
    pub(super) stats: Arc<Stats>,
    pub(super) registers: Vec<Generation>,
    pub(super) lists: Vec<Generation>,
    pub(super) counters: Vec<Generation>,
}

/// Observations of a client.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By key.
    pub(super) logs: HashMap<String, KeyLog>,
    /// Append lists: elements known to be present exactly once, and elements known to be absent.
    pub(super) appended: Vec<(String, u64)>,
    pub(super) not_appended: Vec<(String, u64)>,
    /// Latest content of each append list.
    pub(super) texts: HashMap<String, String>,
    /// Acknowledged increments of each counter.
    pub(super) adds: HashMap<String, u64>,
    /// Keys of sets: present with a value, absent, or unknown.
    pub(super) set: HashMap<String, Member>,
}

/// State of a key as known by the only writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    Is(u64),
    IsNot,
    Maybe,
}

/// The running clients.
pub(super) struct Work {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<anyhow::Result<Seen>>>,
}

impl Work {
    /// Starts the clients.
    pub(super) fn start(prefix: &str, clients: Vec<Client>, seed: u64, stats: Arc<Stats>) -> Self {
        let some = |count: usize| (0..count).map(|_| Generation::default()).collect();
        let shared = Arc::new(Shared {
            prefix: prefix.to_owned(),
            clients,
            going_on: AtomicBool::new(true),
            stats,
            registers: some(super::registers::FAMILIES),
            lists: some(super::chains::LISTS),
            counters: some(super::chains::COUNTERS),
        });
        let mut workers = Vec::new();
        for number in 0..REGISTERS + APPENDERS + COUNTERS + SETS {
            let worker = Worker::new(Arc::clone(&shared), number, StdRng::seed_from_u64(seed.wrapping_add(number)));
            workers.push(match number {
                0..REGISTERS => tokio::spawn(worker.registers()),
                number if number < REGISTERS + APPENDERS => tokio::spawn(worker.appends()),
                number if number < REGISTERS + APPENDERS + COUNTERS => tokio::spawn(worker.counts()),
                _ => tokio::spawn(worker.sets()),
            });
        }
        Self { shared, workers }
    }

    /// False if a client stopped because of a wrong answer; [`end`](Self::end) returns the error.
    pub(super) fn is_healthy(&self) -> bool {
        !self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Stops each client after the current operation, and merges the observations.
    pub(super) async fn end(self) -> anyhow::Result<Seen> {
        self.shared.going_on.store(false, Ordering::Relaxed);
        let mut all = Seen::default();
        let mut wrong = Ok(());
        for worker in self.workers {
            match worker.await.context("a client")? {
                Ok(seen) => all.extend(seen),
                Err(error) if wrong.is_ok() => wrong = Err(error),
                Err(_) => {}
            }
        }
        wrong.map(|()| all)
    }
}

impl Seen {
    fn extend(&mut self, other: Self) {
        for (key, log) in other.logs {
            self.logs.entry(key).or_default().extend(log);
        }
        self.appended.extend(other.appended);
        self.not_appended.extend(other.not_appended);
        for (key, text) in other.texts {
            let known = self.texts.entry(key).or_default();
            if text.len() > known.len() {
                *known = text;
            }
        }
        for (key, adds) in other.adds {
            *self.adds.entry(key).or_default() += adds;
        }
        self.set.extend(other.set);
    }
}

/// Result of a request.
pub(super) enum Outcome {
    /// 200, 404 or 412.
    Answer(Answer),
    /// Not applied, and never will be.
    Refused,
    /// May have been applied, or may be applied later.
    Unknown,
}

/// A client.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) rng: StdRng,
    pub(super) seen: Seen,
    /// For each key, the last value and revision seen, for swaps.
    pub(super) last: HashMap<String, (Option<u64>, u64)>,
    pub(super) number: u64,
    value: u64,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: u64, rng: StdRng) -> Self {
        let value = (number + 1) << 32;
        Self { shared, rng, seen: Seen::default(), last: HashMap::new(), number, value }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.shared.going_on.load(Ordering::Relaxed)
    }

    /// A unique value.
    pub(super) fn new_value(&mut self) -> u64 {
        self.value += 1;
        self.value
    }

    pub(super) fn log(&mut self, key: &str) -> &mut KeyLog {
        if !self.seen.logs.contains_key(key) {
            self.seen.logs.insert(key.to_owned(), KeyLog::default());
        }
        self.seen.logs.get_mut(key).unwrap_or_else(|| unreachable!("it was just put there"))
    }

    pub(super) fn client(&mut self) -> Client {
        let at = self.rng.random_range(0..self.shared.clients.len());
        self.shared.clients[at].clone()
    }

    /// Sends a request once, to a random client; fails on a forbidden answer.
    pub(super) async fn ask(
        &mut self,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> anyhow::Result<(Instant, Outcome)> {
        let client = self.client();
        let begin = Instant::now();
        let outcome = outcome(&self.shared.stats, Client::send(request(&client).timeout(PATIENCE)).await)?;
        Ok((begin, outcome))
    }

    /// Repeats a request with an `Idempotency-Key` until the outcome is known.
    pub(super) async fn ask_until_known(
        &mut self,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> anyhow::Result<(Instant, Answer)> {
        let begin = Instant::now();
        loop {
            if let (_, Outcome::Answer(answer)) = self.ask(&request).await? {
                return Ok((begin, answer));
            }
            ensure!(begin.elapsed() < REPEAT_PATIENCE, "a repeated request got no answer in {REPEAT_PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Counts successful operations.
    pub(super) fn succeeded(&self, operations: usize) {
        Stats::add(&self.shared.stats.succeeded, operations);
    }
}

/// Classifies an answer or a missing answer.
pub(super) fn outcome(stats: &Stats, answer: reqwest::Result<Answer>) -> anyhow::Result<Outcome> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => {
            Stats::add(&stats.refused, 1);
            return Ok(Outcome::Refused);
        }
        Err(_) => return Ok(Outcome::Unknown),
    };
    Stats::add(&stats.requests, 1);
    match answer.status {
        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => Ok(Outcome::Answer(answer)),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => {
            Stats::add(&stats.refused, 1);
            Ok(Outcome::Refused)
        }
        StatusCode::GATEWAY_TIMEOUT => Ok(Outcome::Unknown),
        _ => bail!("VIOLATION: a request was answered {answer}"),
    }
}
