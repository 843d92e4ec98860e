//! [`Places`]: the connections of a port, and which of them waits for its client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Places for so many connections. Cheap to clone; clones share the places.
#[derive(Clone)]
pub(super) struct Places {
    most: usize,
    taken: Arc<Mutex<Vec<Arc<Place>>>>,
}

/// One connection.
struct Place {
    opened: Instant,
    /// A request is being worked on.
    is_busy: AtomicBool,
    /// Milliseconds after `opened` since which it is not.
    waits_since: AtomicU64,
    cut: Notify,
}

/// A taken place, which is left when this is dropped.
pub(super) struct Seat {
    place: Arc<Place>,
    taken: Arc<Mutex<Vec<Arc<Place>>>>,
}

/// A request is being worked on as long as this exists.
pub(super) struct Busy(Arc<Place>);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A place: a free one, or else that of the connection that has waited for its client the longest, at least for `waited`; its task is
    /// told to end. A client that does not read its answers is waited for as well as one that sends nothing.
    pub(super) fn take(&self, waited: Duration) -> Option<Seat> {
        let now = Instant::now();
        let mut taken = lock(&self.taken);
        if taken.len() >= self.most {
            let idle = taken.iter().enumerate().filter_map(|(at, place)| Some((at, place.waits_for(now)?)));
            let (at, _) = idle.max_by_key(|(_, waits)| *waits).filter(|(_, waits)| *waits >= waited)?;
            taken.swap_remove(at).cut.notify_one();
        }
        let place = Arc::new(Place {
            opened: now,
            is_busy: AtomicBool::new(false),
            waits_since: AtomicU64::new(0),
            cut: Notify::new(),
        });
        taken.push(Arc::clone(&place));
        Some(Seat { place, taken: Arc::clone(&self.taken) })
    }
}

impl Place {
    fn waits_for(&self, now: Instant) -> Option<Duration> {
        if self.is_busy.load(Ordering::Relaxed) {
            return None;
        }
        let since = self.opened + Duration::from_millis(self.waits_since.load(Ordering::Relaxed));
        Some(now.saturating_duration_since(since))
    }
}

impl Seat {
    /// A request begins.
    pub(super) fn busy(&self) -> Busy {
        self.place.is_busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(&self.place))
    }

    /// Ready once another connection has got the place.
    pub(super) async fn cut(&self) {
        self.place.cut.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(at) = taken.iter().position(|place| Arc::ptr_eq(place, &self.place)) {
            taken.swap_remove(at);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let waits_since = self.0.opened.elapsed().as_millis() as u64;
        self.0.waits_since.store(waits_since, Ordering::Relaxed);
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

fn lock(taken: &Mutex<Vec<Arc<Place>>>) -> MutexGuard<'_, Vec<Arc<Place>>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    /// Enough for two instants to differ in their milliseconds.
    const MOMENT: Duration = Duration::from_millis(20);

    async fn is_cut(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::from_millis(1), seat.cut()).await.is_ok()
    }

    #[tokio::test]
    async fn who_waits_longest_makes_room_and_who_is_being_answered_never_does() {
        let places = Places::new(3);
        let working = places.take(HOUR).expect("free");
        let _busy = working.busy();
        let first = places.take(HOUR).expect("free");
        tokio::time::sleep(MOMENT).await;
        let second = places.take(HOUR).expect("free");
        assert!(places.take(HOUR).is_none(), "nobody has waited for so long");
        tokio::time::sleep(MOMENT).await;
        // It asks something, and waits from the end of that on.
        drop(first.busy());
        tokio::time::sleep(MOMENT).await;
        let third = places.take(MOMENT).expect("the second has waited for longer");
        assert!(is_cut(&second).await && !is_cut(&first).await && !is_cut(&working).await);
        drop(second);
        assert!(places.take(HOUR).is_none(), "its place is another's");
        drop(third);
        assert!(places.take(HOUR).is_some());
    }
}
