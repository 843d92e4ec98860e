//! [`Board`]: what runs where, told in `cluster.json`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::directory::replace;
use super::plan::{Plan, ProcessSpec, Role};
use crate::failure::Failure;

/// The content of `cluster.json` and of the line that `--json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterState {
    pub(super) nodes: Vec<NodeState>,
    pub(super) routers: Vec<RouterState>,
}

/// A node and its processes; no process id = it does not run at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) http: String,
    pub(super) management: String,
    pub(super) raft: String,
    pub(super) engine_pid: Option<u32>,
    pub(super) sidecar_pid: Option<u32>,
    pub(super) dir: PathBuf,
}

/// A shard router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RouterState {
    pub(super) name: String,
    pub(super) http: String,
    pub(super) pid: Option<u32>,
}

/// The current state, kept on disk too.
#[derive(Debug)]
pub(super) struct Board {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: ClusterState,
    serving: bool,
    /// Why it will never be healthy.
    hopeless: Option<String>,
}

impl Board {
    /// Nothing runs yet.
    pub(super) fn new(path: PathBuf, plan: &Plan) -> Result<Self, Failure> {
        let nodes = plan
            .nodes
            .iter()
            .map(|node| NodeState {
                name: node.name.clone(),
                group: node.group.clone(),
                http: node.http(),
                management: node.management(),
                raft: node.raft(),
                engine_pid: None,
                sidecar_pid: None,
                dir: node.dir.clone(),
            })
            .collect();
        let state = ClusterState { nodes, routers: Vec::new() };
        let board = Self { path, inner: Mutex::new(Inner { state, serving: false, hopeless: None }) };
        board.store()?;
        Ok(board)
    }

    /// A process was started, or ended.
    pub(super) fn set_pid(&self, spec: &ProcessSpec, pid: Option<u32>) {
        if let Some(node) = self.lock().state.nodes.get_mut(spec.node) {
            match spec.role {
                Role::Engine => node.engine_pid = pid,
                Role::Sidecar => node.sidecar_pid = pid,
            }
        }
        if let Err(failure) = self.store() {
            // The cluster works without the file; whoever reads it must know.
            eprintln_lossy(&failure.message);
        }
    }

    /// All nodes were healthy once: from now on every death is worth a restart.
    pub(super) fn now_serving(&self) {
        self.lock().serving = true;
    }

    /// A process ended in a way that a restart will not change. Believed only before the cluster was healthy.
    pub(super) fn give_up(&self, reason: String) -> bool {
        let mut inner = self.lock();
        if !inner.serving && inner.hopeless.is_none() {
            inner.hopeless = Some(reason);
        }
        !inner.serving
    }

    /// See [`give_up`](Self::give_up).
    pub(super) fn hopeless(&self) -> Option<String> {
        self.lock().hopeless.clone()
    }

    /// One line.
    pub(super) fn to_json(&self) -> String {
        // Text and numbers only: serializing cannot fail.
        serde_json::to_string(&self.lock().state).unwrap_or_default()
    }

    /// Writes the file.
    pub(super) fn store(&self) -> Result<(), Failure> {
        // Under the lock, so that an older state never overwrites a newer one.
        let inner = self.lock();
        let text = serde_json::to_vec_pretty(&inner.state).map_err(Failure::failed)?;
        replace(&self.path, &text).map_err(|error| Failure::io(format!("write {}", self.path.display()), &error))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line on stderr; that nobody reads it any more is no reason to stop.
pub(super) fn eprintln_lossy(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "raftkv: {message}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::programs::Programs;
    use super::*;

    #[test]
    fn the_file_follows_the_processes() {
        let temporary = tempfile::tempdir().expect("dir");
        let path = temporary.path().join("cluster.json");
        let plan = Plan::make(Path::new("/d"), None, Some(2), Some(0)).expect("plan");
        let board = Board::new(path.clone(), &plan).expect("board");
        let programs = Programs { engine: "/e".into(), sidecar: "/s".into(), launcher: "/r".into() };
        let specs = plan.processes(&programs);

        board.set_pid(&specs[0], Some(11));
        board.set_pid(&specs[3], Some(22));
        let read: ClusterState = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("parse");
        let pids: Vec<_> = read.nodes.iter().map(|node| (node.engine_pid, node.sidecar_pid)).collect();
        assert_eq!(pids, [(Some(11), None), (None, Some(22))]);
        assert_eq!(serde_json::from_str::<ClusterState>(&board.to_json()).expect("one line"), read);
        assert!(!board.to_json().contains('\n'));

        board.set_pid(&specs[0], None);
        let read: ClusterState = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("parse");
        assert_eq!(read.nodes[0].engine_pid, None);
    }

    #[test]
    fn giving_up_is_for_the_start_only() {
        let temporary = tempfile::tempdir().expect("dir");
        let plan = Plan::make(Path::new("/d"), None, Some(1), Some(0)).expect("plan");
        let board = Board::new(temporary.path().join("cluster.json"), &plan).expect("board");
        assert!(board.give_up("bad flag".to_owned()));
        assert_eq!(board.hopeless().as_deref(), Some("bad flag"));
        board.now_serving();
        assert!(!board.give_up("later".to_owned()));
    }
}
