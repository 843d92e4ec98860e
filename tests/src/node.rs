//! [`Node`]: an engine and a sidecar with their data directory.

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
    /// Its number, from 1.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its engine.
    pub fn engine(&self) -> &Process {
        &self.engine
    }

    /// Its sidecar.
    pub fn sidecar(&self) -> &Process {
        &self.sidecar
    }

    /// Where its engine serves HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where its sidecar serves management.
    pub fn management_address(&self) -> SocketAddr {
        self.management
    }

    /// Where its engine serves routers.
    pub fn group_address(&self) -> SocketAddr {
        self.group
    }

    /// A router's connection to its engine.
    pub fn group_peer(&self) -> anyhow::Result<GroupPeer> {
        GroupPeer::new(self.group)
    }

    /// How its peers reach its sidecar.
    pub fn raft_address(&self) -> SocketAddr {
        self.raft_advertised
    }

    /// A client of its engine.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// A peer's connection to its sidecar, past any proxy.
    pub fn peer(&self) -> anyhow::Result<PeerClient> {
        PeerClient::new(self.raft)
    }

    /// A client of its management API.
    pub fn management(&self) -> Client {
        Client::new(self.management)
    }

    /// How it sees the cluster and itself.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.management().get_path("/status").await?.success()?;
        serde_json::from_slice(&answer.body).with_context(|| format!("the status of {}: {answer}", self.name))
    }

    /// Whether both processes say that they are ready, and why not.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.client().get_path("/readyz").await?.success().context("the engine is not ready")?;
        self.management().get_path("/readyz").await?.success().context("the sidecar is not ready")?;
        Ok(())
    }

    /// Asks the group, at this node, to take `joiner` in.
    pub async fn join(&self, joiner: &Node) -> anyhow::Result<Answer> {
        let path = format!("/join?peerID={}&peerAddress={}", joiner.name, joiner.raft_advertised);
        Ok(self.management().get_path(&path).await?)
    }

    /// Asks the group, at this node, to let the node called `name` go.
    pub async fn remove(&self, name: &str) -> anyhow::Result<Answer> {
        Ok(self.management().get_path(&format!("/leave?peerID={name}")).await?)
    }

    /// Makes its state durable and its log short.
    pub async fn compact(&self) -> anyhow::Result<Answer> {
        Ok(self.management().post("/snapshot", "application/json", "").await?)
    }

    /// Has its next start made with the programs in `dir`: another version.
    pub fn set_programs(&self, dir: &Path) {
        self.engine.set_programs(dir);
        self.sidecar.set_programs(dir);
    }

    /// Starts what does not run of it.
    pub fn start(&self) -> anyhow::Result<()> {
        self.engine.start()?;
        self.sidecar.start()
    }

    /// Ends both processes with SIGKILL and leaves them down.
    pub fn kill(&self) {
        // The sidecar first: it must not learn that its engine is gone and hand leadership over.
        self.sidecar.kill();
        self.engine.kill();
    }

    /// Ends both processes with SIGKILL; a supervisor starts them again.
    pub fn crash(&self) {
        self.sidecar.crash();
        self.engine.crash();
    }

    /// Asks both to stop gracefully, as the container's entrypoint does, waits until they have and leaves them down.
    pub async fn stop(&self) -> anyhow::Result<[Exit; 2]> {
        self.sidecar.ask_to_stop()?;
        self.engine.ask_to_stop()?;
        Ok([self.engine.stopped().await?, self.sidecar.stopped().await?])
    }

    /// Makes both stand still.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.sidecar.pause()?;
        self.engine.pause()
    }

    /// Makes both go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.engine.resume()?;
        self.sidecar.resume()
    }

    /// Kills it and removes its data, as when its disk was replaced.
    pub fn wipe(&self) -> anyhow::Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.dir)?;
        Ok(std::fs::create_dir(&self.dir)?)
    }

    /// Bytes its data takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        allocated_bytes(&self.dir)
    }

    /// What its processes have logged.
    pub fn logs(&self) -> anyhow::Result<String> {
        let read = |process: &Process| std::fs::read_to_string(process.log()).context("read a log");
        Ok(read(&self.engine)? + &read(&self.sidecar)?)
    }
}
