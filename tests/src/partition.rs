//! [`Partition`]: which node's messages reach which, and how well.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
}

#[derive(Debug, Default)]
struct Counters {
    held: AtomicU64,
    closed: AtomicU64,
    delayed: AtomicU64,
    limited: AtomicU64,
    broken: AtomicU64,
    /// Pieces carried in bad weather.
    pieces: AtomicU64,
}

/// From whom to whom.
type Direction = (usize, usize);

/// The flows between nodes, by their numbers. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    flows: Arc<Mutex<HashMap<Direction, watch::Sender<Flow>>>>,
    weather: Arc<Mutex<Weather>>,
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

    /// What was done to messages so far.
    pub fn counts(&self) -> FlowCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlowCounts {
            held: count(&self.counters.held),
            closed: count(&self.counters.closed),
            delayed: count(&self.counters.delayed),
            limited: count(&self.counters.limited),
            broken: count(&self.counters.broken),
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

    /// Opens everything, in fair weather.
    pub fn heal(&self) {
        self.set_weather(Weather::default());
        for flow in self.flows.lock().unwrap_or_else(PoisonError::into_inner).values() {
            flow.send_replace(Flow::Open);
        }
    }

    /// To follow what happens to what `from` sends to `to`.
    pub(crate) fn watch(&self, from: usize, to: usize) -> watch::Receiver<Flow> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().subscribe()
    }
}
