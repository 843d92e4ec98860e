//! [`Names`]: directory changes not yet made durable by an fsync.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ffi::OsString;

use rand::RngExt;
use rand::rngs::StdRng;

/// Inode number of a file, directory or socket.
pub(super) type Ino = u64;

/// A directory entry before and after a change.
#[derive(Debug, Clone)]
pub(super) struct Renamed {
    pub(super) dir: Ino,
    pub(super) name: OsString,
    pub(super) before: Option<Ino>,
    pub(super) after: Option<Ino>,
}

/// A call that changed names. Survives completely or not at all: a rename changes two entries.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub(super) number: u64,
    pub(super) entries: Vec<Renamed>,
}

/// Condition for a durable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamePromise {
    /// Only an fsync of the name's directory: the guarantee of POSIX.
    Directory,
    /// Any fsync makes all names at the start of the call durable, like the single journal of ext4 and XFS.
    Journal,
}

/// The changes not yet durable, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(VecDeque<NameChange>);

impl Names {
    pub(super) fn push(&mut self, change: NameChange) {
        self.0.push_back(change);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Removes and returns the changes made durable by an fsync of `dir` that began after change `upto`: changes of
    /// `dir`, and the changes of other directories on which they depend.
    pub(super) fn sync(&mut self, dir: Ino, upto: u64) -> Vec<NameChange> {
        let mut dirs = HashSet::from([dir]);
        let mut taken = BTreeSet::new();
        for change in self.0.iter().rev().filter(|change| change.number <= upto) {
            if change.entries.iter().any(|entry| dirs.contains(&entry.dir)) {
                dirs.extend(change.entries.iter().map(|entry| entry.dir));
                taken.insert(change.number);
            }
        }
        self.take(|change| taken.contains(&change.number))
    }

    /// Removes and returns all changes up to `upto`.
    pub(super) fn sync_all(&mut self, upto: u64) -> Vec<NameChange> {
        self.take(|change| change.number <= upto)
    }

    /// Returns the changes that survive a power loss, and discards the rest. With a journal, a prefix of the changes
    /// survives; otherwise any changes, except that a later change of an entry never survives without the earlier.
    pub(super) fn tear(&mut self, promise: NamePromise, rng: &mut StdRng) -> Vec<NameChange> {
        let mut lost: HashSet<(Ino, OsString)> = HashSet::new();
        let keep = rng.random_range(0.0..=1.0);
        let prefix = rng.random_range(0..=self.0.len());
        let mut position = 0;
        let survivors = self.take(|change| {
            position += 1;
            let survives = match promise {
                NamePromise::Journal => position <= prefix,
                NamePromise::Directory => {
                    rng.random_bool(keep)
                        && !change.entries.iter().any(|entry| lost.contains(&(entry.dir, entry.name.clone())))
                }
            };
            if !survives {
                lost.extend(change.entries.iter().map(|entry| (entry.dir, entry.name.clone())));
            }
            survives
        });
        self.0.clear();
        survivors
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn take(&mut self, mut wanted: impl FnMut(&NameChange) -> bool) -> Vec<NameChange> {
        let mut taken = Vec::new();
        for change in std::mem::take(&mut self.0) {
            if wanted(&change) {
                taken.push(change);
            } else {
                self.0.push_back(change);
            }
        }
        taken
    }
}
