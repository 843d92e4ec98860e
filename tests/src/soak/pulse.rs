//! [`Pulse`]: continuous writes, to measure write gaps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::task::JoinHandle;

use crate::client::Client;

/// Pause between two writes of a client.
const PAUSE: Duration = Duration::from_millis(10);
/// Client timeout of a write.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Maximum recovery time: every group must accept writes from every client within this time after the last fault.
pub(super) const RECOVERY: Duration = Duration::from_secs(15);

/// A key per group, written through every client.
pub(super) struct Pulse {
    keys: Vec<String>,
    clients: Vec<Client>,
    going_on: Arc<AtomicBool>,
    beats: Vec<Arc<Mutex<Beat>>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Beat {
    last: Instant,
    longest: Duration,
}

impl Beat {
    fn now(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

impl Pulse {
    pub(super) fn start(keys: Vec<String>, clients: Vec<Client>) -> Self {
        let going_on = Arc::new(AtomicBool::new(true));
        let beat = || Arc::new(Mutex::new(Beat { last: Instant::now(), longest: Duration::ZERO }));
        let beats: Vec<_> = keys.iter().map(|_| beat()).collect();
        let mut tasks = Vec::new();
        for (key, beat) in keys.iter().zip(&beats) {
            for client in &clients {
                tasks.push(tokio::spawn(go_on(client.clone(), key.clone(), Arc::clone(beat), Arc::clone(&going_on))));
            }
        }
        Self { keys, clients, going_on, beats, tasks }
    }

    /// Waits until every group accepts a write from every client; fails after [`RECOVERY`]. Returns the elapsed time.
    pub(super) async fn recovered(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        for key in &self.keys {
            for (number, client) in self.clients.iter().enumerate() {
                loop {
                    let why_not = match put(client, key).await {
                        Ok(_) => break,
                        Err(why_not) => why_not,
                    };
                    if start.elapsed() > RECOVERY {
                        return Err(anyhow!(
                            "VIOLATION: {:.1?} after the last fault, client {number} cannot write {key}: {why_not:#}",
                            start.elapsed()
                        ));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Ok(start.elapsed())
    }

    /// Stops the writes. Returns the longest write gap of any group.
    pub(super) async fn end(self) -> Duration {
        self.going_on.store(false, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for beat in &self.beats {
            let beat = beat.lock().unwrap_or_else(PoisonError::into_inner);
            longest = longest.max(beat.longest).max(beat.last.elapsed());
        }
        for task in self.tasks {
            task.abort();
        }
        longest
    }
}

async fn put(client: &Client, key: &str) -> anyhow::Result<u64> {
    let put = client.put_with(key, "x", "?timeout=1s", None);
    tokio::time::timeout(PATIENCE, put).await.map_err(|_| anyhow!("no answer"))?.acked()
}

async fn go_on(client: Client, key: String, beat: Arc<Mutex<Beat>>, going_on: Arc<AtomicBool>) {
    while going_on.load(Ordering::Relaxed) {
        if put(&client, &key).await.is_ok() {
            beat.lock().unwrap_or_else(PoisonError::into_inner).now();
        }
        tokio::time::sleep(PAUSE).await;
    }
}
