//! Why the store could not do what was asked.

use std::path::PathBuf;

use raftkv_runtime::exit;

/// Why opening or reading failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Stored bytes are damaged. Never served; the node's copy must be installed anew.
    #[error("the stored data is damaged: {0}")]
    Corrupt(String),
    /// Every byte is as it was written, and yet records do not go together. The other replicas may have the same, so nothing is put
    /// aside: that is for people to look into.
    #[error("the stored data contradicts itself, which is a bug: {0}")]
    Inconsistent(String),
    /// The operating system or the storage engine failed.
    #[error("the storage engine failed: {0}")]
    Storage(#[source] fjall::Error),
    /// A file could not be handled.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The disk has no room for what is to be written. Nothing was changed, and it can be tried again.
    #[error("{} has {free_bytes} bytes free, {needed_bytes} are needed", path.display())]
    NoSpace {
        /// On which file system.
        path: PathBuf,
        /// What was free.
        free_bytes: u64,
        /// With what the compaction that may follow can need.
        needed_bytes: u64,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Written by another version, or by hand. Nothing was changed.
    #[error("{0}")]
    Unsupported(String),
    /// A snapshot that may be whole but is not wanted: another format, an older state, an unknown token. The live
    /// state is untouched.
    #[error("snapshot refused: {0}")]
    SnapshotRefused(String),
    /// A snapshot that is not whole. The live state is untouched and nothing is left behind.
    #[error("snapshot damaged: {0}")]
    SnapshotDamaged(String),
    /// The group does not serve the key's slot.
    #[error("this group does not serve the key's slot")]
    WrongGroup,
    /// The store has stopped: the process is ending.
    #[error("the store has stopped")]
    Stopped,
}

/// Why entries were not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Entries are missing before this one. Nothing of the request was applied.
    #[error("entry {got} cannot be applied: the next one is {expected}")]
    Gap {
        /// What was sent.
        got: u64,
        /// What is due.
        expected: u64,
    },
    /// Applying failed in a way that the other replicas need not share: the process is ending.
    #[error("applying failed and this process is ending: {0}")]
    Fatal(String),
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}

/// Why the process must end: going on could lose data or let replicas differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// What the process should end with, see [`raftkv_runtime::exit`].
    pub exit_code: exit::ExitCode,
    /// Why.
    pub message: String,
}

impl Fatal {
    /// The disk failed us.
    pub(super) fn io(message: String) -> Self {
        Self { exit_code: exit::IO, message }
    }

    /// What is stored is damaged.
    pub(super) fn data(message: String) -> Self {
        Self { exit_code: exit::DATA, message }
    }

    /// Something that must not happen.
    pub(super) fn software(message: String) -> Self {
        Self { exit_code: exit::SOFTWARE, message }
    }
}
