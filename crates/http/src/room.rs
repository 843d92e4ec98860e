//! [`Rooms`]: budgets of bytes that clients hold while they are slow to send or to read, and which of them is cut when one is full.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use metrics::{Counter, Gauge};

use crate::limits::HttpLimits;

/// Two budgets for one kind of bytes: what is small has its own, so that what is large cannot keep it out. Or one for all sizes.
#[derive(Debug)]
pub(crate) struct Rooms {
    small: Room,
    /// Where it is not there, nothing is large.
    large: Option<Room>,
    /// The largest that is small, in bytes.
    small_bytes: usize,
}

/// A budget. Bytes are taken and given back without a lock; only who is slow is known by name.
#[derive(Debug)]
struct Room {
    max: usize,
    used: AtomicUsize,
    /// A client slower than this, in bytes a second, may be cut.
    slow_below: u64,
    /// What has been held for a while, by its address.
    slow: Mutex<Slow>,
    used_gauge: Gauge,
    cuts: Counter,
    refusals: Counter,
}

type Slow = HashMap<usize, Arc<Held>>;

/// There is no room, and nobody is slow enough to be cut for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Room {
    fn new(name: &'static str, max: usize, slow_below: u64) -> Self {
        Self {
            max,
            used: AtomicUsize::new(0),
            slow_below,
            slow: Mutex::default(),
            used_gauge: metrics::gauge!("raftkv_http_room_bytes", "room" => name),
            cuts: metrics::counter!("raftkv_http_room_cuts_total", "room" => name),
            refusals: metrics::counter!("raftkv_http_room_refusals_total", "room" => name),
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used <= self.max || self.make_room() {
            return Ok(());
        }
        self.give_back(bytes);
        self.refusals.increment(1);
        Err(Full)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.max
    }

    /// Cuts the slowest until there is room; false where nobody is slow any more.
    fn make_room(&self) -> bool {
        let mut cut = Vec::new();
        let has_room = {
            let mut slow = self.slow();
            loop {
                if !self.is_over() {
                    break true;
                }
                // To cut what holds nothing makes no room.
                match self.cut_slowest(&mut slow, |held| held.bytes.load(Ordering::Relaxed) > 0) {
                    Some(held) => cut.push(held),
                    None => break false,
                }
            }
        };
        // Not under the lock, which the tasks that wake take.
        cut.iter().for_each(|held| held.wake());
        has_room
    }

    /// Cuts the slowest of those that are slow, for whom `is_worth_it`. Its task is still to be woken.
    fn cut_slowest(&self, slow: &mut Slow, is_worth_it: impl Fn(&Held) -> bool) -> Option<Arc<Held>> {
        let worth_it = slow.iter().filter(|(_, held)| is_worth_it(held));
        let slowest = worth_it.map(|(&at, held)| (held.speed.load(Ordering::Relaxed), at)).min();
        let (_, at) = slowest.filter(|(speed, _)| *speed < self.slow_below)?;
        let held = slow.remove(&at)?;
        // Counted as given back from now on; in fact it is when its task is woken, which is at once.
        held.is_cut.store(true, Ordering::Release);
        self.give_back(held.bytes.swap(0, Ordering::Relaxed));
        self.cuts.increment(1);
        Some(held)
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Of bodies that have come, until their requests are answered.
    pub(crate) fn of_bodies(limits: &HttpLimits) -> Arc<Self> {
        Self::new(limits, ("small_bodies", limits.small_body_room), ("large_bodies", limits.large_body_room))
    }

    /// Of answers, until they are written.
    pub(crate) fn of_answers(limits: &HttpLimits) -> Arc<Self> {
        Self::new(limits, ("small_answers", limits.small_answer_room), ("large_answers", limits.large_answer_room))
    }

    /// Of metrics and descriptions, until they are written: whatever clients hold, operators see it.
    pub(crate) fn of_operations(limits: &HttpLimits) -> Arc<Self> {
        let small = Room::new("operations", limits.operations_room, limits.slow_below);
        Arc::new(Self { small, large: None, small_bytes: usize::MAX })
    }

    fn new(limits: &HttpLimits, small: (&'static str, usize), large: (&'static str, usize)) -> Arc<Self> {
        let room = |(name, max)| Room::new(name, max, limits.slow_below);
        Arc::new(Self { small: room(small), large: Some(room(large)), small_bytes: limits.small_bytes })
    }

    fn room(&self, is_large: bool) -> &Room {
        self.large.as_ref().filter(|_| is_large).unwrap_or(&self.small)
    }

    fn all(&self) -> impl Iterator<Item = &Room> {
        [&self.small].into_iter().chain(&self.large)
    }

    /// Whether one of them holds more than it may, which only [`Held::overdraw`] leads to, and nobody is slow.
    pub(crate) fn are_overdrawn(&self) -> bool {
        self.all().any(|room| room.is_over() && !room.make_room())
    }

    /// Cuts the slowest, whatever it holds, for the place that its request has; false where nobody is slow.
    pub(crate) fn cut_one(&self) -> bool {
        self.all().any(|room| {
            let held = room.cut_slowest(&mut room.slow(), |_| true);
            held.inspect(|held| held.wake()).is_some()
        })
    }

    /// Whether the large room is full, and nobody in it is slow.
    pub(crate) fn is_large_full(&self) -> bool {
        let large = self.room(true);
        large.used.load(Ordering::Relaxed) >= large.max && large.take(1).map(|()| large.give_back(1)).is_err()
    }

    /// Sets the gauges. Not done with each change: these are on the way of every request.
    pub(crate) fn publish(&self) {
        for room in self.all() {
            room.used_gauge.set(room.used.load(Ordering::Relaxed) as f64);
        }
    }
}

/// Owns the bytes that one client holds, and gives them back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share(Arc<Held>);

/// The bytes that one client holds. They are used by one task.
#[derive(Debug)]
pub(crate) struct Held {
    rooms: Arc<Rooms>,
    is_large: AtomicBool,
    bytes: AtomicUsize,
    /// Bytes a second, as last measured.
    speed: AtomicU64,
    is_listed: AtomicBool,
    is_cut: AtomicBool,
    /// Of the task that must learn that it is cut.
    waker: Mutex<Option<Waker>>,
}

impl Share {
    /// A share that holds nothing. In the small room unless it is known to become larger.
    pub(crate) fn of(rooms: &Arc<Rooms>, expected: usize) -> Self {
        Self(Arc::new(Held {
            rooms: Arc::clone(rooms),
            is_large: AtomicBool::new(expected > rooms.small_bytes),
            bytes: AtomicUsize::new(0),
            speed: AtomicU64::new(u64::MAX),
            is_listed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            waker: Mutex::default(),
        }))
    }

    /// What it owns, for those who change it.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.unlist();
        // Whoever still has it takes nothing more.
        self.0.is_cut.store(true, Ordering::Release);
        self.0.room().give_back(self.0.bytes.swap(0, Ordering::Relaxed));
    }
}

impl Held {
    /// Takes more bytes. What is no longer small moves to the large room as a whole.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), Full> {
        if self.is_cut() {
            return Err(Full);
        }
        let held = self.bytes.load(Ordering::Relaxed);
        if self.is_large.load(Ordering::Relaxed) || held + bytes <= self.rooms.small_bytes {
            self.room().take(bytes)?;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        // Nobody can cut it while it is in no list; its next measurement lists it again.
        self.unlist();
        let held = self.bytes.load(Ordering::Relaxed);
        if self.is_cut() {
            return Err(Full);
        }
        self.rooms.room(true).take(held + bytes)?;
        self.rooms.small.give_back(held);
        self.is_large.store(true, Ordering::Relaxed);
        self.bytes.store(held + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes bytes though there may be no room: of what exists and must not be refused any more.
    pub(crate) fn overdraw(&self, bytes: usize) {
        let room = self.room();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if room.used.fetch_add(bytes, Ordering::Relaxed) + bytes > room.max {
            room.make_room();
        }
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&self, bytes: usize) {
        let held = self.bytes.load(Ordering::Relaxed);
        // Fails where it was cut meanwhile: then nothing is left to give back.
        if held > bytes && self.bytes.compare_exchange(held, bytes, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.room().give_back(held - bytes);
        }
    }

    /// Tells how fast its client is, in bytes a second, and whom to wake when it is cut. From now on it may be.
    pub(crate) fn measure(self: &Arc<Self>, speed: u64, waker: &Waker) {
        self.speed.store(speed, Ordering::Relaxed);
        {
            let mut kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *kept {
                Some(kept) => kept.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        if !self.is_cut() && !self.is_listed.swap(true, Ordering::Relaxed) {
            self.room().slow().insert(self.address(), Arc::clone(self));
        }
    }

    /// How many it has.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it lost its bytes to others, or its owner is gone. Who uses it has to end.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Its client is waited for no longer: it is not cut any more.
    pub(crate) fn unlist(&self) {
        if self.is_listed.swap(false, Ordering::Relaxed) {
            self.room().slow().remove(&self.address());
        }
    }

    fn room(&self) -> &Room {
        self.rooms.room(self.is_large.load(Ordering::Relaxed))
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> Arc<Rooms> {
        Rooms::of_bodies(&HttpLimits {
            small_bytes: 10,
            small_body_room: 100,
            large_body_room: 1000,
            slow_below: 50,
            ..HttpLimits::default()
        })
    }

    fn used(rooms: &Rooms) -> (usize, usize) {
        (rooms.room(false).used.load(Ordering::Relaxed), rooms.room(true).used.load(Ordering::Relaxed))
    }

    fn share(rooms: &Arc<Rooms>, bytes: usize) -> Share {
        let share = Share::of(rooms, bytes);
        share.held().grow(bytes).unwrap();
        share
    }

    fn is_full(rooms: &Arc<Rooms>, bytes: usize) -> bool {
        Share::of(rooms, bytes).held().grow(bytes).is_err()
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rooms = rooms();
        let first = share(&rooms, 600);
        assert!(is_full(&rooms, 600));
        assert_eq!(used(&rooms), (0, 600));
        first.held().shrink_to(100);
        first.held().shrink_to(200);
        assert_eq!(used(&rooms), (0, 100));
        share(&rooms, 600);
        let left = Arc::clone(first.held());
        drop(first);
        assert_eq!(left.grow(1), Err(Full), "its owner is gone");
        assert_eq!(used(&rooms), (0, 0));
    }

    #[test]
    fn what_is_small_no_more_moves_to_the_other_room() {
        let rooms = rooms();
        let grows = Share::of(&rooms, 0);
        grows.held().grow(10).unwrap();
        assert_eq!(used(&rooms), (10, 0));
        grows.held().measure(0, Waker::noop());
        grows.held().grow(1).unwrap();
        assert_eq!(used(&rooms), (0, 11));
        assert!(rooms.small.slow().is_empty(), "it cannot be cut for small ones");
        let large = share(&rooms, 980);
        assert_eq!(grows.held().grow(100), Err(Full));
        assert_eq!(used(&rooms), (0, 991));
        drop((grows, large));
        assert_eq!(used(&rooms), (0, 0));
    }

    #[test]
    fn the_slowest_is_cut_and_nobody_who_is_fast_or_young() {
        let rooms = rooms();
        let all @ [_, fast, slow, slowest] = &[250, 250, 250, 250].map(|bytes| share(&rooms, bytes));
        fast.held().measure(50, Waker::noop());
        slow.held().measure(49, Waker::noop());
        slowest.held().measure(7, Waker::noop());
        let cut = || all.each_ref().map(|share| share.held().is_cut());
        let first = share(&rooms, 250);
        assert_eq!(cut(), [false, false, false, true]);
        assert_eq!(slowest.held().grow(1), Err(Full));
        let second = share(&rooms, 250);
        assert_eq!(cut(), [false, false, true, true]);
        assert!(is_full(&rooms, 250), "nobody is slow");
        assert!(rooms.is_large_full());
        assert_eq!(cut(), [false, false, true, true]);
        assert_eq!(used(&rooms), (0, 1000), "those that are cut count no longer");
        drop((first, second));
        assert_eq!(used(&rooms), (0, 500));
    }

    #[test]
    fn one_room_may_be_for_all_sizes() {
        let rooms =
            Rooms::of_operations(&HttpLimits { small_bytes: 10, operations_room: 100, ..HttpLimits::default() });
        let unread = share(&rooms, 90);
        assert!(is_full(&rooms, 11));
        unread.held().measure(0, Waker::noop());
        drop(share(&rooms, 11));
        assert!(unread.held().is_cut());
        assert_eq!(used(&rooms), (0, 0));
    }

    #[test]
    fn who_is_not_waited_for_is_not_cut() {
        let rooms = rooms();
        let share = share(&rooms, 600);
        share.held().measure(0, Waker::noop());
        share.held().unlist();
        assert!(is_full(&rooms, 600) && !share.held().is_cut());
    }

    #[test]
    fn what_holds_nothing_is_cut_for_its_place_only() {
        let rooms = rooms();
        let empty = Share::of(&rooms, 600);
        empty.held().measure(0, Waker::noop());
        let _full = share(&rooms, 600);
        assert!(is_full(&rooms, 600) && !empty.held().is_cut());
        assert!(rooms.cut_one() && empty.held().is_cut());
        assert!(!rooms.cut_one(), "nobody else is slow");
    }

    #[test]
    fn what_must_not_be_refused_is_counted_and_overdraws() {
        let rooms = rooms();
        let slow = share(&rooms, 900);
        let answer = Share::of(&rooms, 900);
        answer.held().overdraw(900);
        assert_eq!((used(&rooms), rooms.are_overdrawn()), ((0, 1800), true));
        slow.held().measure(0, Waker::noop());
        assert!(!rooms.are_overdrawn() && slow.held().is_cut());
        assert_eq!(used(&rooms), (0, 900));
    }
}
