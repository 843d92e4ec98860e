//! [`Places`]: the connections of a port, and which of them is closed when few places are left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use raftkv_runtime::network::network;

use crate::limits::HttpLimits;
use crate::watch::{Waits, Watch};

/// All connections are looked at no more often than this, however many come.
pub(crate) const BETWEEN_SCANS: Duration = Duration::from_millis(50);

/// The open connections of a port by where they come from.
#[derive(Debug)]
pub(crate) struct Places {
    /// With as many open, those that have waited for their clients for longer than `kept_idle` are closed.
    crowded: usize,
    kept_idle: Duration,
    /// With as many open, those that have waited for longer than `spared`.
    full: usize,
    spared: Duration,
    open: Mutex<Open>,
    gauge: Gauge,
    closed: Counter,
}

#[derive(Debug)]
struct Open {
    next: u64,
    connections: HashMap<u64, (IpAddr, Arc<Watch>)>,
    scanned: Option<Instant>,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().connections.remove(&self.number);
        self.places.gauge.decrement(1.0);
    }
}

impl Places {
    pub(crate) fn new(limits: &HttpLimits) -> Arc<Self> {
        let share = |percent: usize| limits.max_connections.saturating_mul(percent).div_ceil(100).max(1);
        Arc::new(Self {
            crowded: share(limits.crowded_percent),
            kept_idle: limits.kept_idle,
            full: share(limits.full_percent),
            spared: limits.spared,
            open: Mutex::new(Open { next: 0, connections: HashMap::new(), scanned: None }),
            gauge: metrics::gauge!("raftkv_http_connections"),
            closed: metrics::counter!("raftkv_http_connections_cut_total", "reason" => "crowded"),
        })
    }

    /// A connection from `address` has come.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, watch: &Arc<Watch>) -> Place {
        self.gauge.increment(1.0);
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, (network(address), Arc::clone(watch)));
        Place { places: Arc::clone(self), number }
    }

    /// Where few places are left, asks connections that wait for their clients to close until enough are free: each time the one
    /// that is idle longest, of the address that has the most. Where none is idle, the one whose client is slow for longest.
    ///
    /// Clients keep connections for their next requests, so that only those which nobody has used for long are closed, until hardly a
    /// place is left.
    pub(crate) fn thin_out(&self) {
        let chosen = {
            let mut open = self.open();
            let wanted = open.connections.len() + 1;
            let (crowd, excess) = (wanted.saturating_sub(self.crowded), wanted.saturating_sub(self.full));
            if (crowd == 0 && excess == 0) || open.scanned.is_some_and(|at| at.elapsed() < BETWEEN_SCANS) {
                return;
            }
            open.scanned = Some(Instant::now());
            let unused = longest_waiting(open.connections.values(), self.kept_idle, crowd);
            match unused.len() < excess {
                true => longest_waiting(open.connections.values(), self.spared, excess),
                false => unused,
            }
        };
        self.closed.increment(chosen.len() as u64);
        chosen.iter().for_each(|watch| watch.ask_to_close());
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Up to `count` connections that have been waiting for longer than `spared`, chosen one after the other: each time the last by
/// [`Waits`], of the address that has the most left.
fn longest_waiting<'a>(
    connections: impl Iterator<Item = &'a (IpAddr, Arc<Watch>)>,
    spared: Duration,
    count: usize,
) -> Vec<Arc<Watch>> {
    let mut by_address: HashMap<IpAddr, Vec<(Waits, &Arc<Watch>)>> = HashMap::new();
    for (address, watch) in connections {
        if let Some(waits) = watch.waits().filter(|waits| waits.time() >= spared) {
            by_address.entry(*address).or_default().push((waits, watch));
        }
    }
    let mut most: BinaryHeap<(usize, Reverse<IpAddr>)> = BinaryHeap::new();
    for (address, waiting) in &mut by_address {
        waiting.sort_by_key(|(waits, _)| *waits);
        most.push((waiting.len(), Reverse(*address)));
    }
    let mut chosen = Vec::new();
    while chosen.len() < count
        && let Some((left, Reverse(address))) = most.pop()
    {
        let Some((_, watch)) = by_address.get_mut(&address).and_then(Vec::pop) else { continue };
        chosen.push(Arc::clone(watch));
        if left > 1 {
            most.push((left - 1, Reverse(address)));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn chosen(connections: &[(IpAddr, Arc<Watch>)], count: usize) -> Vec<usize> {
        let chosen = longest_waiting(connections.iter(), Duration::ZERO, count);
        let place = |watch: &Arc<Watch>| connections.iter().position(|(_, other)| Arc::ptr_eq(watch, other)).unwrap();
        chosen.iter().map(place).collect()
    }

    #[test]
    fn the_address_with_the_most_idle_connections_loses_its_oldest() {
        let mut connections = Vec::new();
        for (from, seconds) in [("10.0.0.1", 9), ("10.0.0.2", 8), ("10.0.0.2", 7), ("10.0.0.2", 6), ("10.0.0.1", 5)] {
            connections.push((address(from), Watch::opened_before(Duration::from_secs(seconds))));
        }
        assert_eq!(chosen(&connections, 0), [0; 0]);
        assert_eq!(chosen(&connections, 1), [1]);
        assert_eq!(chosen(&connections, 9).len(), 5);
        // One that is busy does not wait for its client, unless that is slow. It is chosen last.
        connections[1].1.request_begins();
        assert_eq!(chosen(&connections, 9).len(), 4);
        connections[1].1.has_slow_body(true);
        assert_eq!(chosen(&connections, 9).last(), Some(&1));
        connections[1].1.has_slow_body(false);
        connections[2].1.ask_to_close();
        assert_eq!(chosen(&connections, 1), [0]);
        assert!(longest_waiting(connections.iter(), Duration::from_secs(60), 9).is_empty(), "spared");
    }

    const FRESH: u64 = 0;
    const USED: u64 = 20;
    const UNUSED: u64 = 40;

    /// Of a port with 100 places and so many open connections, each idle for so many seconds: how many are asked to close.
    fn asked_to_close(idle: &[u64]) -> usize {
        let (spared, kept_idle) = (Duration::from_secs(10), Duration::from_secs(30));
        let limits = HttpLimits { max_connections: 100, spared, kept_idle, ..HttpLimits::default() };
        let places = Places::new(&limits);
        let opened = |seconds: &u64| Watch::opened_before(Duration::from_secs(*seconds));
        let watches: Vec<_> = idle.iter().map(opened).collect();
        let _open: Vec<_> = watches.iter().map(|watch| places.enter(address("::1"), watch)).collect();
        places.thin_out();
        watches.iter().filter(|watch| watch.told().is_some()).count()
    }

    #[test]
    fn nobody_is_asked_to_close_while_places_are_left() {
        assert_eq!(asked_to_close(&[UNUSED; 89]), 0);
        assert_eq!(asked_to_close(&[UNUSED; 90]), 1);
        assert_eq!(asked_to_close(&[UNUSED; 100]), 11);
    }

    #[test]
    fn pools_that_are_used_keep_their_connections_until_hardly_a_place_is_left() {
        assert_eq!(asked_to_close(&[USED; 98]), 0);
        let with_unused = |count: usize| [vec![USED; 98 - count], vec![UNUSED; count]].concat();
        assert_eq!(asked_to_close(&with_unused(3)), 3);
        assert_eq!(asked_to_close(&with_unused(30)), 9);
        assert_eq!(asked_to_close(&[USED; 99]), 1);
        assert_eq!(asked_to_close(&[USED; 100]), 2);
        assert_eq!(asked_to_close(&[FRESH; 100]), 0);
    }
}
