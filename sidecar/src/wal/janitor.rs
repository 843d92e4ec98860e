//! Makes segments ahead of their use and removes those no longer needed, off the writer's thread.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raftkv_runtime::failpoint;

use super::WalError;
use super::directory::LogDir;
use super::segment::{self, Segment};

/// A log that grows by no more than this a second gets segments whose zeros are written: there, what a frame's fsync costs beside
/// its bytes is what callers wait for. Above it bytes are what the disk is short of, and zeros would be as many again.
const MAX_WRITTEN_PER_SECOND: u64 = 8 * 1024 * 1024;

/// The writer's end: asks for work. The janitor's thread ends when this is dropped.
pub(super) struct Janitor {
    work: Sender<Work>,
    prepared: Receiver<Result<File, WalError>>,
    asked: bool,
    /// The writer waits for it: what is allocated has to do.
    wanted: Arc<AtomicBool>,
    /// What came of it, once it is known.
    ready: Option<Result<File, WalError>>,
    dir: LogDir,
    segment_bytes: u64,
}

enum Work {
    Prepare,
    Remove(Vec<Arc<Segment>>),
}

impl Janitor {
    /// Starts the thread.
    pub(super) fn start(dir: LogDir, segment_bytes: u64) -> Result<(Self, JoinHandle<()>), WalError> {
        // Unbounded, but the writer sends at most two messages a segment.
        let (work, orders) = channel();
        let (results, prepared) = channel();
        let wanted = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("wal-janitor".into())
            .spawn({
                let (dir, wanted) = (dir.clone(), Arc::clone(&wanted));
                move || run(&dir, segment_bytes, &wanted, &orders, &results)
            })
            .map_err(|error| WalError::io("start a thread for", dir.path(), error))?;
        let janitor = Self { work, prepared, asked: false, wanted, ready: None, dir, segment_bytes };
        Ok((janitor, thread))
    }

    /// Has the next segment's file made in the background, once, if `may` says so.
    pub(super) fn prepare_if(&mut self, may: impl FnOnce() -> bool) {
        if !self.asked && may() {
            self.wanted.store(false, Ordering::Relaxed);
            self.asked = self.work.send(Work::Prepare).is_ok();
        }
    }

    /// Whether a file was asked for ahead: it takes no more room.
    pub(super) fn is_ready(&self) -> bool {
        self.asked
    }

    /// Takes note of what the thread has done.
    ///
    /// # Errors
    ///
    /// When the disk failed it, which is no different from failing a frame: not to be found out a segment later. That there was
    /// no space, or no file descriptor, is kept for [`prepared`](Self::prepared), when there may be some.
    pub(super) fn look(&mut self) -> Result<(), WalError> {
        if self.asked && self.ready.is_none() {
            match self.prepared.try_recv() {
                Ok(Err(error)) if !error.is_shortage() => return Err(error),
                result => self.ready = result.ok(),
            }
        }
        Ok(())
    }

    /// The next segment's file: the one made ahead, or else made now. On a disk so slow that its zeros are not all written yet, they
    /// are left out: frames do not wait for them.
    pub(super) fn prepared(&mut self) -> Result<File, WalError> {
        self.wanted.store(true, Ordering::Relaxed);
        if std::mem::take(&mut self.asked)
            && let Some(result) = self.ready.take().or_else(|| self.prepared.recv().ok())
        {
            match result {
                Err(error) if error.is_shortage() => {}
                result => return result,
            }
        }
        segment::prepare(self.dir.path(), self.segment_bytes, || false)
    }

    /// Removes segments, oldest first.
    pub(super) fn remove(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            // Its thread ends only after this end is dropped; segments left behind are removed at the next start.
            let _ = self.work.send(Work::Remove(segments));
        }
    }
}

fn run(
    dir: &LogDir,
    segment_bytes: u64,
    wanted: &AtomicBool,
    orders: &Receiver<Work>,
    results: &Sender<Result<File, WalError>>,
) {
    let mut last = None;
    for order in orders {
        match order {
            Work::Prepare => {
                let with_zeros = is_slow(segment_bytes, last.replace(Instant::now()).map(|last| last.elapsed()));
                let goes_on = || with_zeros && !wanted.load(Ordering::Relaxed);
                // Nobody listens once the writer has ended.
                let _ = results.send(segment::prepare(dir.path(), segment_bytes, goes_on));
            }
            Work::Remove(segments) => {
                if let Err(error) = remove(dir, &segments) {
                    tracing::warn!("could not remove purged log segments, the next start will: {error}");
                }
            }
        }
    }
}

/// Whether a log that has grown by `bytes` in `since` grows slowly enough for zeros; `None` = that is not known yet.
fn is_slow(bytes: u64, since: Option<Duration>) -> bool {
    since.is_none_or(|since| bytes as f64 <= MAX_WRITTEN_PER_SECOND as f64 * since.as_secs_f64())
}

/// Removes segments one after the other, each durably: a crash must never leave an older one without a newer one, which
/// would read as a hole.
pub(super) fn remove(dir: &LogDir, segments: &[Arc<Segment>]) -> Result<(), WalError> {
    for segment in segments {
        failpoint!("sidecar::wal::before_remove");
        std::fs::remove_file(&segment.path).map_err(|error| WalError::io("remove", &segment.path, error))?;
        failpoint!("sidecar::wal::after_remove");
        dir.sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grows_fast_is_not_written_twice() {
        let second = Duration::from_secs(1);
        assert!(is_slow(MAX_WRITTEN_PER_SECOND, None));
        assert!(is_slow(MAX_WRITTEN_PER_SECOND, Some(second)));
        assert!(!is_slow(MAX_WRITTEN_PER_SECOND, Some(second / 2)));
        assert!(!is_slow(2 * MAX_WRITTEN_PER_SECOND, Some(second)));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_disk_that_fails_ahead_of_time_is_found_out_before_the_segment_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let gone = LogDir::open(dir.path()).unwrap();
        drop(dir);
        let (mut janitor, thread) = Janitor::start(gone, 4096).unwrap();
        assert!(janitor.look().is_ok());
        janitor.prepare_if(|| true);
        let deadline = Instant::now() + Duration::from_secs(10);
        let error = loop {
            match janitor.look() {
                Err(error) => break error,
                Ok(()) => assert!(Instant::now() < deadline, "nothing is told"),
            }
            std::thread::yield_now();
        };
        assert!(matches!(error, WalError::Io { action: "create", .. }), "{error}");
        drop(janitor);
        thread.join().unwrap();
    }
}
