//! [`LogDir`]: the log's directory, open for as long as the log is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalError;

/// The directory of a log, with a handle that is opened once. Cheap to clone; clones share the handle.
///
/// A name in a directory is durable after an fsync of the directory. With the handle open that fsync needs no file descriptor: a process
/// that has none left because of its connections must not take that for a failed fsync.
#[derive(Debug, Clone)]
pub(super) struct LogDir {
    path: PathBuf,
    handle: Arc<File>,
}

impl LogDir {
    /// Opens the directory, which must exist.
    pub(super) fn open(path: &Path) -> Result<Self, WalError> {
        let handle = File::open(path).map_err(|error| WalError::io("open", path, error))?;
        Ok(Self { path: path.to_path_buf(), handle: Arc::new(handle) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes durable which names were made and removed.
    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.handle.sync_all().map_err(|error| WalError::io("fsync", &self.path, error))
    }
}
