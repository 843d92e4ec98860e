//! [`Partition`]: reachability and network quality between nodes.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// State of the messages from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// Messages arrive.
    #[default]
    Open,
    /// Messages are held back without an error, as by a switch that drops packets. Messages arrive when the flow is
    /// opened, like TCP retransmissions.
    Silent,
    /// Connections break, and new connections break at once, as if refused by the host.
    Closed,
}

/// Network quality for delivered messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Delay of each piece. The next piece waits, so that many small messages become few large pieces.
    pub delay: Duration,
    /// Bytes per second in each direction of each connection; 0 = unlimited.
    pub bytes_per_second: u64,
    /// Every n-th piece is lost together with its connection; 0 = none.
    pub breaks_one_in: u64,
}

/// Counts of injected network faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Pieces and new connections held back by a silent flow.
    pub held: u64,
    /// Pieces and new connections rejected by a closed flow.
    pub closed: u64,
    /// Pieces delayed.
    pub delayed: u64,
    /// Pieces delayed by the bandwidth limit.
    pub limited: u64,
    /// Connections broken by a lost piece.
    pub broken: u64,
    /// Pieces above the size limit.
    pub large: u64,
    /// Packets delayed by a slow link.
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
    /// Pieces carried with reduced network quality.
    pieces: AtomicU64,
}

/// Sender and receiver.
pub(crate) type Direction = (usize, usize);

/// A link shared by all connections of a node.
#[derive(Debug)]
struct SlowLink {
    bytes_per_second: u64,
    /// Time at which all data accepted so far has been sent.
    free_at: Instant,
}

/// The flows between nodes, by node number. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    flows: Arc<Mutex<HashMap<Direction, watch::Sender<Flow>>>>,
    weather: Arc<Mutex<Weather>>,
    /// By node number.
    slow_links: Arc<Mutex<HashMap<usize, SlowLink>>>,
    /// Largest piece delivered, in bytes; 0 = unlimited.
    largest: Arc<watch::Sender<usize>>,
    counters: Arc<Counters>,
}

impl Partition {
    /// Sets the flow from `from` to `to`. The opposite direction is unchanged.
    pub fn set(&self, from: usize, to: usize, flow: Flow) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().send_replace(flow);
    }

    /// Sets the network quality, from the next piece.
    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Limits the total traffic of a node to this rate, sent and received, from the next piece.
    pub fn set_slow_link(&self, node: usize, bytes_per_second: u64) {
        let link = SlowLink { bytes_per_second, free_at: Instant::now() };
        self.slow_links.lock().unwrap_or_else(PoisonError::into_inner).insert(node, link);
    }

    /// Drops pieces larger than this number of bytes; 0 = no limit. Retransmissions are dropped as well, so the rest of
    /// the connection is blocked.
    pub fn set_largest(&self, bytes: usize) {
        self.largest.send_replace(bytes);
    }

    /// Counts of injected network faults so far.
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

    /// Waits until the flow is open; fails if closed.
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

    /// Delays a piece of `bytes` bytes according to the network quality; fails if the piece is lost.
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

    /// Waits until the size limit allows a piece of this size.
    pub(crate) async fn fitted(&self, bytes: usize) {
        let fits = |largest: &usize| *largest == 0 || bytes <= *largest;
        let mut largest = self.largest.subscribe();
        if !fits(&largest.borrow()) {
            self.counters.large.fetch_add(1, Ordering::Relaxed);
        }
        // The sender is a field of `self`.
        let _ = largest.wait_for(fits).await;
    }

    /// Delays a packet until all slow links on the path have carried the packet. Returns false without slow links.
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

    /// Opens all flows and restores full network quality.
    pub fn heal(&self) {
        self.set_weather(Weather::default());
        self.set_largest(0);
        self.slow_links.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for flow in self.flows.lock().unwrap_or_else(PoisonError::into_inner).values() {
            flow.send_replace(Flow::Open);
        }
    }

    /// Subscribes to the flow from `from` to `to`.
    pub(crate) fn watch(&self, from: usize, to: usize) -> watch::Receiver<Flow> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().subscribe()
    }
}
