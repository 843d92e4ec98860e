//! [`Failpoints`]: makes a process of the planted programs die at a chosen point.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::node::Node;
use crate::process::Process;

/// A running process answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Last log message of a process that dies at a failpoint, before the failpoint's name.
const DYING: &str = "dying at the failpoint ";

/// The failpoints of a single process.
#[derive(Debug, Clone)]
pub struct Failpoints {
    socket: PathBuf,
}

impl Failpoints {
    /// The failpoints of a node's engine.
    pub fn of_engine(node: &Node) -> Self {
        Self { socket: node.dir().join("engine.failpoints") }
    }

    /// The failpoints of a node's sidecar.
    pub fn of_sidecar(node: &Node) -> Self {
        Self { socket: node.dir().join("sidecar.failpoints") }
    }

    /// Sets failpoint actions, effective immediately: `engine::store::before_commit=2*off->die`.
    ///
    /// # Errors
    ///
    /// If the process does not answer within five seconds, or rejects the orders.
    pub async fn set(&self, orders: &str) -> anyhow::Result<()> {
        let asked = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(format!("{orders}\n").as_bytes()).await?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.context("the failpoints do not answer")?;
        let answer = answer.with_context(|| format!("the failpoints at {}", self.socket.display()))?;
        ensure!(answer.trim() == "ok", "{orders}: {answer}");
        Ok(())
    }
}

/// Detects deaths at failpoints from the log of a process.
#[derive(Debug)]
pub struct Deaths<'a> {
    process: &'a Process,
    from: u64,
    starts: u32,
}

impl<'a> Deaths<'a> {
    /// Watches the log of `process` from the current end.
    pub fn of(process: &'a Process) -> Self {
        Self { process, from: std::fs::metadata(process.log()).map_or(0, |log| log.len()), starts: process.starts() }
    }

    /// Starts the process again after a death, unless already restarted.
    ///
    /// # Errors
    ///
    /// If the process is still running, or cannot be started.
    pub fn start_again(&self) -> anyhow::Result<()> {
        self.process.start()?;
        ensure!(self.process.starts() > self.starts, "{} is still running", self.process.name());
        Ok(())
    }

    /// Checks for a death at the failpoint `name`.
    ///
    /// # Errors
    ///
    /// If the process has not died there, or the log is unreadable.
    pub fn at(&self, name: &str) -> anyhow::Result<()> {
        let mut log = std::fs::File::open(self.process.log())?;
        log.seek(SeekFrom::Start(self.from))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        ensure!(
            text.lines().any(|line| line.strip_prefix(DYING) == Some(name)),
            "{} has not died at {name}",
            self.process.name()
        );
        Ok(())
    }
}
