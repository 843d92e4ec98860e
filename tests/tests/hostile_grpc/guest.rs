//! [`Guest`]: a client that means well, and how long it was without an answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use raftkv_tests::{Client, Node};
use tokio::task::JoinHandle;

use super::fair::FairClock;
use super::lock;

/// Keys that it puts.
const KEYS: u64 = 50;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);

/// What it has seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Puts and gets that succeeded.
    pub(super) succeeded: u64,
    /// The longest time between two of them, by the fair clock.
    pub(super) longest: Duration,
    last: Duration,
}

/// Puts and gets until it is ended.
pub(super) struct Guest {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    clock: FairClock,
    patience: Duration,
    working: JoinHandle<anyhow::Result<()>>,
}

impl Guest {
    pub(super) fn start(nodes: &[Arc<Node>], patience: Duration) -> Self {
        let clock = FairClock::start();
        let seen = Arc::new(Mutex::new(Seen { succeeded: 0, longest: Duration::ZERO, last: clock.now() }));
        let over = Arc::new(AtomicBool::new(false));
        let clients = nodes.iter().map(|node| node.client()).collect();
        let working = tokio::spawn(work(clients, Arc::clone(&seen), clock.clone(), Arc::clone(&over)));
        Self { seen, over, clock, patience, working }
    }

    /// Fails when it was without an answer for too long, or has seen something wrong.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.working.is_finished(), "the client has seen something wrong");
        let seen = *lock(&self.seen);
        let longest = seen.longest.max(self.clock.now().saturating_sub(seen.last));
        ensure!(longest < self.patience, "the client was without an answer for {longest:.1?}");
        Ok(())
    }

    pub(super) async fn end(mut self) -> anyhow::Result<Seen> {
        let result = self.check();
        self.over.store(true, Ordering::Relaxed);
        (&mut self.working).await?.context("the client")?;
        result?;
        Ok(*lock(&self.seen))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.clock.stop();
    }
}

/// In turn at all nodes. What was acknowledged is read, or what was written after it.
async fn work(
    clients: Vec<Client>,
    seen: Arc<Mutex<Seen>>,
    clock: FairClock,
    over: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut acknowledged = vec![0; KEYS as usize];
    let succeed = || {
        let mut seen = lock(&seen);
        let now = clock.now();
        seen.longest = seen.longest.max(now.saturating_sub(seen.last));
        (seen.succeeded, seen.last) = (seen.succeeded + 1, now);
    };
    for number in 1.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let at = (number % KEYS) as usize;
        let key = format!("guest/{at}");
        let (writer, reader) = (&clients[number as usize % 3], &clients[(number as usize + 1) % 3]);
        if writer.put_with(&key, number.to_string(), "?timeout=2s", None).await.acked().is_ok() {
            acknowledged[at] = number;
            succeed();
        }
        if let Ok(answer) = reader.get_with(&key, "?timeout=2s").await {
            match answer.status.as_u16() {
                200 => {
                    let found: u64 = answer.text()?.parse()?;
                    ensure!(found >= acknowledged[at], "{key} is {found}, and {} was acknowledged", acknowledged[at]);
                    succeed();
                }
                404 if acknowledged[at] == 0 => {}
                404 => bail!("{key} is gone, and {} was acknowledged", acknowledged[at]),
                _ => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
