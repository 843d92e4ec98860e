//! Waits for a condition, with a timeout.

use std::time::{Duration, Instant};

use anyhow::anyhow;

/// Timeout of [`eventually`]: many times the need of a healthy cluster, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between checks.
const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `check` until success; after a minute, fails with the last error.
pub async fn eventually<T, F>(what: &str, check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    eventually_within(PATIENCE, what, check).await
}

/// As [`eventually`], with a given timeout.
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
            return Err(anyhow!("timeout after {:.1?}: {what}: {why_not:#}", start.elapsed()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
