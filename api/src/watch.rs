//! [`Watched`]: a connection's stream that knows since when nothing moves.
//!
//! hyper's own header timeout makes a timer for each request and counts the time between requests too. Here it is a few
//! relaxed stores per request, looked at now and then by the task that owns the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::HttpLimits;
use crate::head::{HeadScan, Refused};

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
    /// A head was refused, and the answer before it does not end.
    Refused,
}

impl Overdue {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "slow_head",
            Self::Write => "slow_reader",
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
        })
    }

    pub(crate) fn request_begins(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// Everything that the HTTP library had has been handed to the kernel. Returns whether an answer has ended with it.
    fn flushed(&self) -> bool {
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

    fn wrote<T>(&self, poll: &Poll<T>) {
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

/// The body of an answer, which tells the [`Watch`] when the HTTP library has all of it.
pub(crate) struct Answer {
    body: Body,
    watch: Arc<Watch>,
}

impl Answer {
    pub(crate) fn new(body: Body, watch: Arc<Watch>) -> Self {
        watch.phase.store(ANSWERING, Ordering::Relaxed);
        Self { body, watch }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.watch.phase.store(FLUSHING, Ordering::Relaxed);
    }
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
    use super::*;

    #[test]
    fn a_connection_is_busy_until_its_answer_is_flushed() {
        let watch = Watch::new();
        assert!(!watch.is_busy());
        watch.request_begins();
        assert!(!watch.flushed() && watch.is_busy(), "`100 Continue` is no answer");
        let answer = Answer::new(Body::from("x"), Arc::clone(&watch));
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
        let answer = Answer::new(Body::from("x"), Arc::clone(&watch));
        assert_eq!(watch.overdue(&HttpLimits::default()), None);
        assert_eq!(watch.overdue(&limits), Some(Overdue::Refused));
        drop(answer);
        assert_eq!(watch.overdue(&limits), Some(Overdue::Refused), "not flushed");
        watch.flushed();
        assert_eq!(watch.overdue(&limits), None);
    }
}
