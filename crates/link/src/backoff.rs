//! [`Backoff`]: exponential backoff with jitter.

use std::time::Duration;

/// Doubles the wait between two bounds; jitter shortens each wait by up to half, to prevent nodes from retrying in
/// step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// The wait starts at about `first` and doubles up to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// Returns the current wait and doubles the next.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.most);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Resets the backoff after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_again_after_success() {
        let first = Duration::from_millis(10);
        let most = Duration::from_millis(250);
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<Duration> = (0..10).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= first && waits[0] >= first / 2);
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits[9] >= most / 2);
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
