//! [`Partition`]: which node's messages reach which, and how well.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// What happens to what one node sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// It arrives.
    #[default]
    Open,
    /// It is held back, and nobody is told: as when a switch drops packets. It arrives when the flow is opened again, as
    /// what TCP sends again does.
    Silent,
    /// Connections break, and new ones break at once: as when a host refuses them.
    Closed,
}

/// How well everything arrives that arrives at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Each piece is held for so long. The next one waits for it: many small messages become few large pieces.
    pub delay: Duration,
    /// Bytes a second in each direction of each connection; 0 = as many as there are.
    pub bytes_per_second: u64,
    /// One of so many pieces is lost, and its connection with it; 0 = none.
    pub breaks_one_in: u64,
}

/// What was done to messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Pieces, and new connections, that a silent flow held back.
    pub held: u64,
    /// Pieces, and new connections, that met a closed flow.
    pub closed: u64,
    /// Pieces that were delayed.
    pub delayed: u64,
    /// Pieces that waited for the bandwidth.
    pub limited: u64,
    /// Connections that were broken by a lost piece.
    pub broken: u64,
    /// Pieces that were larger than what gets through.
    pub large: u64,
    /// Packets that waited for a slow link.
    pub slowed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    held: AtomicU64,
    closed: AtomicU64,
    delayed: AtomicU64,
    limited: AtomicU64,
    broken: AtomicU64,
    large: AtomicU64,
    slowed: AtomicU64,
    /// Pieces carried in bad weather.
    pieces: AtomicU64,
}

/// From whom to whom.
pub(crate) type Direction = (usize, usize);

/// A link that all connections of a node share.
#[derive(Debug)]
struct SlowLink {
    bytes_per_second: u64,
    /// When all that was given to it so far is through.
    free_at: Instant,
}

/// The flows between nodes, by their numbers. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    flows: Arc<Mutex<HashMap<Direction, watch::Sender<Flow>>>>,
    weather: Arc<Mutex<Weather>>,
    /// By the number of the node.
    slow_links: Arc<Mutex<HashMap<usize, SlowLink>>>,
    /// Bytes of the largest piece that gets through; 0 = any does.
    largest: Arc<watch::Sender<usize>>,
    counters: Arc<Counters>,
}

impl Partition {
    /// Sets what happens to what `from` sends to `to`. The other direction is as it was.
    pub fn set(&self, from: usize, to: usize, flow: Flow) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().send_replace(flow);
    }

    /// Sets how well everything arrives, from the next piece on.
    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Everything a node sends and receives shares one link with this rate, from the next piece on.
    pub fn set_slow_link(&self, node: usize, bytes_per_second: u64) {
        let link = SlowLink { bytes_per_second, free_at: Instant::now() };
        self.slow_links.lock().unwrap_or_else(PoisonError::into_inner).insert(node, link);
    }

    /// Drops pieces of more bytes than this; 0 = none. What its sender sends again is dropped as well, so that the rest of the
    /// connection waits behind it.
    pub fn set_largest(&self, bytes: usize) {
        self.largest.send_replace(bytes);
    }

    /// What was done to messages so far.
    pub fn counts(&self) -> FlowCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlowCounts {
            held: count(&self.counters.held),
            closed: count(&self.counters.closed),
            delayed: count(&self.counters.delayed),
            limited: count(&self.counters.limited),
            broken: count(&self.counters.broken),
            large: count(&self.counters.large),
            slowed: count(&self.counters.slowed),
        }
    }

    /// Waits until the flow is open; an error when it is closed.
    pub(crate) async fn opened(&self, flow: &mut watch::Receiver<Flow>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        if *flow.borrow() == Flow::Silent {
            self.counters.held.fetch_add(1, Ordering::Relaxed);
        }
        match *flow.wait_for(|flow| *flow != Flow::Silent).await.map_err(|_| gone())? {
            Flow::Open => Ok(()),
            Flow::Silent | Flow::Closed => {
                self.counters.closed.fetch_add(1, Ordering::Relaxed);
                Err(gone())
            }
        }
    }

    /// Holds a piece of so many bytes for as long as the weather says; an error when it is lost.
    pub(crate) async fn weathered(&self, bytes: usize) -> io::Result<()> {
        let weather = *self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        if weather == Weather::default() {
            return Ok(());
        }
        let piece = self.counters.pieces.fetch_add(1, Ordering::Relaxed) + 1;
        if weather.breaks_one_in > 0 && piece.is_multiple_of(weather.breaks_one_in) {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        if !weather.delay.is_zero() {
            self.counters.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(weather.delay).await;
        }
        if weather.bytes_per_second > 0 {
            self.counters.limited.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / weather.bytes_per_second as f64)).await;
        }
        Ok(())
    }

    /// Waits until a piece of this size is no longer too large.
    pub(crate) async fn fitted(&self, bytes: usize) {
        let fits = |largest: &usize| *largest == 0 || bytes <= *largest;
        let mut largest = self.largest.subscribe();
        if !fits(&largest.borrow()) {
            self.counters.large.fetch_add(1, Ordering::Relaxed);
        }
        // The sender is in `self`.
        let _ = largest.wait_for(fits).await;
    }

    /// Holds a packet until the slow links in its way have carried it. False where there are none.
    pub(crate) async fn carried(&self, direction: Direction, bytes: usize) -> bool {
        let through = {
            let mut links = self.slow_links.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            [direction.0, direction.1]
                .into_iter()
                .filter_map(|node| {
                    let link = links.get_mut(&node)?;
                    let takes = Duration::from_secs_f64(bytes as f64 / link.bytes_per_second as f64);
                    link.free_at = link.free_at.max(now) + takes;
                    Some(link.free_at)
                })
                .max()
        };
        if let Some(through) = through {
            self.counters.slowed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(through.into()).await;
        }
        through.is_some()
    }

    /// Opens everything, in fair weather.
    pub fn heal(&self) {
        self.set_weather(Weather::default());
        self.set_largest(0);
        self.slow_links.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for flow in self.flows.lock().unwrap_or_else(PoisonError::into_inner).values() {
            flow.send_replace(Flow::Open);
        }
    }

    /// To follow what happens to what `from` sends to `to`.
    pub(crate) fn watch(&self, from: usize, to: usize) -> watch::Receiver<Flow> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().subscribe()
    }
}
