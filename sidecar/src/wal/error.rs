//! What can go wrong with the log, named by what the operator does next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the log cannot be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// Something that was durable is not what was written. Nothing of this log is served.
    #[error(
        "the log is damaged: {}, byte {offset}: {what}. This is not a write cut short by a crash: entries that were \
         acknowledged may be lost. Keep this node stopped, wipe its data directory (or move it away) and start it \
         again: it rejoins empty and gets the data from the other members",
        file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a newer release.
    #[error("{}: log format version {found} is not known to this release (it knows {known}): run the release that wrote it", file.display())]
    UnsupportedVersion {
        /// The file.
        file: PathBuf,
        /// The version found.
        found: u32,
        /// The version this release reads and writes.
        known: u32,
    },
    /// Another process has the log open.
    #[error("{} is in use by another process: two processes must never share a log", file.display())]
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// The operating system refused an operation.
    #[error("could not {action} {}: {source}", file.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// An earlier write or fsync failed: what is on disk is not known any more, so nothing more is written.
    #[error("the log takes no more writes after a failure: {0}")]
    Poisoned(Arc<WalError>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The caller would leave a hole in the log or overwrite an entry.
    #[error("entry {found} does not follow: the log's next entry is {expected}")]
    NotConsecutive {
        /// The next index of the log.
        expected: u64,
        /// The index given.
        found: u64,
    },
    /// An entry that should be there is nowhere: a bug.
    #[error("entry {index} of the log is neither in memory nor on disk")]
    Missing {
        /// Its index.
        index: u64,
    },
    /// An entry too large for the format.
    #[error("an append of {bytes} bytes is more than the log takes at once ({limit})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl WalError {
    pub(super) fn io(action: &'static str, file: &Path, source: io::Error) -> Self {
        Self::Io { action, file: file.to_path_buf(), source: Arc::new(source) }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_path_buf(), offset, what: what.into() }
    }

    /// True when the disk had no space, or the process or the system no file descriptor, for what was to be made: nothing was begun,
    /// and there may be some later.
    pub(super) fn is_shortage(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        source.kind() == io::ErrorKind::StorageFull || is_descriptor_shortage(source)
    }

    /// True when what was short was a file descriptor.
    pub(super) fn is_descriptor_shortage(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_descriptor_shortage(source))
    }

    /// True when the log's files are not what was written to them.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// Neither says anything of the disk. Connections take descriptors, and give them back when they close.
fn is_descriptor_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Damaged { .. } | WalError::Missing { .. } => io::ErrorKind::InvalidData,
            WalError::UnsupportedVersion { .. } => io::ErrorKind::Unsupported,
            WalError::Locked { .. } => io::ErrorKind::ResourceBusy,
            WalError::Io { source, .. } => source.kind(),
            WalError::Poisoned(_) | WalError::Closed => io::ErrorKind::BrokenPipe,
            WalError::NotConsecutive { .. } | WalError::TooLarge { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
