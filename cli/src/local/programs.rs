//! [`Programs`]: where the executables are.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// File name of the storage engine.
pub(super) const ENGINE: &str = "raftkv-engine";
/// File name of the consensus process.
pub(super) const SIDECAR: &str = "raftkv-sidecar";
/// File name of the shard router.
pub(super) const ROUTER: &str = "raftkv-router";

/// The executables a node is made of, and our own.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) engine: PathBuf,
    pub(super) sidecar: PathBuf,
    /// Only where there are routers.
    pub(super) router: Option<PathBuf>,
    /// This program, which starts the others.
    pub(super) launcher: PathBuf,
}

impl Programs {
    /// In `bin_dir` when given; else beside this executable, else on `PATH`.
    pub(super) fn find(bin_dir: Option<&Path>, with_router: bool) -> Result<Self, Failure> {
        let launcher = std::env::current_exe().map_err(|error| Failure::io("find my own executable", &error))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> = match bin_dir {
            Some(dir) => vec![std::path::absolute(dir)?],
            None => launcher.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path)).collect(),
        };
        Ok(Self {
            engine: find_in(&directories, ENGINE)?,
            sidecar: find_in(&directories, SIDECAR)?,
            router: with_router.then(|| find_in(&directories, ROUTER)).transpose()?,
            launcher,
        })
    }
}

fn find_in(directories: &[PathBuf], name: &str) -> Result<PathBuf, Failure> {
    directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let first = directories.first().map(|directory| directory.display().to_string()).unwrap_or_default();
        Failure::unavailable(format!(
            "{name} not found (looked in {first} and {} more directories); build it or name its directory with --bin-dir",
            directories.len().saturating_sub(1),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_that_has_it_wins() {
        let (first, second) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let directories = [first.path().to_owned(), second.path().to_owned()];
        assert!(find_in(&directories, ENGINE).expect_err("nowhere").message.contains("--bin-dir"));
        std::fs::write(second.path().join(ENGINE), "").expect("write");
        assert_eq!(find_in(&directories, ENGINE).expect("second"), second.path().join(ENGINE));
        std::fs::write(first.path().join(ENGINE), "").expect("write");
        assert_eq!(find_in(&directories, ENGINE).expect("first"), first.path().join(ENGINE));
    }
}
