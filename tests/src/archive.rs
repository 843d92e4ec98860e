//! Data directories in compressed archives, made and unpacked by `tar`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

/// A few megabytes take less than a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Packs the directories `names` of `root` into `archive`, without sockets.
pub async fn pack(root: &Path, names: &[String], archive: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    // Logs and journals are preallocated and consist mostly of zeros.
    tar.args(["--sparse", "--hole-detection=raw", "--exclude=*.sock", "--sort=name"]);
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "--use-compress-program=gzip -9n"]);
    tar.arg("-cf").arg(archive).arg("-C").arg(root).args(names);
    run(tar).await.with_context(|| format!("pack {}", archive.display()))
}

/// Unpacks `archive` into the directory `root`.
pub async fn unpack(archive: &Path, root: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--no-same-owner").arg("-xzf").arg(archive).arg("-C").arg(root);
    run(tar).await.with_context(|| format!("unpack {}", archive.display()))
}

async fn run(mut tar: Command) -> anyhow::Result<()> {
    let output = tar.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("tar takes too long")??;
    if !output.status.success() {
        bail!("tar ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
