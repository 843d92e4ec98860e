//! [`Node`]: this node as every part of the sidecar sees it, from waiting for a cluster to stopping.

pub mod elections;
pub mod identity;
pub mod incarnation;
pub mod metrics;
pub mod promise;
pub mod standing;
pub mod twin;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::engine::client::EngineClient;
use crate::engine::state_machine::Raft;
use crate::engine::versions::Versions;
use crate::node::identity::Identity;
use crate::node::incarnation::Life;
use crate::node::standing::Standing;
use crate::peers::Peers;
use crate::peers::inbound::Inbound;
use crate::propose::combiner::Combiner;
use crate::propose::leader_lease::LeaderLease;
use crate::raft::group_clock::GroupClock;
use crate::raft::keeper::Keeper;
use crate::raft::log_store::LogStore;
use crate::raft::progress::Progress;
use crate::raft::timing::Timing;

/// What exists once the node is part of a cluster.
pub struct Group {
    /// The cluster all members belong to; never changes.
    pub cluster_id: String,
    /// Consensus.
    pub raft: Raft,
    /// Channels to the other members.
    pub peers: Peers,
    /// What they have open to this node.
    pub inbound: Inbound,
    /// How long members wait.
    pub timing: Timing,
    /// The write-ahead log, for figures.
    pub log: LogStore,
    /// What this node may conclude while it leads.
    pub lease: LeaderLease,
    /// How far this node's engine is.
    pub progress: Progress,
    /// The group's clock.
    pub clock: GroupClock,
    /// What waits to be proposed here.
    pub combiner: Combiner,
}

impl AsRef<Raft> for Group {
    fn as_ref(&self) -> &Raft {
        &self.raft
    }
}

/// Where this node is in its life.
#[derive(Clone)]
pub enum Phase {
    /// In no cluster yet: answers Identify and Adopt, refuses everything else.
    Waiting,
    /// Part of a cluster.
    Running(Arc<Group>),
    /// Giving leadership away and going: new proposals are refused.
    Stopping(Arc<Group>),
}

/// This node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    /// Who it is; fixed for the life of its data directory.
    pub identity: Arc<Identity>,
    /// This run of the process.
    pub life: Life,
    /// The connection to its engine.
    pub engine: EngineClient,
    /// What the engine was granted.
    pub keeper: Keeper,
    /// Whether it serves at all.
    pub standing: Standing,
    /// Which cluster versions are spoken.
    pub versions: Versions,
    phase: Arc<watch::Sender<Phase>>,
    started: Instant,
    /// Milliseconds after `started` at which a leader's message was last accepted.
    leader_heard: Arc<AtomicU64>,
}

impl Node {
    /// A node that waits.
    pub fn new(identity: Arc<Identity>, engine: EngineClient) -> Self {
        let keeper = Keeper::default();
        Self {
            identity,
            life: Life::begin(),
            standing: Standing::new(keeper.clone()),
            keeper,
            versions: engine.versions(),
            engine,
            phase: Arc::new(watch::Sender::new(Phase::Waiting)),
            started: Instant::now(),
            leader_heard: Arc::default(),
        }
    }

    /// Where it is now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// To wait for changes.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The group, unless it still waits.
    pub fn group(&self) -> Option<Arc<Group>> {
        match &*self.phase.borrow() {
            Phase::Waiting => None,
            Phase::Running(group) | Phase::Stopping(group) => Some(group.clone()),
        }
    }

    /// Whether new work is taken.
    pub fn is_running(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Running(_))
    }

    /// From waiting to running.
    pub fn set_running(&self, group: Arc<Group>) {
        self.phase.send_replace(Phase::Running(group));
    }

    /// From running to stopping. Nothing happens in a node that waits.
    pub fn set_stopping(&self) {
        self.phase.send_modify(|phase| {
            if let Phase::Running(group) = phase {
                *phase = Phase::Stopping(group.clone());
            }
        });
    }

    /// Notes that a leader's message was accepted just now.
    pub fn note_leader(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.leader_heard.store(now, Ordering::Relaxed);
    }

    /// Since a leader was last heard, or since this node started.
    pub fn leader_silent_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.leader_heard.load(Ordering::Relaxed)))
    }
}
