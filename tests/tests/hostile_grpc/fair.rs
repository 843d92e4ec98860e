//! [`FairClock`]: time as far as the machine gave any to this test. Where other programs take all of a machine, a second of it is no second for
//! a store that runs with the priority of the test, either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Between two pieces of work.
const PAUSE: Duration = Duration::from_millis(10);
/// Of processor time: a fifth of a core is asked for.
const WORK: Duration = Duration::from_millis(2);

/// Goes as fast as a clock on a machine with some room, and slower on one without. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct FairClock {
    rounds: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl FairClock {
    pub(super) fn start() -> Self {
        let clock = Self { rounds: Arc::default(), over: Arc::default() };
        let its = clock.clone();
        std::thread::spawn(move || {
            while !its.over.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                let begin = used();
                while used().saturating_sub(begin) < WORK {
                    std::hint::spin_loop();
                }
                its.rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        clock
    }

    /// Since the start.
    pub(super) fn now(&self) -> Duration {
        let rounds = u32::try_from(self.rounds.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        (PAUSE + WORK) * rounds
    }

    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Processor time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
