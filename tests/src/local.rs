//! [`LocalCluster`]: a cluster started by `raftkv local`.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::binaries::binary;
use crate::client::Client;
use crate::files::tail;
use crate::wait::eventually_within;

/// Time from the start to the line of JSON, printed when all nodes are healthy.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Time from SIGTERM to the exit.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that `raftkv local --json` runs. Stopped when dropped.
#[derive(Debug)]
pub struct LocalCluster {
    child: Option<Child>,
    /// The printed line.
    pub printed: LocalState,
    dir: TempDir,
}

/// JSON on stdout and in `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalState {
    /// The nodes.
    pub nodes: Vec<LocalNode>,
    /// The shard routers.
    pub routers: Vec<LocalRouter>,
}

/// A router of a [`LocalState`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalRouter {
    /// Router name.
    pub name: String,
    /// host:port of the HTTP API.
    pub http: String,
    /// `None` while stopped.
    pub pid: Option<u32>,
}

/// A node of a [`LocalState`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalNode {
    /// Node name.
    pub name: String,
    /// Group name.
    pub group: String,
    /// host:port of the HTTP API.
    pub http: String,
    /// host:port of the management API.
    pub management: String,
    /// host:port for peers.
    pub raft: String,
    /// `None` while stopped.
    pub engine_pid: Option<u32>,
    /// `None` while stopped.
    pub sidecar_pid: Option<u32>,
    /// Data directory.
    pub dir: PathBuf,
    /// Whether the node was killed for good, without a restart.
    #[serde(default)]
    pub killed: bool,
    /// Whether the node was no member of the group when the cluster was started.
    #[serde(default)]
    pub removed: bool,
}

impl LocalNode {
    /// A client of the HTTP API.
    pub fn client(&self) -> Client {
        Client::new(&self.http)
    }
}

impl LocalCluster {
    /// Starts a cluster with `nodes` nodes per group and waits for the line of JSON.
    pub async fn start(nodes: usize, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::launch(tempfile::Builder::new().prefix("rkl").tempdir()?, nodes, arguments).await
    }

    /// Stops the cluster like [`stop`](Self::stop), then starts a cluster on the same directory.
    pub async fn restart(mut self, nodes: usize, arguments: &[&str]) -> anyhow::Result<Self> {
        self.end().await?;
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        Self::launch(dir, nodes, arguments).await
    }

    async fn launch(dir: TempDir, nodes: usize, arguments: &[&str]) -> anyhow::Result<Self> {
        let program = binary("raftkv")?;
        let errors = std::fs::File::create(dir.path().join("stderr"))?;
        let mut child = std::process::Command::new(&program)
            .args(["local", "--json", "--http-port", "0", "--nodes", &nodes.to_string(), "--dir"])
            .arg(dir.path().join("c"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let out = child.stdout.take().context("its output")?;
        // From here, dropping the cluster ends the child.
        let mut cluster = Self { child: Some(child), printed: LocalState { nodes: vec![], routers: vec![] }, dir };
        let mut lines = BufReader::new(tokio::process::ChildStdout::from_std(out)?).lines();
        let line = tokio::time::timeout(READY_PATIENCE, lines.next_line())
            .await
            .context("raftkv local printed nothing")??
            .ok_or_else(|| anyhow!("raftkv local ended: {}", tail(&cluster.dir.path().join("stderr"), 20)))?;
        cluster.printed = serde_json::from_str(&line).with_context(|| line.clone())?;
        let count = cluster.printed.nodes.len();
        ensure!(count > 0 && count.is_multiple_of(nodes), "{line}");
        Ok(cluster)
    }

    /// Directory of the cluster.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    /// Current content of `cluster.json`.
    pub fn state(&self) -> anyhow::Result<LocalState> {
        read_state(&self.dir())
    }

    /// Sends SIGTERM and waits for the exit; fails unless the exit code is 0 and no process is left.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let before = self.state()?;
        let mut child = self.child.take().context("it runs")?;
        signal(child.id(), Signal::TERM)?;
        let status = eventually_within(STOP_PATIENCE, "raftkv local ends", || {
            let status = child.try_wait();
            async { status?.ok_or_else(|| anyhow!("it runs")) }
        })
        .await?;
        ensure!(status.success(), "it ended with {status}: {}", tail(&self.dir.path().join("stderr"), 20));
        for pid in pids(&before) {
            ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} was left behind");
        }
        Ok(())
    }
}

/// Sends a signal to a process started by this test, directly or through a child.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

fn read_state(dir: &Path) -> anyhow::Result<LocalState> {
    let path = dir.join("cluster.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn pids(state: &LocalState) -> Vec<u32> {
    let nodes = state.nodes.iter().flat_map(|node| [node.engine_pid, node.sidecar_pid]);
    nodes.chain(state.routers.iter().map(|router| router.pid)).flatten().collect()
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        println!("raftkv local was not stopped; its stderr:\n{}", tail(&self.dir.path().join("stderr"), 40));
        // Child processes end with the parent; any that remain are killed by the recorded process ids.
        let _ = child.kill();
        let _ = child.wait();
        for pid in read_state(&self.dir()).map(|state| pids(&state)).unwrap_or_default() {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.starts_with("raftkv-") {
                let _ = signal(pid, Signal::KILL);
            }
        }
    }
}
