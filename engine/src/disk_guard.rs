//! [`DiskGuard`]: stops taking values before the disk is full.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raftkv_api::BackendError;
use raftkv_kv::{Command, Op};
use raftkv_runtime::shutdown::Shutdown;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often the free space is looked at. With the default reserve a disk would have to fill at half a gigabyte a
/// second to be full before it is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The reserve when none is configured: room for compactions and the log to go on while somebody makes space.
pub const DEFAULT_RESERVE_BYTES: u64 = 512 * 1024 * 1024;
/// On small file systems the default reserve is this part of them, so that a small test volume is of use.
const SMALL_DISK_DIVISOR: u64 = 20;
/// Writes are taken again when the reserve and this part of it are free: not at the very limit, where each write
/// would change the answer.
const HYSTERESIS_DIVISOR: u64 = 4;

/// The reserve that is really kept: as configured, or else the default, less on a small file system.
pub fn effective_reserve(configured: Option<u64>, total_bytes: u64) -> u64 {
    configured.unwrap_or_else(|| DEFAULT_RESERVE_BYTES.min(total_bytes / SMALL_DISK_DIVISOR))
}

/// The decision: whether the disk counts as nearly full, given whether it did before.
fn nearly_full(before: bool, free_bytes: u64, reserve_bytes: u64) -> bool {
    let enough = if before { reserve_bytes.saturating_add(reserve_bytes / HYSTERESIS_DIVISOR) } else { reserve_bytes };
    free_bytes < enough
}

/// Knows whether the file system of the data directory has its reserve left. Cloning shares the knowledge.
///
/// It guards this node's disk only: entries that other nodes propose are applied here all the same, which is what the
/// reserve is for.
#[derive(Debug, Clone)]
pub struct DiskGuard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    nearly_full: AtomicBool,
}

impl DiskGuard {
    /// Looks at the file system of `dir`, which must exist.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn new(dir: impl Into<PathBuf>, configured_reserve: Option<u64>) -> std::io::Result<Self> {
        let dir = dir.into();
        let space = Space::of(&dir)?;
        let reserve_bytes = effective_reserve(configured_reserve, space.total_bytes);
        let shared = Shared {
            dir,
            reserve_bytes,
            free_bytes: AtomicU64::new(space.free_bytes),
            nearly_full: AtomicBool::new(false),
        };
        let guard = Self { shared: Arc::new(shared) };
        guard.observe(space.free_bytes);
        Ok(guard)
    }

    /// Looks again every second until `stop`.
    pub fn watch(&self, stop: Shutdown) -> JoinHandle<()> {
        let guard = self.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(POLL_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut failing = false;
            loop {
                tokio::select! {
                    () = stop.wait() => return,
                    _ = tick.tick() => {}
                }
                let dir = guard.shared.dir.clone();
                // A network file system may take its time.
                match tokio::task::spawn_blocking(move || Space::of(&dir)).await {
                    Ok(Ok(space)) => {
                        failing = false;
                        guard.observe(space.free_bytes);
                    }
                    Ok(Err(error)) if !failing => {
                        failing = true;
                        tracing::warn!(dir = %guard.shared.dir.display(), "look at the free space of the disk: {error}");
                    }
                    Ok(Err(_)) => {}
                    // The runtime is going away.
                    Err(_) => return,
                }
            }
        })
    }

    /// Refuses operations that need space when there is too little; deletes always pass.
    pub fn check(&self, ops: &[Op]) -> Result<(), BackendError> {
        self.admit(|| ops.iter().any(|op| matches!(op.command, Command::Set { .. })))
    }

    /// Refuses what `takes_space`, which is asked only when there is too little.
    pub fn admit(&self, takes_space: impl FnOnce() -> bool) -> Result<(), BackendError> {
        if !self.is_nearly_full() || !takes_space() {
            return Ok(());
        }
        metrics::counter!("raftkv_engine_writes_refused_disk_full_total").increment(1);
        let (free, reserve) = (self.shared.free_bytes.load(Ordering::Relaxed), self.shared.reserve_bytes);
        let how_full = format!("the disk is nearly full: {free} bytes free, {reserve} kept in reserve");
        Err(BackendError::DiskFull(how_full))
    }

    /// Whether values are refused now.
    pub fn is_nearly_full(&self) -> bool {
        self.shared.nearly_full.load(Ordering::Relaxed)
    }

    /// The reserve kept.
    pub fn reserve_bytes(&self) -> u64 {
        self.shared.reserve_bytes
    }

    fn observe(&self, free_bytes: u64) {
        let Shared { reserve_bytes, .. } = *self.shared;
        self.shared.free_bytes.store(free_bytes, Ordering::Relaxed);
        let before = self.is_nearly_full();
        let now = nearly_full(before, free_bytes, reserve_bytes);
        self.shared.nearly_full.store(now, Ordering::Relaxed);
        metrics::gauge!("raftkv_engine_disk_free_bytes").set(free_bytes as f64);
        metrics::gauge!("raftkv_engine_disk_nearly_full").set(f64::from(u8::from(now)));
        match (before, now) {
            (false, true) => {
                tracing::warn!(free_bytes, reserve_bytes, "disk nearly full: values are refused, deletes still work");
            }
            (true, false) => tracing::info!(free_bytes, reserve_bytes, "disk has room again: values are taken"),
            _ => {}
        }
    }
}

/// What a file system has.
#[derive(Debug, Clone, Copy)]
struct Space {
    /// For processes without privileges.
    free_bytes: u64,
    total_bytes: u64,
}

impl Space {
    fn of(dir: &std::path::Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Self {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

#[cfg(test)]
mod tests {
    use raftkv_kv::Key;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_limit_is_crossed_once_in_each_direction() {
        let reserve = 400 * MIB;
        let mut full = false;
        let mut seen = Vec::new();
        for free in [401, 400, 399, 401, 499, 500, 450, 401, 399, 0, 500] {
            full = nearly_full(full, free * MIB, reserve);
            seen.push(full);
        }
        assert_eq!(seen, [false, false, true, true, true, false, false, false, true, true, false]);
    }

    #[test]
    fn a_small_file_system_keeps_a_twentieth() {
        assert_eq!(effective_reserve(None, 1024 * 1024 * MIB), DEFAULT_RESERVE_BYTES);
        assert_eq!(effective_reserve(None, 200 * MIB), 10 * MIB);
        assert_eq!(effective_reserve(Some(300 * MIB), 200 * MIB), 300 * MIB, "as configured, whatever the disk");
        assert_eq!(effective_reserve(Some(0), 200 * MIB), 0);
    }

    #[test]
    fn without_a_reserve_the_disk_is_never_nearly_full() {
        assert!(!nearly_full(false, 0, 0) && !nearly_full(true, 0, 0));
    }

    #[test]
    fn values_are_refused_and_deletes_pass_until_there_is_room() {
        let dir = tempfile::tempdir().expect("directory");
        // No disk has this much: nearly full from the start.
        let guard = DiskGuard::new(dir.path(), Some(u64::MAX)).expect("space is known");
        let key = Key::from_stored("k");
        let value = raftkv_kv::Value::text("v", &raftkv_kv::Limits::default()).expect("small");
        let set = Op::from(Command::Set { key: key.clone(), value, expires_at_ms: 0 });
        let delete = Op::from(Command::Delete { key });

        assert!(matches!(guard.check(&[delete.clone(), set.clone()]), Err(BackendError::DiskFull(_))));
        assert_eq!(guard.check(&[delete]), Ok(()));
        guard.observe(u64::MAX);
        assert_eq!(guard.check(&[set]), Ok(()));
    }
}
