//! [`Watched`]: a connection's stream that knows since when nothing moves.
//!
//! hyper's own header timeout makes a timer for each request and counts the time between requests too. Here it is a few
//! relaxed stores per request, looked at now and then by the task that owns the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::head::{HeadScan, Refused};
use crate::limits::HttpLimits;
use crate::room::{Held, Share};

/// Between requests.
const IDLE: u8 = 0;
/// The head of a request has begun to arrive.
const HEAD: u8 = 1;
/// A request is being worked on. Its body and its backend have deadlines of their own.
const BUSY: u8 = 2;
/// Its answer has begun, and more of the answer's body is to come.
const ANSWERING: u8 = 3;
/// All of the answer is with the HTTP library, which has not written all of it yet.
const FLUSHING: u8 = 4;

/// No answer is counted.
const UNCOUNTED: u8 = 0;
/// One is, and more of its body is to come.
const COUNTED: u8 = 1;
/// All of it is with the HTTP library.
const HANDED_OVER: u8 = 2;

/// An answer that counts against a budget until it is written.
#[derive(Debug)]
struct Counted {
    share: Share,
    bytes: usize,
    /// Milliseconds after the connection was opened.
    began: u64,
    /// When its speed was first looked at, and how much was written then. What the kernel takes at once says nothing of its reader.
    mark: Option<(u64, u64)>,
}

/// What a connection is doing, and since when.
#[derive(Debug)]
pub(crate) struct Watch {
    opened: Instant,
    phase: AtomicU8,
    /// Milliseconds after `opened`.
    since: AtomicU64,
    /// Milliseconds after `opened`, plus one, at which writing got stuck; 0 = it is not.
    write_stuck: AtomicU64,
    /// A head was refused; its answer waits for the end of the one before.
    has_refused: AtomicBool,
    /// Milliseconds after `opened`, plus one, at which a refused head was first seen to wait for an answer that had begun; 0 = none.
    refused_since: AtomicU64,
    /// Whether `counted` is there, so that small answers need no lock.
    counting: AtomicU8,
    counted: Mutex<Option<Counted>>,
    /// Bytes of the counted answer that the kernel has taken.
    written: AtomicU64,
    /// Milliseconds after `opened`, plus one, at which the body under way was first seen to be slow; 0 = it is not.
    slow_body: AtomicU64,
    /// It is to close for others, if it still waits for its client.
    is_asked_to_close: AtomicBool,
    /// It closes for others, and is not asked again.
    is_closing: AtomicBool,
    /// Of the connection's task.
    waker: OnceLock<Waker>,
}

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No request for too long.
    Idle,
    /// The head of a request takes too long.
    Head,
    /// The client does not read its answer.
    Write,
    /// The client reads its answer too slowly.
    SlowAnswer,
    /// A head was refused, and the answer before it does not end.
    Refused,
}

impl Overdue {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "slow_head",
            Self::Write => "slow_reader",
            Self::SlowAnswer => "slow_answer",
            Self::Refused => "bad_head",
        }
    }
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            // A client that connects is expected to send a request.
            phase: AtomicU8::new(HEAD),
            since: AtomicU64::new(0),
            write_stuck: AtomicU64::new(0),
            has_refused: AtomicBool::new(false),
            refused_since: AtomicU64::new(0),
            counting: AtomicU8::new(UNCOUNTED),
            counted: Mutex::default(),
            written: AtomicU64::new(0),
            slow_body: AtomicU64::new(0),
            is_asked_to_close: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            waker: OnceLock::new(),
        })
    }

    /// Of a connection that was opened so long ago and has said nothing.
    #[cfg(test)]
    pub(crate) fn opened_before(time: Duration) -> Arc<Self> {
        let mut watch = Self::new();
        let opened = Instant::now().checked_sub(time).expect("the clock runs for longer");
        Arc::get_mut(&mut watch).expect("nobody else has it").opened = opened;
        watch
    }

    pub(crate) fn request_begins(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The task that has the connection: woken when the connection is to end for others.
    pub(crate) fn is_run_by(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    /// Asks the connection to close for others: it does unless its client does first what it waits for.
    pub(crate) fn ask_to_close(&self) {
        self.is_asked_to_close.store(true, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Since when it has been waiting for its client; `None` = it is not, or it closes already.
    pub(crate) fn waits(&self) -> Option<Waits> {
        if self.is_asked_to_close.load(Ordering::Relaxed) || self.is_closing.load(Ordering::Relaxed) {
            return None;
        }
        let passed = |since: u64| Duration::from_millis(self.now().saturating_sub(since));
        match self.phase.load(Ordering::Relaxed) {
            IDLE | HEAD => Some(Waits::Idle(passed(self.since.load(Ordering::Relaxed)))),
            _ => self.slow_request().map(|since| Waits::Slow(passed(since))),
        }
    }

    /// Since when a request's body arrives slowly, or its answer is not read at all.
    fn slow_request(&self) -> Option<u64> {
        let since = |at: &AtomicU64| at.load(Ordering::Relaxed).checked_sub(1);
        since(&self.write_stuck).or_else(|| since(&self.slow_body))
    }

    /// Whether the body of the request arrives slowly. Told once a second at most, and when it has come.
    pub(crate) fn has_slow_body(&self, is_slow: bool) {
        match (is_slow, self.slow_body.load(Ordering::Relaxed)) {
            (true, 0) => self.slow_body.store(self.now() + 1, Ordering::Relaxed),
            (true, _) => {}
            (false, _) => self.slow_body.store(0, Ordering::Relaxed),
        }
    }

    /// What the connection's task was woken for, if it was woken to end for others.
    pub(crate) fn told(&self) -> Option<Told> {
        if self.counting.load(Ordering::Relaxed) != UNCOUNTED
            && self.counted().as_ref().is_some_and(|counted| counted.share.held().is_cut())
        {
            return Some(Told::Cut);
        }
        // Looked at each time that the connection's task runs: mostly it is not.
        if !self.is_asked_to_close.load(Ordering::Acquire) {
            return None;
        }
        self.is_asked_to_close.store(false, Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            // The library ends it by itself as soon as it may.
            IDLE => {
                self.is_closing.store(true, Ordering::Relaxed);
                Some(Told::Close)
            }
            HEAD => Some(Told::End),
            _ if self.slow_request().is_some() => Some(Told::End),
            _ => None,
        }
    }

    /// An answer begins.
    pub(crate) fn answer_begins(&self) {
        self.phase.store(ANSWERING, Ordering::Relaxed);
    }

    /// All of the answer is with the HTTP library.
    pub(crate) fn answer_ends(&self, is_counted: bool) {
        if is_counted {
            self.counting.store(HANDED_OVER, Ordering::Relaxed);
        }
        self.phase.store(FLUSHING, Ordering::Relaxed);
    }

    /// Counts the answer that begins now until it is written.
    pub(crate) fn count(&self, share: Share, bytes: usize) -> Arc<Held> {
        let held = Arc::clone(share.held());
        *self.counted() = Some(Counted { share, bytes, began: self.now(), mark: None });
        self.written.store(0, Ordering::Relaxed);
        self.counting.store(COUNTED, Ordering::Relaxed);
        held
    }

    /// Measures how fast the counted answer is read, if there is one; from now on it may be cut for others.
    pub(crate) fn measure(&self, limits: &HttpLimits) {
        if self.counting.load(Ordering::Relaxed) == UNCOUNTED {
            return;
        }
        let (now, written) = (self.now(), self.written.load(Ordering::Relaxed));
        let mut counted = self.counted();
        let (Some(counted), Some(waker)) = (counted.as_mut(), self.waker.get()) else { return };
        match counted.mark {
            None if u128::from(now - counted.began) < limits.spared.as_millis() => {}
            None => counted.mark = Some((now, written)),
            Some((since, before)) if now > since => {
                let speed = written.saturating_sub(before).saturating_mul(1000) / (now - since);
                counted.share.held().measure(speed, waker);
            }
            Some(_) => {}
        }
    }

    fn counted(&self) -> MutexGuard<'_, Option<Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the counted answer takes longer than its size allows.
    fn is_read_too_slowly(&self, now: u64, limits: &HttpLimits) -> bool {
        self.counting.load(Ordering::Relaxed) != UNCOUNTED
            && self.counted().as_ref().is_some_and(|counted| {
                let granted = counted.bytes as u128 * 1000 / u128::from(limits.min_answer_speed.max(1));
                u128::from(now.saturating_sub(counted.began)) > limits.answer_grace.as_millis() + granted
            })
    }

    /// Everything that the HTTP library had has been handed to the kernel. Returns whether an answer has ended with it.
    pub(crate) fn flushed(&self) -> bool {
        // In whichever phase: the next request may have come already.
        if self.counting.load(Ordering::Relaxed) == HANDED_OVER {
            self.counting.store(UNCOUNTED, Ordering::Relaxed);
            let counted = self.counted().take();
            drop(counted);
        }
        let has_ended = self.phase.load(Ordering::Relaxed) == FLUSHING;
        if has_ended {
            self.since.store(self.now(), Ordering::Relaxed);
            self.phase.store(IDLE, Ordering::Relaxed);
        }
        has_ended
    }

    /// Whether the connection should be cut.
    pub(crate) fn overdue(&self, limits: &HttpLimits) -> Option<Overdue> {
        let now = self.now();
        let past = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let stuck = self.write_stuck.load(Ordering::Relaxed);
        if stuck != 0 && past(stuck - 1, limits.write_timeout) {
            return Some(Overdue::Write);
        }
        if self.is_read_too_slowly(now, limits) {
            return Some(Overdue::SlowAnswer);
        }
        if self.has_refused.load(Ordering::Relaxed) && self.is_answering() {
            match self.refused_since.load(Ordering::Relaxed) {
                0 => self.refused_since.store(now + 1, Ordering::Relaxed),
                since if past(since - 1, limits.write_timeout) => return Some(Overdue::Refused),
                _ => {}
            }
        }
        let since = self.since.load(Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            IDLE if past(since, limits.keep_alive_timeout) => Some(Overdue::Idle),
            HEAD if past(since, limits.header_timeout) => Some(Overdue::Head),
            _ => None,
        }
    }

    fn bytes_arrived(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.since.store(self.now(), Ordering::Relaxed);
            self.phase.store(HEAD, Ordering::Relaxed);
        }
    }

    fn is_answering(&self) -> bool {
        matches!(self.phase.load(Ordering::Relaxed), ANSWERING | FLUSHING)
    }

    /// Whether there is a request whose answer is not written whole.
    fn is_busy(&self) -> bool {
        self.is_answering() || self.phase.load(Ordering::Relaxed) == BUSY
    }

    fn wrote(&self, poll: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = poll
            && self.counting.load(Ordering::Relaxed) != UNCOUNTED
        {
            self.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        let stuck = self.write_stuck.load(Ordering::Relaxed);
        if poll.is_ready() {
            if stuck != 0 {
                self.write_stuck.store(0, Ordering::Relaxed);
            }
        } else if stuck == 0 {
            self.write_stuck.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

/// How a connection waits for its client, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waits {
    /// For more of a body, or for an answer to be read.
    Slow(Duration),
    /// For a request, or the rest of a head. Ordered behind: nothing is lost when it is closed.
    Idle(Duration),
}

impl Waits {
    pub(crate) fn time(self) -> Duration {
        match self {
            Self::Slow(time) | Self::Idle(time) => time,
        }
    }
}

/// What a connection's task does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Close as soon as it is idle, which it is.
    Close,
    /// End: no request has come whole, or no answer is read.
    End,
    /// End: its answer was read more slowly than all others.
    Cut,
}

/// A stream that tells its [`Watch`] what happens, and ends for its reader before a head that must be refused.
pub(crate) struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
    heads: HeadScan,
    refused: Option<Refused>,
}

impl Watched {
    /// `max_head_bytes` is the limit of a request's head.
    pub(crate) fn new(stream: TcpStream, watch: &Arc<Watch>, max_head_bytes: usize) -> Self {
        Self { stream, watch: Arc::clone(watch), heads: HeadScan::new(max_head_bytes), refused: None }
    }

    /// The stream, with the head that its reader was not shown. To be answered when the reader is done; `None` as well where the
    /// answer before it has broken off, which the client would take another answer for a part of.
    pub(crate) fn into_refused(self) -> Option<(TcpStream, Refused)> {
        let refused = self.refused.filter(|_| !self.watch.is_busy())?;
        Some((self.stream, refused))
    }

    /// What the reader is told instead of what comes after a refused head.
    fn end(&self) -> Poll<io::Result<()>> {
        match self.watch.is_busy() {
            // It would take the end for a client that went away, and drop the request before. It is woken when that is answered.
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return self.end();
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() == before {
            return poll;
        }
        self.watch.bytes_arrived();
        if let Err(refused) = self.heads.look(&buf.filled()[before..]) {
            self.refused = Some(refused);
            self.watch.has_refused.store(true, Ordering::Relaxed);
            buf.set_filled(before + refused.after);
            if refused.after == 0 {
                return self.end();
            }
        }
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch.wrote(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        if poll.is_ready() && self.watch.flushed() && self.refused.is_some() {
            // The reader was kept waiting for this: see `end`.
            cx.waker().wake_by_ref();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            // There is one more answer to write.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::answer::Answer;

    #[test]
    fn a_connection_is_busy_until_its_answer_is_flushed() {
        let watch = Watch::new();
        assert!(!watch.is_busy());
        watch.request_begins();
        assert!(!watch.flushed() && watch.is_busy(), "`100 Continue` is no answer");
        let answer = Answer::new(Body::from("x"), None, Arc::clone(&watch));
        assert!(!watch.flushed() && watch.is_busy(), "a part of the body");
        drop(answer);
        assert!(watch.is_busy());
        assert!(watch.flushed() && !watch.is_busy());
    }

    #[test]
    fn a_refused_head_waits_for_an_answer_no_longer_than_a_reader_may_stand_still() {
        let limits = HttpLimits { write_timeout: Duration::ZERO, ..HttpLimits::default() };
        let watch = Watch::new();
        watch.request_begins();
        watch.has_refused.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(watch.overdue(&limits), None, "the backend has a deadline of its own");
        }
        let answer = Answer::new(Body::from("x"), None, Arc::clone(&watch));
        assert_eq!(watch.overdue(&HttpLimits::default()), None);
        assert_eq!(watch.overdue(&limits), Some(Overdue::Refused));
        drop(answer);
        assert_eq!(watch.overdue(&limits), Some(Overdue::Refused), "not flushed");
        watch.flushed();
        assert_eq!(watch.overdue(&limits), None);
    }
}
