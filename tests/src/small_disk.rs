//! [`SmallDisk`]: an ext4 file system of a few hundred megabytes, in a file, on a loop device.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Set to 1, a machine on which no loop device can be mounted is a failure.
const REQUIRED: &str = "RAFTKV_REQUIRE_LOOP";
/// In memory, where the machine has it: the test is about space and not about speed.
const MEMORY: &str = "/dev/shm";

/// A small disk, mounted. Unmounted and gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    root: TempDir,
}

impl SmallDisk {
    /// Makes a disk of this size. `None` where nothing can be mounted, with a line that nobody can overlook, and an error where
    /// it is required to work.
    pub fn make(bytes: u64) -> anyhow::Result<Option<Self>> {
        match Self::mounted(bytes) {
            Ok(disk) => Ok(Some(disk)),
            Err(error) if std::env::var(REQUIRED).is_ok_and(|required| required == "1") => Err(error),
            Err(error) => {
                println!("SKIPPED: no loop device here: {error:#}. Set {REQUIRED}=1 to make this a failure.");
                Ok(None)
            }
        }
    }

    fn mounted(bytes: u64) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("rkd");
        let root = if Path::new(MEMORY).is_dir() { builder.tempdir_in(MEMORY)? } else { builder.tempdir()? };
        let image = root.path().join("image");
        File::create_new(&image)?.set_len(bytes)?;
        std::fs::create_dir(root.path().join("disk"))?;
        // No part of it is kept for root: the test runs as root.
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,nodiscard"];
        run(Command::new("mkfs.ext4").args(options).arg(&image))?;
        let disk = Self { root };
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(disk.dir()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("disk")
    }

    /// Lets a node of a cluster that was created and not started keep its data here.
    pub fn hold(&self, cluster: &Cluster, index: usize) -> anyhow::Result<()> {
        let place = self.dir().join(format!("n{index}"));
        std::fs::create_dir(&place)?;
        let node = cluster.node(index);
        std::fs::remove_dir(node.dir())?;
        symlink(&place, node.dir()).with_context(|| format!("put {} on a small disk", node.name()))
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let stat = rustix::fs::statvfs(self.dir())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still hold a file open.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(self.dir())) {
            println!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
