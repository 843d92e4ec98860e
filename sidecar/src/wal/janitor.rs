//! Makes segments ahead of their use and removes those no longer needed, off the writer's thread.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use raftkv_runtime::failpoint;

use super::WalError;
use super::segment::{self, Segment};

/// The writer's end: asks for work. The janitor's thread ends when this is dropped.
pub(super) struct Janitor {
    work: Sender<Work>,
    prepared: Receiver<Result<File, WalError>>,
    asked: bool,
    dir: PathBuf,
    segment_bytes: u64,
}

enum Work {
    Prepare,
    Remove(Vec<Arc<Segment>>),
}

impl Janitor {
    /// Starts the thread.
    pub(super) fn start(dir: PathBuf, segment_bytes: u64) -> Result<(Self, JoinHandle<()>), WalError> {
        // Unbounded, but the writer sends at most two messages a segment.
        let (work, orders) = channel();
        let (results, prepared) = channel();
        let thread = std::thread::Builder::new()
            .name("wal-janitor".into())
            .spawn({
                let dir = dir.clone();
                move || run(&dir, segment_bytes, &orders, &results)
            })
            .map_err(|error| WalError::io("start a thread for", &dir, error))?;
        let janitor = Self { work, prepared, asked: false, dir, segment_bytes };
        Ok((janitor, thread))
    }

    /// Has the next segment's file made in the background, once.
    pub(super) fn prepare(&mut self) {
        if !self.asked {
            self.asked = self.work.send(Work::Prepare).is_ok();
        }
    }

    /// The next segment's file: the one made ahead, or else made now.
    pub(super) fn prepared(&mut self) -> Result<File, WalError> {
        if std::mem::take(&mut self.asked)
            && let Ok(result) = self.prepared.recv()
        {
            return result;
        }
        segment::prepare(&self.dir, self.segment_bytes)
    }

    /// Removes segments, oldest first.
    pub(super) fn remove(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            // Its thread ends only after this end is dropped; segments left behind are removed at the next start.
            let _ = self.work.send(Work::Remove(segments));
        }
    }
}

fn run(dir: &Path, segment_bytes: u64, orders: &Receiver<Work>, results: &Sender<Result<File, WalError>>) {
    for order in orders {
        match order {
            Work::Prepare => {
                // Nobody listens once the writer has ended.
                let _ = results.send(segment::prepare(dir, segment_bytes));
            }
            Work::Remove(segments) => {
                if let Err(error) = remove(dir, &segments) {
                    tracing::warn!("could not remove purged log segments, the next start will: {error}");
                }
            }
        }
    }
}

/// Removes segments one after the other, each durably: a crash must never leave an older one without a newer one, which
/// would read as a hole.
pub(super) fn remove(dir: &Path, segments: &[Arc<Segment>]) -> Result<(), WalError> {
    for segment in segments {
        failpoint!("sidecar::wal::before_remove");
        std::fs::remove_file(&segment.path).map_err(|error| WalError::io("remove", &segment.path, error))?;
        failpoint!("sidecar::wal::after_remove");
        segment::sync_dir(dir)?;
    }
    Ok(())
}
