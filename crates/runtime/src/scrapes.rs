//! [`Scrapes`]: metrics are rendered for all that ask at a time, and not once for each.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Between the beginnings of two renderings. To render takes a millisecond or two of a processor, which nothing interrupts: callers that
/// ask without end, on many connections, would leave no time to the rest of the process.
pub const LEAST_GAP: Duration = Duration::from_millis(20);

/// What `/metrics` answers: a text that was rendered after it was asked for, at most fifty times a second.
pub struct Scrapes {
    render: Box<dyn Fn() -> String + Send + Sync>,
    last: Mutex<Option<Scrape>>,
}

struct Scrape {
    begun: Instant,
    text: Bytes,
}

impl Scrapes {
    /// Answers what `render` makes.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { render: Box::new(render), last: Mutex::new(None) }
    }

    /// The metrics as they are now, or as they were at a moment since the call. Callers that wait for each other get the same text.
    pub async fn text(&self) -> Bytes {
        let asked = Instant::now();
        // Whoever asks while it is rendered for another waits here, in the order of asking.
        let mut last = self.last.lock().await;
        if let Some(scrape) = &*last {
            if scrape.begun >= asked {
                return scrape.text.clone();
            }
            tokio::time::sleep_until(scrape.begun + LEAST_GAP).await;
        }
        let begun = Instant::now();
        let text = Bytes::from((self.render)());
        *last = Some(Scrape { begun, text: text.clone() });
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counted() -> (Arc<AtomicU64>, Arc<Scrapes>) {
        let count = Arc::new(AtomicU64::new(0));
        let rendered = Arc::clone(&count);
        (count, Arc::new(Scrapes::new(move || rendered.fetch_add(1, Ordering::Relaxed).to_string())))
    }

    #[tokio::test]
    async fn nobody_gets_a_text_of_before_and_callers_without_end_have_it_rendered_fifty_times_a_second() {
        let (count, scrapes) = counted();
        let begun = Instant::now();
        let callers: Vec<_> = (0..300)
            .map(|_| {
                let (count, scrapes) = (Arc::clone(&count), Arc::clone(&scrapes));
                tokio::spawn(async move {
                    for _ in 0..10 {
                        let before = count.load(Ordering::Relaxed);
                        let text = scrapes.text().await;
                        let rendered = String::from_utf8_lossy(&text).parse::<u64>().expect("a number");
                        assert!(rendered >= before, "{rendered} was rendered before the call, {before} after it");
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        let most = begun.elapsed().as_nanos() / LEAST_GAP.as_nanos() + 1;
        let rendered = u128::from(count.load(Ordering::Relaxed));
        assert!((10..=most).contains(&rendered), "{rendered} renderings, {most} at most");
    }

    #[tokio::test]
    async fn who_asks_after_a_while_waits_for_nothing() {
        let (_, scrapes) = counted();
        assert_eq!(scrapes.text().await, "0");
        tokio::time::sleep(LEAST_GAP).await;
        let mut asked = std::pin::pin!(scrapes.text());
        assert_eq!(futures::poll!(&mut asked), std::task::Poll::Ready(Bytes::from("1")));
    }
}
