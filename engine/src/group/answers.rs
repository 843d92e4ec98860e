//! [`Answers`]: a queue of answers not yet read by the client. The sender can drop the answers of a client not reading.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use tokio::sync::Notify;

/// The sending end of a queue of answers. The sender must bound the number of unread answers.
///
/// Dropping the sending end ends the stream after all answers have been read.
pub(super) struct Answers<T>(Arc<Shared<T>>);

/// The receiving end.
pub(super) struct AnswerStream<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// An answer was taken, or the reader is gone.
    taken: Notify,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    /// No more answers will follow.
    is_complete: bool,
    /// The reader is gone.
    is_closed: bool,
    reader: Option<Waker>,
}

/// Makes the two ends of a queue of answers.
pub(super) fn answers<T>() -> (Answers<T>, AnswerStream<T>) {
    let queue = Queue { waiting: VecDeque::new(), is_complete: false, is_closed: false, reader: None };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), taken: Notify::new() });
    (Answers(Arc::clone(&shared)), AnswerStream(shared))
}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Answers<T> {
    pub(super) fn push(&self, answer: T) {
        let mut queue = self.0.queue();
        queue.waiting.push_back(answer);
        let reader = queue.reader.take();
        drop(queue);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Number of unread answers.
    pub(super) fn waiting(&self) -> usize {
        self.0.queue().waiting.len()
    }

    /// Whether the reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.queue().is_closed
    }

    /// Completes after an answer was taken, and after the end of the stream; for one waiter.
    pub(super) async fn taken(&self) {
        self.0.taken.notified().await;
    }

    /// Drops all unread answers and ends the stream.
    pub(super) fn take_back(self) {
        self.0.queue().waiting.clear();
    }
}

impl<T> Drop for Answers<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.is_complete = true;
        let reader = queue.reader.take();
        drop(queue);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl<T> Stream for AnswerStream<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut queue = self.0.queue();
        if let Some(answer) = queue.waiting.pop_front() {
            drop(queue);
            self.0.taken.notify_one();
            return Poll::Ready(Some(answer));
        }
        if queue.is_complete {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for AnswerStream<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.is_closed = true;
        queue.waiting.clear();
        drop(queue);
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt, poll};

    use super::*;

    #[tokio::test]
    async fn answers_come_in_order_and_end_with_their_maker() {
        let (answers, mut stream) = answers();
        assert!(poll!(stream.next()).is_pending());
        answers.push(1);
        answers.push(2);
        assert_eq!(answers.waiting(), 2);
        assert_eq!(stream.next().await, Some(1));
        answers.taken().now_or_never().expect("one was taken");
        assert!(answers.taken().now_or_never().is_none() && answers.waiting() == 1);
        drop(answers);
        assert_eq!((stream.next().await, stream.next().await), (Some(2), None));
    }

    #[tokio::test]
    async fn what_is_not_taken_is_taken_back_and_what_nobody_can_take_is_dropped() {
        let (answers, mut stream) = answers();
        let share = Arc::new(());
        answers.push(Arc::clone(&share));
        answers.take_back();
        assert_eq!((Arc::strong_count(&share), stream.next().await), (1, None));

        let (answers, stream) = super::answers();
        answers.push(Arc::clone(&share));
        drop(stream);
        answers.taken().now_or_never().expect("it is told");
        assert!(answers.is_closed() && Arc::strong_count(&share) == 1);
    }
}
