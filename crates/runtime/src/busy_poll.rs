//! [`BusyPoll`]: stays awake for a moment when more work is likely.
//!
//! A write passes several processes, each of which waits for the next. A core that has nothing to do in between halts, and
//! waking it takes tens of microseconds, on a virtual machine more: of one client's write, a third. So a runtime of one thread
//! asks for events without sleeping for a moment before it sleeps. Other databases do the same, for longer.
//!
//! It must cost others nothing. Between two looks the core is given to whoever wants it (`sched_yield`), so only time that
//! would have been idle is spent. Where somebody wanted it, the thread sleeps as ever. And where somebody kept it, as a
//! process does that computes, giving it away has cost a slice of the scheduler, which the thread's own wake-up would not
//! have: then it does not poll for some milliseconds, and when that happens again for longer, up to five seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::{ConfigError, HumanDuration};
use crate::settings;

/// Environment variable that says how long to poll, for every process; `0s` turns it off.
pub const BUSY_POLL: &str = "RAFTKV_BUSY_POLL";

/// Longer than nearly every step of a write but its fsync. Twice as much gained nothing.
const DEFAULT: Duration = Duration::from_micros(100);
/// The longest that can be asked for: much more would be a thread that never sleeps.
const MOST: Duration = Duration::from_millis(10);
/// After a longer sleep nothing is polled: what comes so seldom, a heartbeat, is not followed by more.
const FREQUENT: Duration = Duration::from_millis(2);
/// Work that took longer was for many callers: they wait for each other, not for a wake-up.
const LONG_BURST: Duration = Duration::from_micros(100);
/// A look at the driver without events takes less.
const LOOK: Duration = Duration::from_micros(8);
/// A yield that took longer was somebody's turn.
const WANTED: Duration = Duration::from_micros(10);
/// And one that took longer somebody's whole slice: a process that waits for others, as ours do, gives it back sooner.
const KEPT: Duration = Duration::from_micros(700);
/// How long nothing is polled after that; [`MORE_REST`] times as long each time it happens again.
const FIRST_REST: Duration = Duration::from_millis(5);
/// See [`FIRST_REST`].
const MORE_REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How long to poll, from the environment.
///
/// # Errors
/// When it says something that is not a duration, or a longer one than can be.
pub fn from_environment() -> Result<Duration, ConfigError> {
    parse(std::env::var(BUSY_POLL).ok())
}

fn parse(value: Option<String>) -> Result<Duration, ConfigError> {
    let asked = settings::parsed::<HumanDuration>(BUSY_POLL, value, None)?.map_or(DEFAULT, Into::into);
    if asked > MOST {
        return Err(ConfigError::invalid(BUSY_POLL, format!("at most {MOST:?}")));
    }
    Ok(asked)
}

/// What the thread does next when it has no work.
const SLEEP: u8 = 0;
const POLL: u8 = 1;
const POLLING: u8 = 2;

/// Polls for a runtime of one thread. All its parts run on that thread; they are atomic because a runtime's hooks must be
/// `Sync`.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    longest: Duration,
    next: AtomicU8,
    wake: Notify,
    began: Instant,
    /// Microseconds after `began`: when the thread last went to sleep, woke up, and may poll again.
    slept_at: AtomicU64,
    woke_at: AtomicU64,
    rested_at: AtomicU64,
}

impl BusyPoll {
    pub(crate) fn new(longest: Duration) -> Arc<Self> {
        Arc::new(Self {
            longest,
            next: AtomicU8::new(SLEEP),
            wake: Notify::new(),
            began: Instant::now(),
            slept_at: AtomicU64::new(0),
            woke_at: AtomicU64::new(0),
            rested_at: AtomicU64::new(0),
        })
    }

    /// The runtime has no work: wakes the polling task, or lets the thread sleep. For `on_thread_park`.
    pub(crate) fn before_sleep(&self) {
        self.idle(self.now_us());
    }

    fn idle(&self, now: u64) {
        let burst = micros(now.saturating_sub(self.woke_at.load(Relaxed)));
        if self.next.load(Relaxed) == POLL && burst <= LONG_BURST && now >= self.rested_at.load(Relaxed) {
            self.next.store(POLLING, Relaxed);
            // A runtime that has been given work does not sleep.
            self.wake.notify_one();
        } else {
            self.next.store(SLEEP, Relaxed);
            self.slept_at.store(now, Relaxed);
        }
    }

    /// The thread was woken, or did not sleep. For `on_thread_unpark`.
    pub(crate) fn after_sleep(&self) {
        self.woken(self.now_us());
    }

    fn woken(&self, now: u64) {
        if self.next.load(Relaxed) == SLEEP {
            self.woke_at.store(now, Relaxed);
            if micros(now.saturating_sub(self.slept_at.load(Relaxed))) <= FREQUENT {
                self.next.store(POLL, Relaxed);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_polling(&self) -> bool {
        self.next.load(Relaxed) == POLLING
    }

    /// The polling task. Ends with its runtime.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut rest = FIRST_REST;
        loop {
            self.wake.notified().await;
            if self.poll().await {
                rest = FIRST_REST;
            } else {
                self.rested_at.store(self.now_us() + rest.as_micros() as u64, Relaxed);
                rest = (rest * MORE_REST).min(LONGEST_REST);
            }
            self.next.store(SLEEP, Relaxed);
        }
    }

    /// Polls until nothing has come for a while, somebody wants the core, or there is more to do than a single caller asks
    /// for. False: somebody kept the core.
    async fn poll(&self) -> bool {
        let mut before = Instant::now();
        let mut until = before + self.longest;
        loop {
            std::thread::yield_now();
            let yielded = Instant::now();
            let taken = yielded - before;
            if taken > WANTED {
                return taken <= KEPT;
            }
            // The runtime looks for events before this task goes on, and does what they ask for.
            tokio::task::yield_now().await;
            let looked = Instant::now();
            let burst = looked - yielded;
            if burst > LONG_BURST {
                return true;
            }
            if burst > LOOK {
                until = looked + self.longest;
            }
            if looked >= until {
                return true;
            }
            before = looked;
        }
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

fn micros(us: u64) -> Duration {
    Duration::from_micros(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_a_sleep_of(slept_us: u64, burst_us: u64) -> u8 {
        let poll = BusyPoll::new(DEFAULT);
        poll.idle(1_000_000);
        poll.woken(1_000_000 + slept_us);
        poll.idle(1_000_000 + slept_us + burst_us);
        poll.next.load(Relaxed)
    }

    #[test]
    fn polls_where_work_is_frequent_and_small_only() {
        assert_eq!(after_a_sleep_of(300, 50), POLLING);
        assert_eq!(after_a_sleep_of(6_000, 50), SLEEP, "a heartbeat");
        assert_eq!(after_a_sleep_of(300, 150), SLEEP, "many callers");
    }

    #[test]
    fn a_sleep_follows_each_poll() {
        let poll = BusyPoll::new(DEFAULT);
        poll.idle(0);
        poll.woken(300);
        poll.idle(350);
        assert_eq!(poll.next.load(Relaxed), POLLING);
        // The hook that follows at once, since the thread did not sleep.
        poll.woken(350);
        assert_eq!(poll.next.load(Relaxed), POLLING);
        // As the task does when it is done.
        poll.next.store(SLEEP, Relaxed);
        poll.idle(460);
        assert_eq!(poll.next.load(Relaxed), SLEEP);
        poll.woken(700);
        assert_eq!(poll.next.load(Relaxed), POLL);
    }

    #[test]
    fn rests_after_somebody_kept_the_core() {
        let poll = BusyPoll::new(DEFAULT);
        poll.rested_at.store(1_000_000, Relaxed);
        poll.idle(0);
        poll.woken(300);
        poll.idle(350);
        assert_eq!(poll.next.load(Relaxed), SLEEP);
        poll.idle(1_000_000);
        poll.woken(1_000_300);
        poll.idle(1_000_350);
        assert_eq!(poll.next.load(Relaxed), POLLING);
    }

    #[test]
    fn reads_its_setting() {
        assert_eq!(parse(None).unwrap(), DEFAULT);
        assert_eq!(parse(Some(String::new())).unwrap(), DEFAULT);
        assert_eq!(parse(Some("250us".to_owned())).unwrap(), Duration::from_micros(250));
        assert_eq!(parse(Some("0s".to_owned())).unwrap(), Duration::ZERO);
        let refused = parse(Some("1s".to_owned())).unwrap_err().to_string();
        assert!(refused.contains(BUSY_POLL) && refused.contains("10ms"), "{refused}");
        assert!(parse(Some("fast".to_owned())).is_err());
    }
}
