//! Why the store could not do what was asked.

use std::path::PathBuf;

/// Why opening or reading failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Stored bytes are damaged. Never served; the node's copy must be installed again.
    #[error("the stored data is damaged: {0}")]
    Corrupt(String),
    /// The operating system or the storage engine failed.
    #[error("storage: {0}")]
    Storage(#[source] fjall::Error),
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by another version, or by hand. Nothing was changed.
    #[error("{0}")]
    Unsupported(String),
    /// A snapshot was refused; the live state is untouched.
    #[error("snapshot refused: {0}")]
    SnapshotRefused(String),
    /// The store has stopped: the process is ending.
    #[error("the store has stopped")]
    Stopped,
}

/// Why entries were not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The request begins beyond the position: entries are missing. Nothing was applied.
    #[error("entry {got} cannot be applied: the next one is {expected}")]
    Gap {
        /// What was sent.
        got: u64,
        /// What is due.
        expected: u64,
    },
    /// Applying failed in a way that the other replicas do not share: the process is ending.
    #[error("applying failed and this process is ending: {0}")]
    Fatal(String),
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}
