//! [`Load`]: many clients that put through all nodes, with retries during faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinHandle;

use crate::answer::Put;
use crate::client::Client;
use crate::contents::Contents;

/// Pause between attempts of a put: a tenth of an election, ten times a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// Longer than an election plus a restart: a shorter timeout leaves more unknown outcomes.
const TIMEOUT: &str = "?timeout=5s";

/// A number of concurrent puts, each with a unique key and value. Every second put has an `Idempotency-Key` and is
/// retried until acknowledged; for all others, an unknown outcome is final.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Vec<Written>>>,
}

#[derive(Debug)]
struct Shared {
    prefix: String,
    puts: u64,
    clients: Vec<Client>,
    next: AtomicU64,
    acked: AtomicU64,
    start: Instant,
}

#[derive(Debug)]
struct Written {
    number: u64,
    /// `None`: unknown outcome.
    revision: Option<u64>,
    at: Duration,
    attempts: u32,
}

/// Result of a load.
#[derive(Debug)]
pub struct LoadReport {
    prefix: String,
    written: Vec<Written>,
    /// From the start of the load to the report.
    pub elapsed: Duration,
}

impl Load {
    /// Starts `workers` clients that make `puts` puts in total of keys with `prefix`, each client starting at a different node.
    pub fn start(prefix: &str, puts: u64, workers: usize, clients: Vec<Client>) -> Self {
        let shared = Arc::new(Shared {
            prefix: prefix.to_owned(),
            puts,
            clients,
            next: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            start: Instant::now(),
        });
        let workers = (0..workers).map(|worker| tokio::spawn(Arc::clone(&shared).work(worker))).collect();
        Self { shared, workers }
    }

    /// Number of acknowledged puts so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Whether all puts have ended.
    pub fn is_done(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Stops new puts; puts in flight are finished.
    pub fn end(&self) {
        self.shared.next.store(self.shared.puts, Ordering::Relaxed);
    }

    /// Waits until every put has an outcome.
    pub async fn report(self) -> anyhow::Result<LoadReport> {
        let mut written = Vec::new();
        for worker in self.workers {
            written.extend(worker.await.context("a client of the load")?);
        }
        written.sort_by_key(|written| written.at);
        Ok(LoadReport { prefix: self.shared.prefix.clone(), written, elapsed: self.shared.start.elapsed() })
    }
}

impl Shared {
    async fn work(self: Arc<Self>, mut node: usize) -> Vec<Written> {
        let mut written = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.puts {
                return written;
            }
            let (key, value) = (key(&self.prefix, number), value(number));
            let idempotency = idempotency_key(&self.prefix, number);
            let mut attempts = 0;
            let revision = loop {
                let client = &self.clients[node % self.clients.len()];
                attempts += 1;
                match client.put_with(&key, value.clone(), TIMEOUT, idempotency.as_deref()).await {
                    Put::Acked { revision, .. } => break Some(revision),
                    Put::Unknown(_) if idempotency.is_none() => break None,
                    Put::Unknown(_) | Put::Refused(_) => {
                        node += 1;
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            self.acked.fetch_add(u64::from(revision.is_some()), Ordering::Relaxed);
            written.push(Written { number, revision, at: self.start.elapsed(), attempts });
        }
    }
}

fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:08}")
}

fn value(number: u64) -> String {
    format!("value {number} of this load")
}

fn idempotency_key(prefix: &str, number: u64) -> Option<String> {
    number.is_multiple_of(2).then(|| format!("{prefix}{number}"))
}

impl LoadReport {
    /// Number of acknowledged puts.
    pub fn acked(&self) -> usize {
        self.written.iter().filter(|written| written.revision.is_some()).count()
    }

    /// Number of puts with unknown outcome.
    pub fn unknown(&self) -> usize {
        self.written.len() - self.acked()
    }

    /// Number of puts with more than one attempt.
    pub fn repeated(&self) -> usize {
        self.written.iter().filter(|written| written.attempts > 1).count()
    }

    /// Longest time without an acknowledged put.
    pub fn longest_gap(&self) -> Duration {
        self.gaps().max().unwrap_or_default()
    }

    /// Times between consecutive acknowledgements.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        let acked = || self.written.iter().filter(|written| written.revision.is_some());
        acked().zip(acked().skip(1)).map(|(one, next)| next.at - one.at)
    }

    /// Checks `contents` of a store with no other writes: each acknowledged put is present with its value and revision;
    /// each key was written exactly once; the revisions are exactly 1 to the number of keys. Returns the number of
    /// applied puts with unknown outcome.
    pub fn check_alone(&self, contents: &Contents) -> anyhow::Result<usize> {
        let applied = self.check(contents)?;
        let keys = contents.len() as u64;
        ensure!(
            contents.store_revision == keys,
            "{keys} keys were put once each, but the store stands at revision {}: something was applied twice",
            contents.store_revision
        );
        let mut revisions: Vec<_> = contents.entries.values().map(|entry| entry.revision).collect();
        revisions.sort_unstable();
        ensure!(revisions.iter().copied().eq(1..=keys), "the revisions are not 1 to {keys}");
        Ok(applied)
    }

    /// Checks `contents`: each acknowledged put is present with its value and revision, and each key of this load was
    /// written exactly once. Returns the number of applied puts with unknown outcome.
    pub fn check(&self, contents: &Contents) -> anyhow::Result<usize> {
        let mut applied = 0;
        for written in &self.written {
            let key = key(&self.prefix, written.number);
            let entry = contents.entries.get(&key);
            let Some(entry) = entry else {
                ensure!(written.revision.is_none(), "{key} was acknowledged and is lost: {written:?}");
                continue;
            };
            ensure!(
                entry.value == Some(serde_json::Value::from(value(written.number))),
                "{key} has a wrong value: {entry:?}"
            );
            ensure!(entry.revision == entry.create_revision, "{key} was written twice: {entry:?}");
            match written.revision {
                Some(revision) => ensure!(entry.revision == revision, "{key}: {entry:?} against {written:?}"),
                None => applied += 1,
            }
        }
        let expected = self.acked() + applied;
        let found = contents.entries.keys().filter(|key| key.starts_with(&self.prefix)).count();
        ensure!(found == expected, "{found} keys are there, {expected} were put");
        Ok(applied)
    }

    /// Gets every acknowledged key with a linearizable read, spread over `clients`, with `workers` concurrent requests.
    pub async fn get_each(&self, clients: &[Client], workers: usize) -> anyhow::Result<()> {
        use futures::{StreamExt, TryStreamExt};
        futures::stream::iter(self.written.iter().enumerate().filter_map(|(i, w)| Some((i, w, w.revision?))))
            .map(|(i, written, revision)| async move {
                let key = key(&self.prefix, written.number);
                let answer = clients[i % clients.len()].get(&key).await?.success()?;
                ensure!(answer.text()? == value(written.number), "{key} has a wrong value: {answer}");
                ensure!(answer.revision()? == revision, "{key} is at another revision: {:?}", answer.headers);
                anyhow::Ok(())
            })
            .buffer_unordered(workers)
            .try_collect()
            .await
    }

    /// Repeats at least `count` of the acknowledged puts with an `Idempotency-Key`, as far as available: each response
    /// must be a replay with the original revision. Returns the number of repeats.
    pub async fn repeat(&self, clients: &[Client], count: usize) -> anyhow::Result<usize> {
        let with_key: Vec<_> = self
            .written
            .iter()
            .filter_map(|written| {
                Some((written.number, written.revision?, idempotency_key(&self.prefix, written.number)?))
            })
            .collect();
        let step = (with_key.len() / count.max(1)).max(1);
        let mut repeated = 0;
        for (number, first, idempotency) in with_key.into_iter().step_by(step) {
            let client = &clients[repeated % clients.len()];
            let key = key(&self.prefix, number);
            match client.put_with(&key, value(number), TIMEOUT, Some(&idempotency)).await {
                Put::Acked { revision, replayed: true } if revision == first => repeated += 1,
                other => anyhow::bail!("a repeat of {key}, put at {first}, was answered {other:?}"),
            }
        }
        Ok(repeated)
    }
}
