//! Programs with planted bugs and failpoints, built by `scripts/planted.sh`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Directory of these programs; default: `planted` beside the directory of the others.
const PLANTED_BIN_DIR: &str = "RAFTKV_PLANTED_BIN_DIR";
/// Set to 1 to fail without these programs.
const REQUIRED: &str = "RAFTKV_REQUIRE_PLANTED";

/// Directory of these programs. Without any, prints a notice and returns `None`.
///
/// # Errors
///
/// If no programs are found and `RAFTKV_REQUIRE_PLANTED` is 1.
pub fn planted_programs() -> anyhow::Result<Option<PathBuf>> {
    let dir = match std::env::var_os(PLANTED_BIN_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let target = std::env::current_exe()?.ancestors().nth(3).map(Path::to_owned);
            target.context("this test executable is in no target directory")?.join("planted")
        }
    };
    if dir.join("raftkv-engine").is_file() && dir.join("raftkv-sidecar").is_file() {
        return Ok(Some(dir));
    }
    let missing =
        format!("no programs with planted bugs and failpoints in {}: scripts/planted.sh builds them", dir.display());
    ensure!(std::env::var(REQUIRED).map_or(true, |required| required != "1"), missing);
    println!("SKIPPED: {missing}. Set {REQUIRED}=1 to make this a failure.");
    Ok(None)
}
