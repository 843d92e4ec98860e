//! [`Pieces`]: a long body in pieces, each of which is given back when it is written.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::limits::PIECE_BYTES;

/// What is written piece by piece, and read the same way. In one buffer it would be copied while that grows, stay in memory up to
/// twice as large as it is, and be there as a whole until its reader has the last byte.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    done: VecDeque<Bytes>,
    open: Vec<u8>,
    bytes: usize,
}

impl Pieces {
    /// `expected` is about how many bytes there will be.
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self { open: Vec::with_capacity(expected.min(PIECE_BYTES)), ..Self::default() }
    }

    /// Where to write the next `bytes` or so, which stay in one piece.
    pub(crate) fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if !self.open.is_empty() && self.open.len() + bytes > PIECE_BYTES {
            self.close();
            self.open.reserve_exact(bytes.max(PIECE_BYTES));
        } else {
            self.open.reserve(bytes);
        }
        &mut self.open
    }

    fn close(&mut self) {
        let mut piece = mem::take(&mut self.open);
        if piece.is_empty() {
            return;
        }
        if piece.capacity() - piece.len() > piece.len() / 8 {
            piece.shrink_to_fit();
        }
        self.bytes += piece.len();
        self.done.push_back(piece.into());
    }
}

impl From<Pieces> for Body {
    fn from(mut pieces: Pieces) -> Self {
        pieces.close();
        match pieces.done.len() {
            1 => pieces.done.pop_front().unwrap_or_default().into(),
            _ => Self::new(pieces),
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.done.pop_front();
        self.bytes -= piece.as_ref().map_or(0, Bytes::len);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.done.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn pieces_together_are_what_was_written() {
        for sizes in [&[0][..], &[10], &[PIECE_BYTES / 3; 10], &[5, 3 * PIECE_BYTES, 7, PIECE_BYTES - 1, 2]] {
            let mut pieces = Pieces::with_capacity(100);
            let mut expected = Vec::new();
            for (at, &size) in sizes.iter().enumerate() {
                let part = vec![at as u8; size];
                expected.extend_from_slice(&part);
                pieces.room(size).extend_from_slice(&part);
            }
            let body = Body::from(pieces);
            assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), expected);
        }
    }

    #[test]
    fn no_piece_is_larger_than_it_has_to_be() {
        let mut pieces = Pieces::with_capacity(0);
        for _ in 0..1000 {
            pieces.room(PIECE_BYTES / 5 * 3).extend_from_slice(&[0; PIECE_BYTES / 5 * 3]);
        }
        pieces.close();
        assert_eq!(pieces.done.len(), 1000);
        let mut small = Pieces::with_capacity(0);
        for _ in 0..1000 {
            small.room(1000).extend_from_slice(&[0; 1000]);
        }
        small.close();
        assert!(small.done.iter().all(|piece| piece.len() <= PIECE_BYTES));
        assert!(small.done.len() <= 1_000_000 / (PIECE_BYTES - 1000) + 1);
    }
}
