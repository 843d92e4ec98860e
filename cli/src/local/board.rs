//! [`Board`]: what runs where, told in `cluster.json`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::directory::replace;
use super::plan::Plan;
use super::spec::{ProcessSpec, Role};
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
    /// It was killed: out of its group, without data, and not started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) killed: bool,
    /// It was out of its group when the cluster was started: it runs, and serves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removed: bool,
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
                killed: node.killed,
                removed: node.removed,
            })
            .collect();
        let routers = plan
            .routers
            .iter()
            .map(|router| RouterState { name: router.name.clone(), http: router.http(), pid: None })
            .collect();
        let state = ClusterState { nodes, routers };
        let board = Self { path, inner: Mutex::new(Inner { state, serving: false, hopeless: None }) };
        board.store()?;
        Ok(board)
    }

    /// A process was started, or ended.
    pub(super) fn set_pid(&self, spec: &ProcessSpec, pid: Option<u32>) {
        let mut inner = self.lock();
        let ClusterState { nodes, routers } = &mut inner.state;
        let place = match spec.role {
            Role::Engine(node) => nodes.get_mut(node).map(|node| &mut node.engine_pid),
            Role::Sidecar(node) => nodes.get_mut(node).map(|node| &mut node.sidecar_pid),
            Role::Router(router) => routers.get_mut(router).map(|router| &mut router.pid),
        };
        if let Some(place) = place {
            *place = pid;
        }
        drop(inner);
        self.store_or_say();
    }

    /// A node was killed.
    pub(super) fn set_killed(&self, node: usize) {
        if let Some(node) = self.lock().state.nodes.get_mut(node) {
            node.killed = true;
        }
        self.store_or_say();
    }

    /// Nodes turned out to have been removed from their groups.
    pub(super) fn set_removed(&self, names: &BTreeSet<String>) {
        if names.is_empty() {
            return;
        }
        self.lock().state.nodes.iter_mut().for_each(|node| node.removed = names.contains(&node.name));
        self.store_or_say();
    }

    fn store_or_say(&self) {
        if let Err(failure) = self.store() {
            // The cluster works without the file; its readers must know.
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

    use super::super::plan::Wanted;
    use super::super::programs::Programs;
    use super::*;

    fn plan(groups: u16, nodes: u16) -> Plan {
        let wanted = Wanted { groups: Some(groups), nodes: Some(nodes), http_port: Some(0), routers: None };
        Plan::make(Path::new("/d"), None, wanted).expect("plan")
    }

    #[test]
    fn the_file_follows_the_processes() {
        let temporary = tempfile::tempdir().expect("dir");
        let path = temporary.path().join("cluster.json");
        let plan = plan(2, 1);
        let board = Board::new(path.clone(), &plan).expect("board");
        let programs =
            Programs { engine: "/e".into(), sidecar: "/s".into(), router: Some("/o".into()), launcher: "/r".into() };
        let specs = plan.processes(&programs);

        board.set_pid(&specs[0], Some(11));
        board.set_pid(&specs[3], Some(22));
        board.set_pid(&specs[4], Some(33));
        let read: ClusterState = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("parse");
        let pids: Vec<_> = read.nodes.iter().map(|node| (node.engine_pid, node.sidecar_pid)).collect();
        assert_eq!(pids, [(Some(11), None), (None, Some(22))]);
        let router = RouterState { name: "router1".to_owned(), http: plan.routers[0].http(), pid: Some(33) };
        assert_eq!(read.routers, [router]);
        assert!(!board.to_json().contains("killed"), "only where it is so");
        assert_eq!(serde_json::from_str::<ClusterState>(&board.to_json()).expect("one line"), read);
        assert!(!board.to_json().contains('\n'));

        board.set_pid(&specs[0], None);
        board.set_killed(0);
        let read: ClusterState = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("parse");
        assert_eq!((read.nodes[0].engine_pid, read.nodes[0].killed, read.nodes[1].killed), (None, true, false));
    }

    #[test]
    fn giving_up_is_for_the_start_only() {
        let temporary = tempfile::tempdir().expect("dir");
        let board = Board::new(temporary.path().join("cluster.json"), &plan(1, 1)).expect("board");
        assert!(board.give_up("bad flag".to_owned()));
        assert_eq!(board.hopeless().as_deref(), Some("bad flag"));
        board.now_serving();
        assert!(!board.give_up("later".to_owned()));
    }
}
