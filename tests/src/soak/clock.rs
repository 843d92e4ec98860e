//! Wall clocks that jump, by libfaketime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::story::Story;
use crate::node::Node;
use crate::wait::eventually_within;

/// How far the clock jumps: much longer than any timeout of the store, much shorter than it remembers requests.
const JUMP: Duration = Duration::from_secs(300);
/// The library looks at its file this often, and the group's clock moves with the next write.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where Debian's package has it. The variant without a lock of its own around every call.
pub(super) fn library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<_> =
        dirs.map(|dir| dir.join("faketime/libfaketime.so.1")).filter(|path| path.exists()).collect();
    found.sort();
    found.pop()
}

/// The sidecar that leads runs by a wall clock that jumps ahead, then behind. The clocks that leases are measured with are
/// not touched: that they run evenly is an assumption.
pub(super) async fn jump(story: &Story<'_>) -> anyhow::Result<()> {
    let library = library().context("libfaketime was there when the soak began")?;
    let (node, _guard) = story.leader().await?;
    let file = story.store.dir().join(format!("clock-{}", node.name()));
    set(&file, "+0")?;
    let sidecar = node.sidecar();
    for (name, value) in [
        ("LD_PRELOAD", library.to_string_lossy().into_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_string_lossy().into_owned()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ] {
        sidecar.set_env(name, value);
    }
    sidecar.kill();
    sidecar.start()?;
    let jumped = jumped(story, &node, &file).await;
    sidecar.set_env("LD_PRELOAD", "");
    sidecar.kill();
    sidecar.start()?;
    std::fs::remove_file(&file)?;
    jumped
}

async fn jumped(story: &Story<'_>, node: &Node, file: &Path) -> anyhow::Result<()> {
    let maps = || -> anyhow::Result<()> {
        let pid = node.sidecar().pid().context("the sidecar runs")?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(maps.contains("libfaketime"), "libfaketime is not loaded");
        Ok(())
    };
    eventually_within(PATIENCE, "the sidecar runs with libfaketime", || async { maps() }).await?;
    set(file, &format!("+{}", JUMP.as_secs()))?;
    // Seen in the group's clock, which follows whoever leads: so this node must.
    eventually_within(PATIENCE * 2, "the group's clock has jumped", || async {
        if !node.status().await?.node.leads() {
            let path = format!("/transfer-leader?to={}", node.name());
            node.management().post(&path, "application/json", "").await?.success()?;
        }
        let clock = story.clock_of(node).await?;
        ensure!(clock > now_ms() + JUMP.as_millis() as u64 / 2, "it did not");
        Ok(())
    })
    .await?;
    story.fired();
    story.hold().await;
    set(file, &format!("-{}", JUMP.as_secs()))?;
    story.hold().await;
    Ok(())
}

fn set(file: &Path, offset: &str) -> anyhow::Result<()> {
    std::fs::write(file, format!("{offset}\n")).context("set a clock")
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
