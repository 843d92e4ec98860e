//! [`FaultFs`]: a disk that simulates power loss, errors, stalls and lack of space.
//!
//! A small file system in memory, mounted with FUSE. For each file and directory, the file system keeps the state seen
//! by processes and the state made durable by fsync. A test can cut the power and inspect the durable state:
//!
//! ```no_run
//! # fn story() -> anyhow::Result<()> {
//! use raftkv_tests::faultfs::{Call, Effect, FaultFs, Fault, Loss, NamePromise};
//!
//! let dir = tempfile::tempdir()?;
//! let Some(mut disk) = FaultFs::mount(dir.path(), NamePromise::Directory)? else { return Ok(()) };
//! std::fs::write(dir.path().join("file"), "never synced")?;
//! disk.power_loss(Loss::Volatile, 1)?;
//! assert!(!dir.path().join("file").exists());
//! let fired = disk.inject(Fault::new(Call::Fsync, Effect::Fail(rustix::io::Errno::IO)).times(1));
//! # Ok(())
//! # }
//! ```
//!
//! Processes get exactly the durability guarantees of POSIX ([`NamePromise::Directory`]), or the guarantees of ext4 and
//! XFS ([`NamePromise::Journal`]). In both modes, an fsync covers all bytes and the length of the file at the start of
//! the call; a rename is atomic; a failed fsync loses the pages, and a second fsync does not recover them. Space is
//! accounted, so `statvfs` is correct. Locks are handled by the kernel. Times, permissions and owners survive a power
//! loss. Symbolic links, extended attributes and punched holes are not supported.

mod content;
mod fault;
mod file;
mod fuse;
mod names;
mod powered;
mod tree;
#[cfg(test)]
mod tree_tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

pub use fault::{Call, Counts, Effect, Fault, Fired};
pub use names::NamePromise;
pub use powered::PoweredCluster;
pub use tree::{Loss, Space};

use fuse::Adapter;
use tree::Tree;

/// Set to 1 to fail on a machine without FUSE mounts.
const REQUIRED: &str = "RAFTKV_REQUIRE_FUSE";
/// Threads per mount: a request waiting for the lock must not block all other requests.
const THREADS: usize = 2;
/// Time limit for the kernel to close the files of killed processes.
const CLOSED: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A disk in memory, mounted on a directory. Dropping unmounts the disk and discards the content.
#[derive(Debug)]
pub struct FaultFs {
    dir: PathBuf,
    adapter: Adapter,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Mounts an empty disk on an empty directory. Without mount support, prints a notice and returns `None`, or an error if required.
    pub fn mount(dir: &Path, promise: NamePromise) -> anyhow::Result<Option<Self>> {
        let mut disk = Self {
            dir: dir.to_owned(),
            adapter: Adapter { tree: Arc::new(Mutex::new(Tree::new(promise))) },
            session: None,
        };
        match disk.attach() {
            Ok(()) => Ok(Some(disk)),
            Err(error) if std::env::var(REQUIRED).is_ok_and(|required| required == "1") => Err(error),
            Err(error) => {
                println!("SKIPPED: no FUSE here: {error:#}. Set {REQUIRED}=1 to make this a failure.");
                Ok(None)
            }
        }
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("raftkv-faultfs".to_owned()),
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        config.acl = SessionACL::Owner;
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(self.adapter.clone(), &self.dir, &config);
        self.session = Some(session.with_context(|| format!("mount a disk on {}", self.dir.display()))?);
        Ok(())
    }

    fn detach(&mut self, patience: Duration) -> anyhow::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let start = Instant::now();
        loop {
            match unmount(&self.dir, UnmountFlags::empty()) {
                Ok(()) => return session.join().context("end serving a disk"),
                // The kernel closes the files of a killed process shortly after the parent sees the exit.
                Err(Errno::BUSY) if start.elapsed() < patience => std::thread::sleep(BUSY_PAUSE),
                Err(error) => {
                    self.session = Some(session);
                    return Err(error).with_context(|| format!("unmount the disk on {}", self.dir.display()));
                }
            }
        }
    }

    /// Mount point.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.adapter.tree()
    }

    /// Simulates a power loss and the return of power: data not durable is lost, except for a part chosen by `loss` and
    /// `seed`. All processes with open files must have been killed.
    pub fn power_loss(&mut self, loss: Loss, seed: u64) -> anyhow::Result<()> {
        // Unmounted in between, to clear the kernel's caches.
        self.detach(CLOSED)?;
        self.tree().power_loss(loss, seed);
        self.attach()
    }

    /// Injects a fault; the result counts its effects.
    pub fn inject(&self, fault: Fault) -> Fired {
        self.tree().inject(fault)
    }

    /// Clears all faults.
    pub fn clear_faults(&self) {
        self.tree().clear_faults();
    }

    /// Enables or disables read-only mode.
    pub fn set_read_only(&self, read_only: bool) {
        self.tree().set_read_only(read_only);
    }

    /// Limits the free space to this number of bytes; `None` restores the original capacity.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.tree().set_free(bytes);
    }

    /// Total and free space.
    pub fn space(&self) -> Space {
        self.tree().space()
    }

    /// Operations and refusals so far.
    pub fn counts(&self) -> Counts {
        self.tree().counts()
    }

    /// Copies all files to a directory, for inspection.
    pub fn copy_to(&self, dir: &Path) -> anyhow::Result<()> {
        ensure!(self.session.is_some(), "the disk is not mounted");
        copy(&self.dir, dir)
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        if let Err(error) = self.detach(CLOSED) {
            println!("a disk is detached while it is in use: {error:#}");
            // Served until the last user is gone; no caller waits for the end.
            if let Err(error) = unmount(&self.dir, UnmountFlags::DETACH) {
                println!("{} stays mounted: {error}", self.dir.display());
            }
            std::mem::forget(self.session.take());
        }
    }
}
