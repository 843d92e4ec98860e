//! [`Node`]: an engine and a sidecar with a shared data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::answer::Answer;
use crate::client::Client;
use crate::files::allocated_bytes;
use crate::group_peer::GroupPeer;
use crate::peer::PeerClient;
use crate::process::{Exit, Process};
use crate::status::Status;

/// A node of a cluster, running or not.
#[derive(Debug)]
pub struct Node {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) management: SocketAddr,
    pub(crate) group: SocketAddr,
    pub(crate) raft: SocketAddr,
    pub(crate) raft_advertised: SocketAddr,
    pub(crate) engine: Arc<Process>,
    pub(crate) sidecar: Arc<Process>,
}

impl Node {
    /// Node number, counted from 1.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Node name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Engine process.
    pub fn engine(&self) -> &Process {
        &self.engine
    }

    /// Sidecar process.
    pub fn sidecar(&self) -> &Process {
        &self.sidecar
    }

    /// HTTP address of the engine.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Management address of the sidecar.
    pub fn management_address(&self) -> SocketAddr {
        self.management
    }

    /// Group address of the engine, for routers.
    pub fn group_address(&self) -> SocketAddr {
        self.group
    }

    /// A connection to the engine, as used by routers.
    pub fn group_peer(&self) -> anyhow::Result<GroupPeer> {
        GroupPeer::new(self.group)
    }

    /// Raft address of the sidecar, as advertised to peers.
    pub fn raft_address(&self) -> SocketAddr {
        self.raft_advertised
    }

    /// An HTTP client of the engine.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// A direct connection to the sidecar, as used by peers, bypassing any proxy.
    pub fn peer(&self) -> anyhow::Result<PeerClient> {
        PeerClient::new(self.raft)
    }

    /// A client of the management API.
    pub fn management(&self) -> Client {
        Client::new(self.management)
    }

    /// Reads the node's status.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.management().get_path("/status").await?.success()?;
        serde_json::from_slice(&answer.body).with_context(|| format!("the status of {}: {answer}", self.name))
    }

    /// Checks that both processes are ready; the error holds the reason.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.client().get_path("/readyz").await?.success().context("the engine is not ready")?;
        self.management().get_path("/readyz").await?.success().context("the sidecar is not ready")?;
        Ok(())
    }

    /// Asks the group, through this node, to add `joiner`.
    pub async fn join(&self, joiner: &Node) -> anyhow::Result<Answer> {
        let path = format!("/join?peerID={}&peerAddress={}", joiner.name, joiner.raft_advertised);
        Ok(self.management().get_path(&path).await?)
    }

    /// Asks the group, through this node, to remove the node `name`.
    pub async fn remove(&self, name: &str) -> anyhow::Result<Answer> {
        Ok(self.management().get_path(&format!("/leave?peerID={name}")).await?)
    }

    /// Makes the state durable and compacts the log.
    pub async fn compact(&self) -> anyhow::Result<Answer> {
        Ok(self.management().post("/snapshot", "application/json", "").await?)
    }

    /// Uses the programs in `dir`, another version, from the next start.
    pub fn set_programs(&self, dir: &Path) {
        self.engine.set_programs(dir);
        self.sidecar.set_programs(dir);
    }

    /// Starts the processes not running.
    pub fn start(&self) -> anyhow::Result<()> {
        self.engine.start()?;
        self.sidecar.start()
    }

    /// Ends both processes with SIGKILL, without a restart.
    pub fn kill(&self) {
        // The sidecar first: on a dead engine, the sidecar would hand leadership over.
        self.sidecar.kill();
        self.engine.kill();
    }

    /// Ends both processes with SIGKILL; a supervisor restarts them.
    pub fn crash(&self) {
        self.sidecar.crash();
        self.engine.crash();
    }

    /// Stops both processes gracefully, like the container's entrypoint, and waits for the exits. No restart follows.
    pub async fn stop(&self) -> anyhow::Result<[Exit; 2]> {
        self.sidecar.ask_to_stop()?;
        self.engine.ask_to_stop()?;
        Ok([self.engine.stopped().await?, self.sidecar.stopped().await?])
    }

    /// Pauses both processes.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.sidecar.pause()?;
        self.engine.pause()
    }

    /// Resumes both processes.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.engine.resume()?;
        self.sidecar.resume()
    }

    /// Kills the node and removes all data, as if the disk had been replaced.
    pub fn wipe(&self) -> anyhow::Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.dir)?;
        Ok(std::fs::create_dir(&self.dir)?)
    }

    /// Bytes of data on disk.
    pub fn disk_bytes(&self) -> u64 {
        allocated_bytes(&self.dir)
    }

    /// Logs of both processes.
    pub fn logs(&self) -> anyhow::Result<String> {
        let read = |process: &Process| std::fs::read_to_string(process.log()).context("read a log");
        Ok(read(&self.engine)? + &read(&self.sidecar)?)
    }
}
