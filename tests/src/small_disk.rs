//! [`SmallDisk`]: an ext4 file system of a few hundred megabytes, in a file, on a loop device.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Set to 1 to fail on a machine without a usable loop device.
const REQUIRED: &str = "RAFTKV_REQUIRE_LOOP";
/// In memory if possible: the test is about space, not speed.
const MEMORY: &str = "/dev/shm";

/// A small mounted disk. Dropping unmounts and removes the disk.
#[derive(Debug)]
pub struct SmallDisk {
    root: TempDir,
}

impl SmallDisk {
    /// Creates a disk of `bytes` bytes. Without mount support, prints a notice and returns `None`, or an error if required.
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
        // Without blocks reserved for root, because the test runs as root.
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,nodiscard"];
        run(Command::new("mkfs.ext4").args(options).arg(&image))?;
        let disk = Self { root };
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(disk.dir()))?;
        Ok(disk)
    }

    /// Mount point.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("disk")
    }

    /// Places the data of a node on this disk. The cluster must be created but not started.
    pub fn hold(&self, cluster: &Cluster, index: usize) -> anyhow::Result<()> {
        let place = self.dir().join(format!("n{index}"));
        std::fs::create_dir(&place)?;
        let node = cluster.node(index);
        std::fs::remove_dir(node.dir())?;
        symlink(&place, node.dir()).with_context(|| format!("put {} on a small disk", node.name()))
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let stat = rustix::fs::statvfs(self.dir())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a killed process may still hold a file open for a moment.
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
