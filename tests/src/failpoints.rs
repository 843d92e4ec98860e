//! [`Failpoints`]: tells a process of the faulty programs where to die.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::node::Node;
use crate::process::Process;

/// A process that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a process that dies at a failpoint says last, before the failpoint's name.
const DYING: &str = "dying at the failpoint ";

/// The failpoints of one process of a node.
#[derive(Debug, Clone)]
pub struct Failpoints {
    socket: PathBuf,
}

impl Failpoints {
    /// Of the engine of a node.
    pub fn of_engine(node: &Node) -> Self {
        Self { socket: node.dir().join("engine.failpoints") }
    }

    /// Of the sidecar of a node.
    pub fn of_sidecar(node: &Node) -> Self {
        Self { socket: node.dir().join("sidecar.failpoints") }
    }

    /// Says what is to happen where, from now on: `engine::store::before_commit=2*off->die`.
    ///
    /// # Errors
    ///
    /// When the process does not answer within five seconds, or does not understand.
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

/// Where a process died, as its log says.
#[derive(Debug)]
pub struct Deaths<'a> {
    process: &'a Process,
    from: u64,
    starts: u32,
}

impl<'a> Deaths<'a> {
    /// Of this process, from now on.
    pub fn of(process: &'a Process) -> Self {
        Self { process, from: std::fs::metadata(process.log()).map_or(0, |log| log.len()), starts: process.starts() }
    }

    /// Starts it again after its death, unless it was.
    ///
    /// # Errors
    ///
    /// When it is not quite dead, or cannot be started.
    pub fn start_again(&self) -> anyhow::Result<()> {
        self.process.start()?;
        ensure!(self.process.starts() > self.starts, "{} is not quite dead", self.process.name());
        Ok(())
    }

    /// Whether it has died at that failpoint.
    ///
    /// # Errors
    ///
    /// When it has not, or its log cannot be read.
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
