//! [`WallClock`]: sets the wall clock of a single process with libfaketime. Monotonic clocks are unchanged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::process::Process;
use crate::wait::eventually_within;

/// Set to 1 to fail without libfaketime.
const REQUIRED: &str = "RAFTKV_REQUIRE_FAKETIME";
/// Maximum seconds between reads of the timestamp file by the library.
const LOOKS: &str = "1";
const PATIENCE: Duration = Duration::from_secs(30);

/// The file with the clock offset of a process.
#[derive(Debug)]
pub struct WallClock {
    file: PathBuf,
}

/// Path of the library from Debian's package, in the variant without a lock around every call.
pub fn faketime_library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<_> =
        dirs.map(|dir| dir.join("faketime/libfaketime.so.1")).filter(|path| path.exists()).collect();
    found.sort();
    found.pop()
}

impl WallClock {
    /// Gives a process a private wall clock from the next start, initially correct. Without libfaketime, prints a
    /// notice and returns `None`.
    ///
    /// # Errors
    ///
    /// If libfaketime is missing and `RAFTKV_REQUIRE_FAKETIME` is 1.
    pub fn attach(process: &Process, dir: &Path) -> anyhow::Result<Option<Self>> {
        let Some(library) = faketime_library() else {
            let missing = "no libfaketime here (Debian: apt-get install faketime)";
            ensure!(std::env::var(REQUIRED).map_or(true, |required| required != "1"), missing);
            println!("SKIPPED: {missing}. Set {REQUIRED}=1 to make this a failure.");
            return Ok(None);
        };
        let clock = Self { file: dir.join(format!("clock-{}", process.name().replace([' ', '\''], "-"))) };
        clock.set("+0")?;
        for (name, value) in [
            ("LD_PRELOAD", library.to_string_lossy().into_owned()),
            ("FAKETIME_TIMESTAMP_FILE", clock.file.to_string_lossy().into_owned()),
            ("FAKETIME_CACHE_DURATION", LOOKS.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ] {
            process.set_env(name, value);
        }
        Ok(Some(clock))
    }

    /// Restores the machine's clock for a process, from the next start.
    pub fn detach(self, process: &Process) -> anyhow::Result<()> {
        process.set_env("LD_PRELOAD", "");
        std::fs::remove_file(&self.file).context("remove a clock")
    }

    /// Waits until the process uses this clock.
    pub async fn runs(&self, process: &Process) -> anyhow::Result<()> {
        eventually_within(PATIENCE, &format!("{} runs with libfaketime", process.name()), || async {
            let pid = process.pid().context("it does not run")?;
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
            ensure!(maps.contains("libfaketime"), "it is not loaded");
            Ok(())
        })
        .await
    }

    /// Sets the clock offset, as `+2d` or `-3600`. Takes effect within a second or two.
    pub fn set(&self, offset: &str) -> anyhow::Result<()> {
        std::fs::write(&self.file, format!("{offset}\n")).context("set a clock")
    }
}
