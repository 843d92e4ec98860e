//! [`StreamLink`]: a bidirectional stream to a peer, reopened indefinitely.

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

/// First backoff before reopening: a restarting peer is back within tens of milliseconds.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest backoff: bounds the delay for a client after the peer is back.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// Timeout for opening a stream: a slower peer counts as hung, and the link retries.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Buffer of requests not yet taken by the connection. The owner bounds the requests in flight far below; the buffer
/// only exposes a missing bound.
const SEND_BUFFER: usize = 256;

/// The request was not sent: the peer has certainly not seen the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

/// An event on a link.
#[derive(Debug)]
pub enum LinkEvent<A> {
    /// The link is open: requests can be sent.
    Opened,
    /// An answer arrived.
    Answer(A),
    /// The stream could not be opened; the link will retry.
    NotOpened(Status),
    /// The stream broke; the link will reopen. Unanswered requests may or may not have been received.
    Lost(Status),
}

type Opening<A> = BoxFuture<'static, Result<Streaming<A>, Status>>;

/// A stream of requests `Q` and answers `A`, reopened after each failure with bounded backoff.
///
/// The link does not resend requests: only the sender knows which requests are repeatable. If the peer has several
/// addresses and a different address is chosen, the stream ends and the next stream uses the new address; the owner
/// sees an ordinary loss.
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
    /// A link to an engine's sidecar. `open` makes a stream from the receiving end of the requests. The first stream is
    /// opened on the first poll of [`next`](Self::next).
    pub fn new(open: impl Fn(mpsc::Receiver<Q>) -> Opening<A> + Send + 'static) -> Self {
        Self::with_peer(Peer::sidecar(), None, open)
    }

    /// A link to a peer with several addresses. `open` uses the current address; a change of `moves` signals a new
    /// address.
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

    /// The peer of the link.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether requests can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Sends a request. `Ok` does not guarantee delivery.
    pub fn send(&mut self, request: Q) -> Result<(), NotSent> {
        match &self.state {
            State::Open { requests, .. } => requests.try_send(request).map_err(|_| NotSent),
            State::Pausing(_) | State::Opening { .. } => Err(NotSent),
        }
    }

    /// Waits for the next event. Cancel-safe: dropping the future loses no event.
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
                            // Reset only after an answer: a peer may accept streams and drop them.
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
                // The address chooser is gone: keep the current address.
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

/// Whether a stream was lost only because of an address change.
pub fn is_move(status: &Status) -> bool {
    status.code() == Code::Aborted
}

fn with_timeout<A: 'static>(opening: Opening<A>) -> Opening<A> {
    tokio::time::timeout(OPEN_TIMEOUT, opening)
        .map(move |opened| {
            // A suspended process still accepts connections.
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
