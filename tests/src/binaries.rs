//! Paths of the programs under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Directory of the programs; default: the directory of the test executable's cargo profile.
const BIN_DIR: &str = "RAFTKV_BIN_DIR";

/// Path of the program `name`. A missing program is an error, never a reason to skip a test.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    binary_in(None, name)
}

/// As [`binary`], from a directory chosen by the test.
pub(crate) fn binary_in(dir: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let dir = match (dir, std::env::var_os(BIN_DIR)) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(dir)) => PathBuf::from(dir),
        // The test executable is target/release/deps/TEST-HASH: the programs are in the parent of its directory.
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
