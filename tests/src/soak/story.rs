//! [`Story`]: the execution of a planned fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::MutexGuard;

use super::kind::Kind;
use super::plan::Planned;
use super::store::Store;
use super::{clock, disks, members, network, processes, slots};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait::eventually_within;

/// Longer than any fault, including a wait for two others.
const PATIENCE: Duration = Duration::from_secs(240);
/// Timeout to find a leader without another fault.
const LEADER_PATIENCE: Duration = Duration::from_secs(120);
/// Timeout for an engine to start after an earlier fault.
const CLOCK_PATIENCE: Duration = Duration::from_secs(30);

/// A planned fault in progress. A fault of a node holds the node's lock. Faults of other nodes, of the network, of
/// routers and of moves may run concurrently.
pub(super) struct Story<'a> {
    pub(super) store: &'a Store,
    pub(super) planned: Planned,
    rng: Mutex<StdRng>,
    fired: AtomicBool,
}

impl<'a> Story<'a> {
    pub(super) fn new(store: &'a Store, planned: Planned) -> Self {
        let rng = Mutex::new(StdRng::seed_from_u64(planned.seed));
        Self { store, planned, rng, fired: AtomicBool::new(false) }
    }

    /// Injects the fault, waits for the effect, and removes the fault. Fails if the fault had no effect or a component did not recover.
    pub(super) async fn happen(&self) -> anyhow::Result<()> {
        let kind = self.planned.kind;
        tokio::time::sleep(self.planned.after).await;
        match tokio::time::timeout(PATIENCE, self.told()).await {
            Ok(told) => told.with_context(|| format!("the fault {kind}"))?,
            Err(_) => return Err(anyhow!("the fault {kind} is not over after {PATIENCE:?}")),
        }
        ensure!(self.fired.load(Ordering::Relaxed), "the fault {kind} did not fire");
        Ok(())
    }

    async fn told(&self) -> anyhow::Result<()> {
        use processes::{Part, Who};
        match self.planned.kind {
            Kind::EngineKill => processes::kill(self, Who::Any, Part::Engine).await,
            Kind::SidecarKill => processes::kill(self, Who::Any, Part::Sidecar).await,
            Kind::NodeKill => processes::kill(self, Who::Any, Part::Both).await,
            Kind::LeaderKill => processes::kill(self, Who::Leader, Part::Both).await,
            Kind::GroupKill => processes::kill_group(self).await,
            Kind::CrashLoop => processes::crash_loop(self).await,
            Kind::EngineStop => processes::stop(self, Who::Any, Part::Engine).await,
            Kind::SidecarStop => processes::stop(self, Who::Any, Part::Sidecar).await,
            Kind::LeaderStop => processes::stop(self, Who::Leader, Part::Both).await,
            Kind::LeaderEngineStop => processes::stop(self, Who::Leader, Part::Engine).await,
            Kind::NodeTerm => processes::term(self, Who::Any).await,
            Kind::LeaderTerm => processes::term(self, Who::Leader).await,
            Kind::RouterKill | Kind::RouterStop | Kind::RouterTerm => processes::router(self).await,
            Kind::IsolateLeader
            | Kind::IsolateFollower
            | Kind::FromLeaderCut
            | Kind::ToLeaderCut
            | Kind::Bridge
            | Kind::NoMajority
            | Kind::Refused => network::cut(self).await,
            Kind::ClientCut => network::client(self).await,
            Kind::Delay | Kind::Loss | Kind::Bandwidth | Kind::LargeLost | Kind::SlowLink => {
                network::weather(self).await
            }
            Kind::AddressChange => network::address(self).await,
            Kind::Wipe => members::wipe(self).await,
            Kind::LeaveJoin => members::leave_and_join(self).await,
            Kind::Transfer => members::transfer(self).await,
            Kind::Compact => members::compact(self).await,
            Kind::SnapshotInstall => members::snapshot(self).await,
            Kind::SnapshotIntoRecovery => members::snapshot_into_recovery(self).await,
            Kind::ClockJump => clock::jump(self).await,
            Kind::PowerLossOne => disks::power_loss_one(self).await,
            Kind::PowerLossAll | Kind::PowerLossTorn => disks::power_loss_all(self).await,
            Kind::FsyncFails | Kind::TornWrite | Kind::TornEngineWrite => disks::fatal(self).await,
            Kind::FsyncSlow => disks::slow(self).await,
            Kind::DiskFull => disks::full(self).await,
            Kind::SmallDisk => disks::filled(self).await,
            Kind::DiskNoByte | Kind::DiskReadOnly => disks::unwritable(self).await,
            Kind::Move => slots::moved(self).await,
            Kind::MoveCancel => slots::cancelled(self).await,
            Kind::CoordinatorKill | Kind::SourceKill | Kind::TargetKill => slots::killed_in_move(self).await,
        }
    }

    /// Records that the fault has taken effect.
    pub(super) fn fired(&self) {
        self.fired.store(true, Ordering::Relaxed);
    }

    /// Sleeps for the planned duration of the fault.
    pub(super) async fn hold(&self) {
        tokio::time::sleep(self.planned.hold).await;
    }

    /// A number below `end`.
    pub(super) fn random(&self, end: usize) -> usize {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..end)
    }

    /// The affected group.
    pub(super) fn group(&self) -> &'a Cluster {
        &self.store.groups()[self.planned.group]
    }

    /// Locks a random node without another fault.
    pub(super) async fn any_node(&self) -> (Arc<Node>, MutexGuard<'a, ()>) {
        let nodes = self.group().nodes();
        let node = Arc::clone(&nodes[self.random(nodes.len())]);
        let guard = self.lock(&node).await;
        (node, guard)
    }

    /// Locks the leader without another fault.
    pub(super) async fn leader(&self) -> anyhow::Result<(Arc<Node>, MutexGuard<'a, ()>)> {
        eventually_within(LEADER_PATIENCE, "there is a leader", || async {
            let leader = self.group().leader().await?;
            let guard = self.lock(&leader).await;
            ensure!(leader.status().await?.node.leads(), "it leads no more");
            Ok((leader, guard))
        })
        .await
    }

    /// Locks a follower without another fault.
    pub(super) async fn follower(&self) -> anyhow::Result<(Arc<Node>, MutexGuard<'a, ()>)> {
        let choice = self.random(2);
        eventually_within(LEADER_PATIENCE, "there is a follower", || async {
            let leader = self.group().leader().await?;
            let node = Arc::clone(&self.group().others(&leader)[choice]);
            let guard = self.lock(&node).await;
            ensure!(!node.status().await?.node.leads(), "it leads");
            Ok((node, guard))
        })
        .await
    }

    /// Locks all nodes of the group.
    pub(super) async fn all_nodes(&self) -> Vec<MutexGuard<'a, ()>> {
        let mut guards = Vec::new();
        for lock in &self.store.nodes[self.planned.group] {
            guards.push(lock.lock().await);
        }
        guards
    }

    async fn lock(&self, node: &Node) -> MutexGuard<'a, ()> {
        self.store.nodes[self.planned.group][node.index() - 1].lock().await
    }

    /// The group clock in this node's state, in milliseconds. Waits for an engine restarted by another fault.
    pub(super) async fn clock_of(&self, node: &Node) -> anyhow::Result<u64> {
        eventually_within(CLOCK_PATIENCE, "an engine tells its group's clock", || async {
            Ok(node.group_peer()?.describe().await?.0.clock_ms)
        })
        .await
    }
}
