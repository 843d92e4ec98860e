//! Programs of an older version, for tests of upgrades: `make test-upgrade FROM=COMMIT` builds them.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::binaries::binary;

/// Names the directory of the older programs.
const OLD_BIN_DIR: &str = "RAFTKV_OLD_BIN_DIR";
/// Set to 1, missing programs are a failure.
const REQUIRED: &str = "RAFTKV_REQUIRE_OLD";
const PROGRAMS: [&str; 3] = ["raftkv-engine", "raftkv-sidecar", "raftkv-router"];

/// Where they are; `None` when there are none, after saying so.
///
/// # Errors
///
/// When there are none and `RAFTKV_REQUIRE_OLD` is 1, or when some are missing.
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

/// Where the programs under test are.
pub fn new_programs() -> anyhow::Result<PathBuf> {
    let engine = binary("raftkv-engine")?;
    Ok(engine.parent().map(Path::to_owned).unwrap_or_default())
}
