//! [`Round`]: all clients at work for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::operation::{Operation, Put, Trouble};
use super::tally::Tally;
use super::target::{Session, Target};
use super::workload::{Keyspace, Workload};
use crate::failure::Failure;
use crate::output::thousands;

/// Longest wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failure, so that a system in trouble is not asked a million times a second.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(10);
/// How often the live figures change.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Nonces of a client count up from its number shifted by this: no two values of a run are the same.
const NONCE_SHIFT: u32 = 40;

/// What to measure, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) workload: Workload,
    pub(super) clients: u32,
    /// Puts in one request.
    pub(super) batch: u32,
    pub(super) reads_percent: u8,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// When what is done counts.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

#[derive(Debug, Default)]
struct Progress {
    operations: AtomicU64,
    troubles: AtomicU64,
}

impl Round {
    /// Runs it. Only requests that both began and ended within the measured time count.
    pub(super) async fn run(self, target: &Target, keyspace: &Arc<Keyspace>) -> Result<Tally, Failure> {
        let begin = Instant::now() + self.warmup;
        let window = Window { begin, end: begin + self.duration };
        let progress = Arc::new(Progress::default());
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let client = Client {
                round: self,
                number,
                session: target.session(number, keyspace),
                random: keyspace.random(number),
                keyspace: Arc::clone(keyspace),
                nonce: u64::from(number + 1) << NONCE_SHIFT,
                tally: Tally::new()?,
                progress: Arc::clone(&progress),
            };
            clients.spawn(client.run(window));
        }
        let display = tokio::spawn(show(format!("{} {}", target.name(), self.workload.name()), window, progress));

        let mut all = Tally::new()?;
        all.duration = self.duration;
        while let Some(tally) = clients.join_next().await {
            all.add(&tally.map_err(|error| Failure::failed(format!("a client failed: {error}")))?)?;
        }
        display.abort();
        Ok(all)
    }
}

struct Client {
    round: Round,
    number: u32,
    session: Session,
    random: StdRng,
    keyspace: Arc<Keyspace>,
    nonce: u64,
    tally: Tally,
    progress: Arc<Progress>,
}

impl Client {
    async fn run(mut self, window: Window) -> Tally {
        loop {
            let began = Instant::now();
            if began >= window.end {
                tracing::trace!(client = self.number, "done");
                return self.tally;
            }
            let operation = self.next();
            let done = match tokio::time::timeout(REQUEST_TIMEOUT, self.session.perform(&operation)).await {
                Ok(done) => done,
                Err(_) => Err(Trouble::Timeout),
            };
            let ended = Instant::now();
            let counts = began >= window.begin && ended <= window.end;
            match done {
                Ok(()) => {
                    self.progress.operations.fetch_add(operation.count(), Ordering::Relaxed);
                    if counts {
                        self.tally.succeeded(ended - began, operation.count());
                    }
                }
                Err(trouble) => {
                    self.progress.troubles.fetch_add(1, Ordering::Relaxed);
                    if trouble.ends_connection() {
                        self.session.disconnect();
                    }
                    // A wrong answer is never excused, not even by the clock.
                    if counts || trouble.is_wrong() {
                        self.tally.failed(trouble);
                    }
                    tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
                }
            }
        }
    }

    fn next(&mut self) -> Operation {
        let read = match self.round.workload {
            Workload::Put => false,
            Workload::Get => true,
            Workload::Mixed => self.random.random_range(0..100) < self.round.reads_percent,
        };
        if read {
            return Operation::Get(self.keyspace.choose(&mut self.random));
        }
        let puts = (0..self.round.batch).map(|_| {
            self.nonce += 1;
            Put { key: self.keyspace.choose(&mut self.random), nonce: self.nonce }
        });
        Operation::Put(puts.collect())
    }
}

/// Shows how it goes, on a terminal.
async fn show(what: String, window: Window, progress: Arc<Progress>) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    // Also when the task is aborted: the line must not stay.
    let bar = ClearOnDrop(bar);
    let mut before = (0, Instant::now());
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let now = Instant::now();
        let operations = progress.operations.load(Ordering::Relaxed);
        let rate = (operations - before.0) as f64 / (now - before.1).as_secs_f64();
        before = (operations, now);
        let phase = if now < window.begin { "warming up" } else { "measuring" };
        bar.0.set_message(format!(
            "{what}: {phase}, {} ops/s, {} errors, {} s left",
            thousands(rate as u64),
            thousands(progress.troubles.load(Ordering::Relaxed)),
            window.end.saturating_duration_since(now).as_secs(),
        ));
        bar.0.tick();
    }
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
