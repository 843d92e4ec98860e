//! [`Answer`]: the body of an answer on its way to the socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::room::{Held, Share};
use crate::watch::Watch;

/// What the HTTP library has of a body before it asks for more is at most this, in bytes, and the part it asked for last.
const LIBRARY_BYTES: usize = 512 * 1024;

/// The body of an answer, which tells the [`Watch`] when the HTTP library has all of it.
pub(crate) struct Answer {
    body: Body,
    watch: Arc<Watch>,
    /// Where it counts.
    held: Option<Arc<Held>>,
    /// Bytes that the HTTP library does not have yet, and that it was given.
    left: usize,
    handed_over: usize,
}

impl Answer {
    /// `share` holds the bytes of the body where they are counted.
    pub(crate) fn new(body: Body, share: Option<Share>, watch: Arc<Watch>) -> Self {
        watch.answer_begins();
        let Some(share) = share else {
            return Self { body, watch, held: None, left: 0, handed_over: 0 };
        };
        let bytes = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let held = watch.count(share, bytes);
        Self { body, watch, held: Some(held), left: bytes, handed_over: 0 }
    }

    /// The library took a part. It asks for one only when it has not much left of those before: the rest of them is written.
    fn hands_over(&mut self, bytes: usize) {
        let Some(held) = &self.held else { return };
        self.left = self.left.saturating_sub(bytes);
        held.shrink_to(self.left + bytes + self.handed_over.min(LIBRARY_BYTES));
        self.handed_over += bytes;
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.hands_over(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
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
        self.watch.answer_ends(self.held.is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::limits::{HttpLimits, PIECE_BYTES};
    use crate::pieces::Pieces;
    use crate::room::Rooms;

    #[test]
    fn an_answer_counts_until_it_is_written() {
        const PIECES: usize = 40;
        let rooms = Rooms::of_answers(&HttpLimits::default());
        let mut pieces = Pieces::with_capacity(0);
        for _ in 0..PIECES {
            pieces.room(PIECE_BYTES).extend_from_slice(&[0; PIECE_BYTES]);
        }
        let share = Share::of(&rooms, PIECES * PIECE_BYTES);
        share.held().grow(PIECES * PIECE_BYTES).unwrap();
        let held = Arc::clone(share.held());
        let watch = Watch::new();
        let mut answer = Answer::new(pieces.into(), Some(share), Arc::clone(&watch));
        assert_eq!(held.bytes(), PIECES * PIECE_BYTES);
        let mut cx = Context::from_waker(Waker::noop());
        for taken in 1..=PIECES {
            assert!(Pin::new(&mut answer).poll_frame(&mut cx).is_ready());
            let with_library = ((taken - 1) * PIECE_BYTES).min(LIBRARY_BYTES) + PIECE_BYTES;
            assert_eq!(held.bytes(), (PIECES - taken) * PIECE_BYTES + with_library, "after {taken} pieces");
            assert!(!watch.flushed(), "there is more");
        }
        drop(answer);
        assert!(held.bytes() >= LIBRARY_BYTES, "handed over is not written");
        // The next request may have been read by then.
        watch.request_begins();
        watch.flushed();
        assert_eq!(held.bytes(), 0);
    }
}
