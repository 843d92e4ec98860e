//! [`StreamLink`]: one bidirectional stream to a peer, opened again for ever.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::peer::Peer;

/// First wait before a stream is opened again: a peer that restarts is back within tens of milliseconds.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest wait: what a client may lose to it after the peer is back.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// A peer that takes longer than this to accept a stream is hung; try again rather than wait for it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests handed over and not yet taken by the connection. The owner of a link bounds what it has in flight far
/// below; this only makes a forgotten bound visible.
const SEND_BUFFER: usize = 256;

/// A request was not handed over: the other side has certainly not seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

/// What happened on a link.
#[derive(Debug)]
pub enum LinkEvent<A> {
    /// Requests can be sent from now on.
    Opened,
    /// An answer came.
    Answer(A),
    /// The stream could not be opened; it will be tried again.
    NotOpened(Status),
    /// The stream broke; it will be opened again. Requests without an answer may have been seen or not.
    Lost(Status),
}

type Opening<A> = BoxFuture<'static, Result<Streaming<A>, Status>>;

/// A stream of requests `Q` and answers `A` that is opened again whenever it breaks, with bounded backoff.
///
/// It does not repeat requests: only their sender knows which may be repeated. Where the peer has several addresses, a
/// stream ends when another one is chosen, and the next one is opened there: to its owner a loss like any other.
pub struct StreamLink<Q, A> {
    peer: Peer,
    open: Box<dyn Fn(mpsc::Receiver<Q>) -> Opening<A> + Send>,
    state: State<Q, A>,
    backoff: Backoff,
    moves: Option<WatchStream<u64>>,
}

enum State<Q, A> {
    Pausing(Pin<Box<Sleep>>),
    Opening { requests: mpsc::Sender<Q>, opening: Opening<A> },
    Open { requests: mpsc::Sender<Q>, answers: Box<Streaming<A>> },
}

impl<Q, A: 'static> StreamLink<Q, A> {
    /// A link to an engine's sidecar, whose streams are made by `open` from the receiving end of the requests. The first
    /// is opened when [`next`](Self::next) is first polled.
    pub fn new(open: impl Fn(mpsc::Receiver<Q>) -> Opening<A> + Send + 'static) -> Self {
        Self::with_peer(Peer::sidecar(), None, open)
    }

    /// A link to a peer at one of several addresses. `open` takes the address of the moment; a change of `moves` says that
    /// it is another one now.
    pub fn to(
        peer: Peer,
        moves: watch::Receiver<u64>,
        open: impl Fn(mpsc::Receiver<Q>) -> Opening<A> + Send + 'static,
    ) -> Self {
        Self::with_peer(peer, Some(WatchStream::from_changes(moves)), open)
    }

    fn with_peer(
        peer: Peer,
        moves: Option<WatchStream<u64>>,
        open: impl Fn(mpsc::Receiver<Q>) -> Opening<A> + Send + 'static,
    ) -> Self {
        Self {
            peer,
            open: Box::new(open),
            state: State::Pausing(Box::pin(tokio::time::sleep(Duration::ZERO))),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            moves,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether requests can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Hands a request over. `Ok` promises nothing about its arrival.
    pub fn send(&mut self, request: Q) -> Result<(), NotSent> {
        match &self.state {
            State::Open { requests, .. } => requests.try_send(request).map_err(|_| NotSent),
            State::Pausing(_) | State::Opening { .. } => Err(NotSent),
        }
    }

    /// What happens next. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> LinkEvent<A> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent<A>> {
        if self.has_moved(cx) {
            let was_open = self.is_open();
            self.backoff.reset();
            self.state = State::Pausing(Box::pin(tokio::time::sleep(Duration::ZERO)));
            if was_open {
                return Poll::Ready(LinkEvent::Lost(Status::aborted("going to another node")));
            }
        }
        loop {
            match &mut self.state {
                State::Pausing(pause) => {
                    ready!(pause.as_mut().poll_unpin(cx));
                    let (requests, receiver) = mpsc::channel(SEND_BUFFER);
                    self.state = State::Opening { requests, opening: with_timeout((self.open)(receiver)) };
                }
                State::Opening { requests, opening } => match ready!(opening.poll_unpin(cx)) {
                    Ok(answers) => {
                        self.state = State::Open { requests: requests.clone(), answers: Box::new(answers) };
                        return Poll::Ready(LinkEvent::Opened);
                    }
                    Err(status) => {
                        self.pause();
                        return Poll::Ready(LinkEvent::NotOpened(status));
                    }
                },
                State::Open { answers, .. } => {
                    let status = match ready!(Pin::new(answers.as_mut()).poll_next(cx)) {
                        Some(Ok(answer)) => {
                            // Only an answer shows that it works: a peer may accept streams and drop them.
                            self.backoff.reset();
                            return Poll::Ready(LinkEvent::Answer(answer));
                        }
                        Some(Err(status)) => status,
                        None => Status::unavailable("it ended the stream"),
                    };
                    self.pause();
                    return Poll::Ready(LinkEvent::Lost(status));
                }
            }
        }
    }

    fn has_moved(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(moves) = &mut self.moves {
            match Pin::new(moves).poll_next(cx) {
                Poll::Ready(Some(_)) => moved = true,
                // Nobody chooses any more: it stays where it is.
                Poll::Ready(None) => self.moves = None,
                Poll::Pending => break,
            }
        }
        moved
    }

    fn pause(&mut self) {
        self.state = State::Pausing(Box::pin(tokio::time::sleep(self.backoff.wait())));
    }
}

/// Whether a stream was lost only because another address was chosen.
pub fn is_move(status: &Status) -> bool {
    status.code() == Code::Aborted
}

fn with_timeout<A: 'static>(opening: Opening<A>) -> Opening<A> {
    tokio::time::timeout(OPEN_TIMEOUT, opening)
        .map(move |opened| {
            // A process that is stopped still accepts connections.
            let hung = || Status::unavailable(format!("no answer within {OPEN_TIMEOUT:?}"));
            opened.unwrap_or_else(|_| Err(hung()))
        })
        .boxed()
}

impl<Q, A> fmt::Debug for StreamLink<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Pausing(_) => "pausing",
            State::Opening { .. } => "opening",
            State::Open { .. } => "open",
        };
        write!(f, "StreamLink({state})")
    }
}
