//! [`Disk`]: what a sidecar knows of the disk that its log and its engine are on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftkv_runtime::disk::{DiskPlan, Space};
use raftkv_runtime::shutdown::Shutdown;

use crate::engine::client::EngineClient;

/// How often the free space is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// Below this multiple of the reserve the engine is asked whether it takes values: it knows its reserve, and what is in memory.
const NEAR_RESERVES: u64 = 4;
/// An engine that does not answer by then takes none that anybody could wait for.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// As the engine, which leaves this part of the reserve that is planned for the disk to the state that is live, whatever is configured.
pub(crate) const SNAPSHOT_LEAST_DIVISOR: u64 = 8;
/// As the engine's guard: the disk has room again when the reserve and this part of it are free.
const LOW_UNTIL_DIVISOR: u64 = 4;

/// Cloning shares the knowledge.
#[derive(Debug, Clone)]
pub struct Disk {
    dir: PathBuf,
    /// Free bytes below which it counts as nearly full.
    pub reserve: u64,
    /// Free bytes below which no snapshot is received.
    pub snapshot_least_bytes: u64,
    /// What a segment of the log takes: nothing smaller gives space back.
    pub segment_bytes: u64,
    refuses_values: Arc<AtomicBool>,
}

impl Disk {
    /// The disk of a directory, divided as planned. A reserve that is configured counts.
    pub fn new(dir: PathBuf, plan: &DiskPlan, reserve: Option<u64>) -> Self {
        let reserve = reserve.unwrap_or(plan.reserve);
        let snapshot_least_bytes = plan.reserve / SNAPSHOT_LEAST_DIVISOR;
        let segment_bytes = plan.segment_bytes;
        Self { dir, reserve, snapshot_least_bytes, segment_bytes, refuses_values: Arc::default() }
    }

    /// Whether the engine of this node refuses values. A leader refuses those of other nodes, too: each would be written here.
    pub fn refuses_values(&self) -> bool {
        self.refuses_values.load(Ordering::Relaxed)
    }

    /// Whether so few bytes are free that the log is to be short.
    pub fn is_low(&self, free_bytes: u64) -> bool {
        free_bytes < self.reserve.saturating_add(self.reserve / LOW_UNTIL_DIVISOR)
    }

    /// Free bytes, where the operating system tells. A network file system may take its time.
    pub async fn free_bytes(&self) -> Option<u64> {
        let dir = self.dir.clone();
        let space = tokio::task::spawn_blocking(move || Space::of(&dir)).await.ok()?.ok()?;
        metrics::gauge!("raftkv_sidecar_disk_free_bytes").set(space.free_bytes as f64);
        Some(space.free_bytes)
    }

    /// Keeps the knowledge fresh until the shutdown.
    pub async fn watch(self, engine: EngineClient, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let is_near = self.free_bytes().await.is_some_and(|free| free < self.reserve.saturating_mul(NEAR_RESERVES));
            let refuses = if is_near || self.refuses_values() {
                let status = tokio::time::timeout(ASK_TIMEOUT, engine.status()).await;
                status.ok().and_then(Result::ok).is_some_and(|status| status.disk_nearly_full)
            } else {
                false
            };
            self.refuses_values.store(refuses, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_low_until_the_reserve_and_a_quarter_are_free() {
        let disk = Disk::new(PathBuf::new(), &DiskPlan::for_disk(0), Some(4_000));
        assert_eq!([4_999, 5_000].map(|free| disk.is_low(free)), [true, false]);
        let none = Disk::new(PathBuf::new(), &DiskPlan::for_disk(0), Some(0));
        assert!(!none.is_low(0), "a reserve of nothing is honoured");
    }
}
