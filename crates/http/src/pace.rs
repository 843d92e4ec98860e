//! [`Pace`]: how fast a body arrives, looked at while it is waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::body::BodyError;
use crate::limits::HttpLimits;

/// How often the speed is measured.
const TICK: Duration = Duration::from_secs(1);

/// What a body is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    pub(crate) timeout: Duration,
    /// Bytes a second, in each window.
    pub(crate) min_speed: u64,
    pub(crate) window: Duration,
    pub(crate) tick: Duration,
    /// A body is slow below this, in bytes a second.
    pub(crate) slow_below: u64,
}

impl BodyLimits {
    pub(crate) fn of(limits: &HttpLimits) -> Self {
        Self {
            max_bytes: limits.max_body_bytes,
            timeout: limits.body_timeout,
            min_speed: limits.min_body_speed,
            window: limits.body_speed_window,
            tick: TICK.min(limits.spared),
            slow_below: limits.slow_below,
        }
    }
}

/// A moment, and how much of the body was there.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    received: usize,
}

impl Mark {
    /// Bytes a second since then.
    fn speed(self, now: Instant, received: usize) -> u64 {
        let millis = now.saturating_duration_since(self.at).as_millis().max(1);
        (received.saturating_sub(self.received) as u128 * 1000 / millis) as u64
    }
}

/// The clock of one body that did not come with its head.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    /// When it was last measured.
    last: Mark,
    /// Where the window began in which it must have the least speed.
    window: Mark,
    sleep: Pin<Box<Sleep>>,
}

impl Pace {
    /// From now on, with so much received before.
    pub(crate) fn begin(received: usize, limits: &BodyLimits) -> Self {
        let now = Instant::now();
        let mark = Mark { at: now, received };
        let sleep = Box::pin(tokio::time::sleep(limits.tick.min(limits.timeout)));
        Self { began: now, last: mark, window: mark, sleep }
    }

    /// Bytes a second since the last time, when the next time has come; an error where the body is too slow.
    pub(crate) fn poll_speed(
        &mut self,
        cx: &mut Context<'_>,
        received: usize,
        limits: &BodyLimits,
    ) -> Poll<Result<u64, BodyError>> {
        ready!(self.sleep.as_mut().poll(cx));
        let measured = self.measure(Instant::now(), received, limits);
        Poll::Ready(measured.map(|(speed, next)| {
            self.sleep.as_mut().reset(next);
            speed
        }))
    }

    /// Bytes a second since the last time, and when to look again.
    fn measure(&mut self, now: Instant, received: usize, limits: &BodyLimits) -> Result<(u64, Instant), BodyError> {
        let end = self.began + limits.timeout;
        if now >= end {
            return Err(BodyError::Late { timeout: limits.timeout });
        }
        if now >= self.window.at + limits.window {
            if self.window.speed(now, received) < limits.min_speed {
                return Err(BodyError::TooSlow { speed: limits.min_speed });
            }
            self.window = Mark { at: now, received };
        }
        let speed = self.last.speed(now, received);
        self.last = Mark { at: now, received };
        Ok((speed, (now + limits.tick).min(self.window.at + limits.window).min(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body of which so many bytes arrive in each second: after how many seconds it is refused, and why.
    async fn refused(arriving: impl Fn(u64) -> usize) -> (u64, BodyError) {
        let limits = BodyLimits::of(&HttpLimits::default());
        let mut pace = Pace::begin(0, &limits);
        let (began, mut received) = (pace.began, 0);
        for second in 1.. {
            received += arriving(second);
            let now = began + Duration::from_secs(second);
            match pace.measure(now, received, &limits) {
                Ok((speed, next)) => {
                    assert_eq!(speed as usize, arriving(second), "in second {second}");
                    assert_eq!(next, now + limits.tick, "after second {second}");
                }
                Err(why) => return (second, why),
            }
        }
        unreachable!("a body has a timeout")
    }

    #[tokio::test]
    async fn a_body_has_its_least_speed_in_each_window() {
        // The defaults: 1 KiB/s in each 5 s, and 30 s for all of it.
        assert!(matches!(refused(|_| 0).await, (5, BodyError::TooSlow { speed: 1_024 })));
        assert!(matches!(refused(|_| 1_023).await, (5, BodyError::TooSlow { .. })));
        assert!(matches!(refused(|_| 1_024).await, (30, BodyError::Late { .. })));
        // A pause within a window costs nothing, and what came before it helps in no other.
        assert!(matches!(
            refused(|second| [0, 5_120][usize::from(second % 5 == 3)]).await,
            (30, BodyError::Late { .. })
        ));
        assert!(matches!(
            refused(|second| [0, 1 << 20][usize::from(second == 2)]).await,
            (10, BodyError::TooSlow { .. })
        ));
    }
}
