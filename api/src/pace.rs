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
        let now = Instant::now();
        let end = self.began + limits.timeout;
        if now >= end {
            return Poll::Ready(Err(BodyError::Late { timeout: limits.timeout }));
        }
        if now >= self.window.at + limits.window {
            if self.window.speed(now, received) < limits.min_speed {
                return Poll::Ready(Err(BodyError::TooSlow { speed: limits.min_speed }));
            }
            self.window = Mark { at: now, received };
        }
        let speed = self.last.speed(now, received);
        self.last = Mark { at: now, received };
        let next = (now + limits.tick).min(self.window.at + limits.window).min(end);
        self.sleep.as_mut().reset(next);
        Poll::Ready(Ok(speed))
    }
}
