//! [`FaultFs`]: a disk that loses power, fails, stalls and fills on command.
//!
//! A small file system in memory, mounted with FUSE. It keeps for each file and directory what processes see and what an
//! fsync has made durable, so that a test can take the power away and look at what is left:
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
//! What it promises to processes is what POSIX promises and no more ([`NamePromise::Directory`]), or what ext4 and XFS do
//! ([`NamePromise::Journal`]). In both, an fsync covers the file's bytes and length that were there when it began; a
//! rename is atomic; a failed fsync loses the pages, and a second one does not bring them back. Space is counted, so that
//! `statvfs` tells the truth. Locks are the kernel's. Times, permissions and owners are not lost; symbolic links, extended
//! attributes and punched holes are not supported.

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

/// Set to 1, a machine on which nothing can be mounted is a failure.
const REQUIRED: &str = "RAFTKV_REQUIRE_FUSE";
/// Threads that serve a mount: a request that waits for the lock holds up no other for long.
const THREADS: usize = 2;
/// What a process that was killed had open is closed within this.
const CLOSED: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A disk in memory, mounted on a directory. Unmounted when dropped; its content is gone then.
#[derive(Debug)]
pub struct FaultFs {
    dir: PathBuf,
    adapter: Adapter,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Mounts an empty disk on an empty directory. `None` where nothing can be mounted, with a line that nobody can
    /// overlook, and an error where it is required to work.
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
                // The kernel closes the files of a killed process a moment after its parent has heard of the end.
                Err(Errno::BUSY) if start.elapsed() < patience => std::thread::sleep(BUSY_PAUSE),
                Err(error) => {
                    self.session = Some(session);
                    return Err(error).with_context(|| format!("unmount the disk on {}", self.dir.display()));
                }
            }
        }
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.adapter.tree()
    }

    /// The power fails and comes back: what was not durable is gone. Every process that had something open must have been
    /// killed. `seed` decides what survives of the rest.
    pub fn power_loss(&mut self, loss: Loss, seed: u64) -> anyhow::Result<()> {
        // Unmounted meanwhile: the kernel forgets what it remembers, too.
        self.detach(CLOSED)?;
        self.tree().power_loss(loss, seed);
        self.attach()
    }

    /// Sets a fault; says how often it has fired.
    pub fn inject(&self, fault: Fault) -> Fired {
        self.tree().inject(fault)
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.tree().clear_faults();
    }

    /// Refuses every change from now on, or takes them again.
    pub fn set_read_only(&self, read_only: bool) {
        self.tree().set_read_only(read_only);
    }

    /// Leaves this much space free; `None`: as much as there was at first.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.tree().set_free(bytes);
    }

    /// Its space.
    pub fn space(&self) -> Space {
        self.tree().space()
    }

    /// What it has done and refused so far.
    pub fn counts(&self) -> Counts {
        self.tree().counts()
    }

    /// Copies everything to a directory, for whoever wants to look into it.
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
            // Served until the last user is gone, which nobody waits for.
            if let Err(error) = unmount(&self.dir, UnmountFlags::DETACH) {
                println!("{} stays mounted: {error}", self.dir.display());
            }
            std::mem::forget(self.session.take());
        }
    }
}
