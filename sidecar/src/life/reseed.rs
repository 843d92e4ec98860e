//! What to do when the engine has lost what the log no longer holds: begin anew as a member without data.
//!
//! The engine puts a store that it cannot open aside and starts with an empty one. When the log still reaches back that far,
//! replaying it is enough. When it does not, this node cannot become what it was: it comes back under its name with a new
//! raft id, as a wiped node does, and gets a snapshot. That gives up its log and its vote, so it is done only while the
//! rest of its cluster is seen alive, with a leader; several nodes that lost their stores at once keep their logs and wait
//! for an operator.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftkv_runtime::reminder::{Pauses, Reminder};
use raftkv_runtime::shutdown::Shutdown;

use crate::engine::client::EngineClient;
use crate::engine::state_machine::is_lost;
use crate::peers::management::ManagementClient;
use crate::raft::types::NodeId;
use crate::wal::Bounds;

/// Between two looks for the rest of the cluster, at first.
const RETRY: Duration = Duration::from_secs(5);
/// And at last.
const SELDOM: Duration = Duration::from_secs(30);

/// This node's part in its cluster, and where to look for the others.
pub struct Reseed<'a> {
    /// The cluster it belongs to.
    pub cluster_id: &'a str,
    /// Its raft id, which must not be the leader that is seen.
    pub raft_id: NodeId,
    /// Management addresses of members (JOIN_ADDR).
    pub join: &'a [String],
    /// The sidecar's directory.
    pub dir: &'a Path,
    /// For asking the members.
    pub client: &'a ManagementClient,
}

impl Reseed<'_> {
    /// Waits until the engine answers and, when it has lost its state, until the cluster is seen alive; then puts the
    /// sidecar's directory aside. `Some` with its new place: the process must end and start again.
    ///
    /// # Errors
    /// When the directory cannot be renamed.
    pub async fn check(&self, engine: &EngineClient, log: &Bounds, shutdown: &Shutdown) -> io::Result<Option<PathBuf>> {
        let asked = engine.until_done("position", |engine| async move { engine.position().await });
        let Ok(position) = asked.await else { return Ok(None) };
        if !is_lost(position.next_index, log) {
            return Ok(None);
        }
        tracing::error!(
            engine_next_index = position.next_index,
            log_begins_at = log.start,
            "the engine has lost its state, and the log no longer holds it: this node must join its cluster again, empty"
        );
        let mut reminder = Reminder::default();
        let mut pauses = Pauses::new(RETRY, SELDOM);
        loop {
            if self.cluster_is_alive().await {
                return self.put_aside().map(Some);
            }
            if let Some(again) = reminder.due("no member") {
                tracing::error!(
                    join = ?self.join,
                    "no member of JOIN_ADDR answers as part of this cluster with a leader: keeping the log and waiting. If \
                     the cluster is alive elsewhere, wipe this node's data directory and let it join{again}"
                );
            }
            tokio::select! {
                () = shutdown.wait() => return Ok(None),
                () = tokio::time::sleep(pauses.wait()) => {}
            }
        }
    }

    async fn cluster_is_alive(&self) -> bool {
        for address in self.join {
            let Ok(status) = self.client.status(address, None).await else { continue };
            let of_ours = status.cluster_id.as_deref() == Some(self.cluster_id);
            let led_by_another = status.node.leader_raft_id.is_some_and(|leader| leader != self.raft_id);
            if of_ours && status.node.raft_id != self.raft_id && led_by_another {
                return true;
            }
        }
        false
    }

    /// Renames the directory; what it holds stays for whoever wants to look at it.
    fn put_aside(&self) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut name = self.dir.file_name().unwrap_or_default().to_owned();
        name.push(format!("-lost-{now}"));
        let aside = self.dir.with_file_name(name);
        std::fs::rename(self.dir, &aside)?;
        if let Some(parent) = self.dir.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(aside)
    }
}
