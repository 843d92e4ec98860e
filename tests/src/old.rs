//! Programs of an older version, for upgrade tests: `make test-upgrade FROM=COMMIT` builds them.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::binaries::binary;

/// Directory of the older programs.
const OLD_BIN_DIR: &str = "RAFTKV_OLD_BIN_DIR";
/// Set to 1 to fail without older programs.
const REQUIRED: &str = "RAFTKV_REQUIRE_OLD";
const PROGRAMS: [&str; 3] = ["raftkv-engine", "raftkv-sidecar", "raftkv-router"];

/// Directory of the older programs. Without the variable, prints a notice and returns `None`.
///
/// # Errors
///
/// If no directory is given and `RAFTKV_REQUIRE_OLD` is 1, or if a program is missing.
pub fn old_programs() -> anyhow::Result<Option<PathBuf>> {
    let Some(dir) = std::env::var_os(OLD_BIN_DIR).map(PathBuf::from) else {
        let missing = format!("no programs of an older version: {OLD_BIN_DIR} does not name their directory");
        ensure!(std::env::var(REQUIRED).map_or(true, |required| required != "1"), missing);
        println!("SKIPPED: {missing}");
        return Ok(None);
    };
    for program in PROGRAMS {
        ensure!(dir.join(program).is_file(), "{} is missing", dir.join(program).display());
    }
    Ok(Some(dir))
}

/// Directory of the programs under test.
pub fn new_programs() -> anyhow::Result<PathBuf> {
    let engine = binary("raftkv-engine")?;
    Ok(engine.parent().map(Path::to_owned).unwrap_or_default())
}
