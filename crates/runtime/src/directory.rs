//! Directories that a power loss does not take away, and that are their user's alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;

/// Makes a directory and those it is in, where they are missing, and their names durable.
///
/// An fsync of a file promises nothing about the names on the way to it: without this a node could find, after a power
/// loss, that everything it had made durable is in a directory that never was. Blocks on the disk.
///
/// # Errors
/// When a directory cannot be made or made durable. A parent that this process may not open is an error only where
/// something was made in it.
pub fn create_durable(dir: &Path) -> io::Result<()> {
    let existed = dir.is_dir();
    let parent = match dir.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if !existed {
        if !parent.is_dir() {
            create_durable(parent)?;
        }
        match fs::create_dir(dir) {
            // The node's other process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other.map_err(|error| told("make the directory", dir, &error))?,
        }
    }
    // Also of one that is there: whoever made it may have been killed before it came to this.
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|error| told("make durable what is in", parent, &error)),
    }
}

/// What this process makes from now on is its user's alone: directories 0700, files 0600. What is there keeps its modes. Call once, in
/// `main`, before anything is made.
pub fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Warns when others on this machine may look into `dir`, as into a data directory that was made by an earlier version. Blocks on the disk.
pub fn warn_of_access(dir: &Path) {
    if let Some(mode) = open_mode(dir) {
        let path = dir.display();
        tracing::warn!(
            "the data directory {path} has mode {mode:04o}, so others on this machine can read the data: chmod go= {path}"
        );
    }
}

/// The mode of a directory into which others than its user and its group may look.
fn open_mode(dir: &Path) -> Option<u32> {
    let mode = fs::metadata(dir).ok()?.permissions().mode() & 0o7777;
    (mode & 0o007 != 0).then_some(mode)
}

/// The same kind of error, with the deed and the path: the system's own words name neither.
fn told(deed: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{deed} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_look_into_is_told_of() {
        let root = tempfile::tempdir().expect("directory");
        for (mode, told) in [(0o700, None), (0o750, None), (0o755, Some(0o755)), (0o701, Some(0o701))] {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(open_mode(root.path()), told, "{mode:o}");
        }
        assert_eq!(open_mode(&root.path().join("none")), None);
    }

    #[test]
    fn directories_are_made_on_the_way_and_again_is_fine() {
        let root = tempfile::tempdir().expect("directory");
        let dir = root.path().join("a/b/c");
        create_durable(&dir).expect("made");
        create_durable(&dir).expect("there already");
        assert!(dir.is_dir());
        fs::write(root.path().join("file"), "").expect("file");
        let error = create_durable(&root.path().join("file/below")).expect_err("a file is in the way");
        let told = format!("make the directory {}: ", root.path().join("file").display());
        assert!(error.kind() == io::ErrorKind::AlreadyExists && error.to_string().starts_with(&told), "{error}");
        assert!(create_durable(&root.path().join("file")).is_err());
    }
}
