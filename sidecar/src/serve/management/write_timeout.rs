//! [`WriteTimeout`]: a stream whose other end has to take what is written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Fails with `TimedOut` once what was written has not been taken whole for `limit`. Counts from the first write that had to wait to the
/// next flush that need not: a reader that takes a byte now and then is as late as one that takes none.
pub(super) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// Exists while something waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, deadline: None }
    }

    fn or_late<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.or_late(poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.or_late(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        if poll.is_ready() {
            // The caller flushes when it has nothing left to write.
            self.deadline = None;
        }
        self.or_late(poll, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.or_late(poll, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_reader_that_takes_a_byte_now_and_then_is_late() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = WriteTimeout::new(near, LIMIT);
        let dripping = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(LIMIT / 10).await;
            }
        });
        let error = tokio::time::timeout(PATIENCE, stream.write_all(&[0; 100_000])).await.expect("an end");
        assert_eq!(error.expect_err("late").kind(), io::ErrorKind::TimedOut);
        drop(stream);
        tokio::time::timeout(PATIENCE, dripping).await.expect("the other end ends").expect("no panic");
    }

    #[tokio::test]
    async fn who_has_taken_all_has_the_whole_time_for_the_next() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = WriteTimeout::new(near, PATIENCE);
        let reading = tokio::spawn(async move { far.read_exact(&mut [0; 100]).await.map(|_| far) });
        stream.write_all(&[0; 60]).await.expect("there is room");
        assert!(stream.deadline.is_none());
        stream.write_all(&[0; 40]).await.expect("it is read");
        stream.flush().await.expect("flush");
        assert!(stream.deadline.is_none());
        drop(reading.await.expect("no panic").expect("read"));
    }
}
