//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Names the directory of the programs; without it, the one cargo put the test executable's profile in.
const BIN_DIR: &str = "RAFTKV_BIN_DIR";

/// The program `name`. An error, never a skip, when it is missing.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    binary_in(None, name)
}

/// As [`binary`], from a directory that the test names.
pub(crate) fn binary_in(dir: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let dir = match (dir, std::env::var_os(BIN_DIR)) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(dir)) => PathBuf::from(dir),
        // target/release/deps/TEST-HASH: the programs are one directory up.
        (None, None) => std::env::current_exe()
            .context("find this test executable")?
            .ancestors()
            .nth(2)
            .context("this test executable is in no target directory")?
            .to_owned(),
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --release --bins`, or set {BIN_DIR} to where it is",
            path.display()
        );
    }
    Ok(path)
}
