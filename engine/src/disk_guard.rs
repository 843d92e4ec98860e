//! [`DiskGuard`]: refuses values before the disk is full.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raftkv_backend::BackendError;
use raftkv_kv::{Command, Op};
use raftkv_runtime::disk::{DiskPlan, Space};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_store::{Reclaimed, Store, StoreError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Poll interval of the free space. Near the reserve, bytes accepted between polls are counted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Writes are accepted again when the reserve plus this fraction of the reserve is free. The hysteresis prevents a
/// change of state with each write.
const HYSTERESIS_DIVISOR: u64 = 4;
/// Below this multiple of the reserve, accepted bytes are counted per write.
const NEAR_RESERVES: u64 = 4;
/// Accepted bytes are also counted below the reserve plus this size, for small reserves: more than a node accepts
/// between two polls.
const NEAR_BYTES: u64 = 256 * 1024 * 1024;
/// Number of times an accepted value is written before the next poll: to the log and to a table.
const WRITTEN_TIMES: u64 = 2;
/// Space of removed values is reclaimed until the free space reaches this multiple of the reserve.
const RELIEVED_RESERVES: u64 = 4;
/// Minimum pause between two attempts to reclaim space.
const RECLAIM_PAUSE: Duration = Duration::from_millis(200);
/// Minimum pause as a multiple of the duration of the attempt, to leave most of the disk's time to clients.
const RECLAIM_PAUSES: u32 = 3;
/// Each attempt without effect doubles the pause until values are removed; maximum number of doublings.
const MOST_FRUITLESS: u32 = 6;

/// The effective reserve: the configured reserve, or the default for a disk of this size.
pub fn effective_reserve(configured: Option<u64>, total_bytes: u64) -> u64 {
    configured.unwrap_or_else(|| DiskPlan::for_disk(total_bytes).reserve)
}

/// Decides whether the disk counts as nearly full, given the previous state.
fn nearly_full(before: bool, free_bytes: u64, reserve_bytes: u64) -> bool {
    let enough = if before { reserve_bytes.saturating_add(reserve_bytes / HYSTERESIS_DIVISOR) } else { reserve_bytes };
    free_bytes < enough
}

/// Monitors the reserve on the file system of the data directory. Cloning shares the state.
///
/// Data in memory and not yet in a table counts as written. The guard refuses writes of this node's clients. Entries
/// proposed by other nodes are still applied here, into the reserve; once the reserve is used up, the store and the log
/// wait for space.
#[derive(Debug, Clone)]
pub struct DiskGuard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    total_bytes: u64,
    reserve_bytes: u64,
    /// Free bytes at the last poll, minus the bytes in memory only.
    room_bytes: AtomicU64,
    /// Bytes accepted since the last poll, as far as counted.
    taken_bytes: AtomicU64,
    /// Whether accepted bytes must be counted.
    is_near: AtomicBool,
    nearly_full: AtomicBool,
}

impl DiskGuard {
    /// Checks the file system of `dir`, which must exist.
    ///
    /// # Errors
    /// The operating system does not report the free space.
    pub fn new(dir: impl Into<PathBuf>, configured_reserve: Option<u64>) -> std::io::Result<Self> {
        let dir = dir.into();
        let space = Space::of(&dir)?;
        let shared = Shared {
            dir,
            total_bytes: space.total_bytes,
            reserve_bytes: effective_reserve(configured_reserve, space.total_bytes),
            room_bytes: AtomicU64::new(space.free_bytes),
            taken_bytes: AtomicU64::new(0),
            is_near: AtomicBool::new(false),
            nearly_full: AtomicBool::new(false),
        };
        let guard = Self { shared: Arc::new(shared) };
        guard.observe(Look { free_bytes: space.free_bytes, unflushed_bytes: 0, store_waits: false }, 0);
        Ok(guard)
    }

    /// Polls ten times per second until `stop`. While the disk is nearly full and values are removed, also makes the
    /// store reclaim the space of removed values.
    pub fn watch(&self, store: Store, stop: Shutdown) -> JoinHandle<()> {
        let guard = self.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(POLL_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut failing = false;
            let (of_reclaimer, until) = (store.clone(), stop.clone());
            let mut reclaimer = Reclaimer {
                guard: guard.clone(),
                store: of_reclaimer,
                stop: until,
                running: None,
                next: None,
                unless_removed: None,
                fruitless: 0,
                seen: None,
                is_unfinished: false,
                is_wanted: false,
            };
            loop {
                tokio::select! {
                    () = stop.wait() => break,
                    _ = tick.tick() => {}
                }
                let (dir, store) = (guard.shared.dir.clone(), store.clone());
                let taken = guard.shared.taken_bytes.load(Ordering::Relaxed);
                // A network file system may be slow.
                let look = tokio::task::spawn_blocking(move || {
                    Space::of(&dir).map(|space| Look {
                        free_bytes: space.free_bytes,
                        unflushed_bytes: store.unflushed_bytes(),
                        store_waits: store.lacks_room(),
                    })
                });
                match look.await {
                    Ok(Ok(look)) => {
                        failing = false;
                        guard.observe(look, taken);
                        reclaimer.look().await;
                    }
                    Ok(Err(error)) if !failing => {
                        failing = true;
                        tracing::warn!(dir = %guard.shared.dir.display(), "look at the free space of the disk: {error}");
                    }
                    Ok(Err(_)) => {}
                    // The runtime is shutting down.
                    Err(_) => break,
                }
            }
            if let Some((_, running)) = reclaimer.running.take() {
                // The running attempt checks `stop` before each step.
                let _ = running.await;
            }
        })
    }

    /// Refuses writes if too little space is left; deletes always pass.
    pub fn check(&self, ops: &[Op]) -> Result<(), BackendError> {
        let bytes = |op: &Op| match &op.command {
            Command::Set { key, value, .. } => key.as_bytes().len() + value.as_msgpack().len(),
            _ => 0,
        };
        self.admit(|| ops.iter().map(bytes).sum())
    }

    /// Refuses a write of this size if too little space is left. The size is computed only near the reserve, and a size
    /// of zero always passes.
    pub fn admit(&self, bytes: impl FnOnce() -> usize) -> Result<(), BackendError> {
        let shared = &*self.shared;
        if !shared.is_near.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = (bytes() as u64).saturating_mul(WRITTEN_TIMES);
        if bytes == 0 {
            return Ok(());
        }
        let room = shared.room_bytes.load(Ordering::Relaxed);
        let taken = shared.taken_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if !self.is_nearly_full() && room.saturating_sub(taken) >= shared.reserve_bytes {
            return Ok(());
        }
        shared.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
        metrics::counter!("raftkv_engine_writes_refused_disk_full_total").increment(1);
        let reserve = shared.reserve_bytes;
        let how_full = format!(
            "the disk is nearly full: {room} bytes are free beside what is in memory, {reserve} are kept in reserve. Values are \
             taken again once there is room; deletes work"
        );
        Err(BackendError::DiskFull(how_full))
    }

    /// Whether values are currently refused.
    pub fn is_nearly_full(&self) -> bool {
        self.shared.nearly_full.load(Ordering::Relaxed)
    }

    /// Whether the free space is below [`RELIEVED_RESERVES`] reserves.
    fn is_near_reserve(&self) -> bool {
        let Shared { reserve_bytes, room_bytes, .. } = &*self.shared;
        self.is_nearly_full() || room_bytes.load(Ordering::Relaxed) < reserve_bytes.saturating_mul(RELIEVED_RESERVES)
    }

    /// The effective reserve.
    pub fn reserve_bytes(&self) -> u64 {
        self.shared.reserve_bytes
    }

    /// Total size of the file system.
    pub fn total_bytes(&self) -> u64 {
        self.shared.total_bytes
    }

    /// Records a poll; `taken_before` is the count of accepted bytes at the start of the poll.
    fn observe(&self, look: Look, taken_before: u64) {
        let Look { free_bytes, unflushed_bytes, store_waits } = look;
        let shared = &*self.shared;
        let reserve_bytes = shared.reserve_bytes;
        let room = if store_waits { 0 } else { free_bytes.saturating_sub(unflushed_bytes) };
        shared.room_bytes.store(room, Ordering::Relaxed);
        shared.taken_bytes.fetch_sub(taken_before, Ordering::Relaxed);
        let near = reserve_bytes.saturating_mul(NEAR_RESERVES).max(reserve_bytes.saturating_add(NEAR_BYTES));
        shared.is_near.store(store_waits || (reserve_bytes > 0 && room < near), Ordering::Relaxed);
        let before = self.is_nearly_full();
        let now = store_waits || nearly_full(before, room, reserve_bytes);
        shared.nearly_full.store(now, Ordering::Relaxed);
        metrics::gauge!("raftkv_engine_disk_free_bytes").set(free_bytes as f64);
        metrics::gauge!("raftkv_engine_unflushed_bytes").set(unflushed_bytes as f64);
        metrics::gauge!("raftkv_engine_disk_nearly_full").set(f64::from(u8::from(now)));
        match (before, now) {
            (false, true) => {
                tracing::warn!(
                    free_bytes,
                    unflushed_bytes,
                    reserve_bytes,
                    store_waits,
                    "disk nearly full: values are refused, deletes still work"
                );
            }
            (true, false) => tracing::info!(free_bytes, reserve_bytes, "disk has room again: values are taken"),
            _ => {}
        }
    }
}

/// Result of a poll.
#[derive(Debug, Clone, Copy)]
struct Look {
    free_bytes: u64,
    /// Bytes in memory only.
    unflushed_bytes: u64,
    /// The store lacks space for pending writes: no space is left for values, regardless of the reserve.
    store_waits: bool,
}

/// Makes the store reclaim the space of removed values, one attempt at a time.
struct Reclaimer {
    guard: DiskGuard,
    store: Store,
    stop: Shutdown,
    running: Option<(Instant, JoinHandle<Result<Reclaimed, StoreError>>)>,
    /// Earliest start of the next attempt.
    next: Option<Instant>,
    /// Earliest start of the next attempt while no values were removed.
    unless_removed: Option<Instant>,
    fruitless: u32,
    /// State at the start of the last attempt: revision and number of keys.
    seen: Option<(u64, u64)>,
    is_unfinished: bool,
    /// Set when the disk becomes nearly full, cleared once the free space is well above the reserve.
    is_wanted: bool,
}

impl Reclaimer {
    async fn look(&mut self) {
        if let Some((begin, running)) = self.running.take_if(|(_, running)| running.is_finished()) {
            let pause = RECLAIM_PAUSE.max(begin.elapsed() * RECLAIM_PAUSES);
            match running.await {
                Ok(Ok(Reclaimed { bytes, is_done })) => {
                    self.fruitless = if bytes > 0 { 0 } else { (self.fruitless + 1).min(MOST_FRUITLESS) };
                    self.is_unfinished = !is_done;
                    if bytes > 0 {
                        metrics::counter!("raftkv_engine_reclaimed_bytes_total").increment(bytes);
                        tracing::info!(bytes, is_done, took = ?begin.elapsed(), "reclaimed space of removed values");
                    }
                }
                Ok(Err(StoreError::Stopped)) | Err(_) => {}
                Ok(Err(error)) => {
                    // Retry even without a change of state.
                    self.is_unfinished = true;
                    tracing::debug!("reclaim the space of removed values: {error}");
                }
            }
            self.next = Some(Instant::now() + pause);
            self.unless_removed = Some(Instant::now() + pause * 2_u32.pow(self.fruitless));
        }
        let state = (self.store.revision(), self.store.keys());
        let is_removed = self.seen.is_some_and(|(_, keys)| state.1 < keys);
        let is_over = |pause: Option<Instant>| pause.is_none_or(|until| Instant::now() >= until);
        let is_due = is_over(self.next) && (is_removed || is_over(self.unless_removed));
        self.is_wanted = self.guard.is_nearly_full() || (self.is_wanted && self.guard.is_near_reserve());
        if !self.is_wanted {
            (self.seen, self.unless_removed, self.fruitless) = (None, None, 0);
        }
        if !self.is_wanted || self.running.is_some() || !is_due || (self.seen == Some(state) && !self.is_unfinished) {
            return;
        }
        self.seen = Some(state);
        let (guard, store, stop) = (self.guard.clone(), self.store.clone(), self.stop.clone());
        let work =
            tokio::task::spawn_blocking(move || store.reclaim(|| guard.is_near_reserve() && !stop.is_triggered()));
        self.running = Some((Instant::now(), work));
    }
}

#[cfg(test)]
mod tests {
    use raftkv_kv::Key;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn look(free_bytes: u64, unflushed_bytes: u64) -> Look {
        Look { free_bytes, unflushed_bytes, store_waits: false }
    }

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
    fn what_is_configured_is_kept_and_else_what_the_plan_says() {
        assert_eq!(effective_reserve(None, 200 * MIB), DiskPlan::for_disk(200 * MIB).reserve);
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
        // No disk has this size: nearly full from the start.
        let guard = DiskGuard::new(dir.path(), Some(u64::MAX)).expect("space is known");
        let key = Key::from_stored("k");
        let value = raftkv_kv::Value::text("v", &raftkv_kv::Limits::default()).expect("small");
        let set = Op::from(Command::Set { key: key.clone(), value, expires_at_ms: 0 });
        let delete = Op::from(Command::Delete { key });

        assert!(matches!(guard.check(&[delete.clone(), set.clone()]), Err(BackendError::DiskFull(_))));
        assert_eq!(guard.check(&[delete]), Ok(()));
        guard.observe(look(u64::MAX, 0), 0);
        assert_eq!(guard.check(&[set]), Ok(()));
    }

    #[test]
    fn what_is_in_memory_and_what_was_taken_since_the_last_look_count_as_written() {
        let dir = tempfile::tempdir().expect("directory");
        let guard = DiskGuard::new(dir.path(), Some(100 * MIB)).expect("space is known");
        guard.observe(look(110 * MIB, 4 * MIB), 0);
        // Six MiB are left above the reserve, and each value is written twice.
        let admit = |mib: u64| guard.admit(|| (mib * MIB) as usize).is_ok();
        assert_eq!([admit(1), admit(2), admit(1), admit(0)], [true, true, false, true]);
        // This poll sees the accepted values on the disk.
        guard.observe(look(104 * MIB, 0), 6 * MIB);
        assert_eq!([admit(3), admit(2), admit(1)], [false, true, false]);
        guard.observe(look(110 * MIB, 11 * MIB), 4 * MIB);
        assert!(guard.is_nearly_full() && !admit(1));
    }

    #[test]
    fn a_store_that_waits_for_room_takes_no_values_whatever_the_reserve() {
        let dir = tempfile::tempdir().expect("directory");
        let guard = DiskGuard::new(dir.path(), Some(0)).expect("space is known");
        guard.observe(Look { store_waits: true, ..look(u64::MAX, 0) }, 0);
        assert!(guard.is_nearly_full() && guard.admit(|| 1).is_err() && guard.admit(|| 0).is_ok());
        guard.observe(look(0, 0), 0);
        assert!(!guard.is_nearly_full() && guard.admit(|| 1).is_ok());
    }
}
