//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

use anyhow::anyhow;

/// How long [`eventually`] waits: many times what a healthy cluster needs, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is a success; after a minute, fails with the last reason why not.
pub async fn eventually<T, F>(what: &str, check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    eventually_within(PATIENCE, what, check).await
}

/// As [`eventually`], with a deadline of its own.
pub async fn eventually_within<T, F>(patience: Duration, what: &str, mut check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    loop {
        let why_not = match check().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if start.elapsed() > patience {
            return Err(anyhow!("after {:.1?} still not: {what}: {why_not:#}", start.elapsed()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
