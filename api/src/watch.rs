//! [`Watched`]: a connection's stream that knows since when nothing moves.
//!
//! hyper's own header timeout makes a timer for each request and counts the time between requests too. Here it is a few
//! relaxed stores per request, looked at now and then by the task that owns the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

/// What a connection is doing, and since when.
#[derive(Debug)]
pub(crate) struct Watch {
    opened: Instant,
    phase: AtomicU8,
    /// Milliseconds after `opened`.
    since: AtomicU64,
    /// Milliseconds after `opened`, plus one, at which writing got stuck; 0 = it is not.
    write_stuck: AtomicU64,
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
}

impl Overdue {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "slow_head",
            Self::Write => "slow_reader",
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
        })
    }

    pub(crate) fn request_begins(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// Whether the connection should be cut.
    pub(crate) fn overdue(&self, limits: &HttpLimits) -> Option<Overdue> {
        let now = self.now();
        let past = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let stuck = self.write_stuck.load(Ordering::Relaxed);
        if stuck != 0 && past(stuck - 1, limits.write_timeout) {
            return Some(Overdue::Write);
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

    fn is_busy(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == BUSY
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

    /// The stream, with the head that its reader was not shown. To be answered when the reader is done.
    pub(crate) fn into_refused(self) -> Option<(TcpStream, Refused)> {
        Some((self.stream, self.refused?))
    }

    /// What the reader is told instead of what comes after a refused head.
    fn end(&self) -> Poll<io::Result<()>> {
        match self.watch.is_busy() {
            // It would take the end for a client that went away, and drop the request before. It reads again when that is answered.
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
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            // There is one more answer to write.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
