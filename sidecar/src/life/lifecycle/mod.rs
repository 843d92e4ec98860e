//! [`Lifecycle`]: how a node becomes a part of a cluster, and what it may not do before.

mod joining;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::RaftLogReader;
use openraft::errors::{InitializeError, RaftError};
use raftkv_proto::SPOKEN;
use raftkv_runtime::reminder::Pauses;
use raftkv_runtime::settings::{MAX_NEW_NAME_BYTES, is_new_name};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::{exit, planted};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::engine::state_machine::{Raft, RemoteStateMachine};
use crate::lead::candidacy;
use crate::lead::narrator::narrate;
use crate::life::bootstrap::{Answer, Decision, Waiting, decide};
use crate::life::registration::{ASK_AGAIN, Assignment, Registrar};
use crate::node::elections::{Elections, Reason};
use crate::node::identity::{Allegiance, IdentityError, IdentityStore, new_cluster_id};
use crate::node::promise::{self, Lasting};
use crate::node::standing::Bar;
use crate::node::twin;
use crate::node::{Group, Node, Phase};
use crate::peers::Peers;
use crate::peers::inbound::Inbound;
use crate::peers::management::ManagementClient;
use crate::propose::combiner::Combiner;
use crate::propose::leader_lease::LeaderLease;
use crate::raft::acks::Acks;
use crate::raft::config::raft_config;
use crate::raft::group_clock::GroupClock;
use crate::raft::log_store::LogStore;
use crate::raft::timing::Timing;
use crate::raft::types::NodeId;
use joining::{Story, Traces};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(500);
/// A lone node listens for an old cluster before it forms a new one: longer than members' reconnect attempts.
const LISTEN_BEFORE_FORMING: Duration = Duration::from_millis(1_500);
/// A claim to form the cluster holds for as long; the claimant renews it each round.
const CLAIM_LIFETIME: Duration = Duration::from_secs(10);
/// Between two rounds in which it is refused again and again.
const SELDOM: Duration = Duration::from_secs(10);

/// Why a node was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Another node answers at this address now.
    #[error("this node's raft id is {0}")]
    WrongRaftId(NodeId),
    /// It has an allegiance.
    #[error("this node is in the cluster {0}")]
    InCluster(String),
    /// The cluster's name is none.
    #[error("{0:?} is no cluster id")]
    BadClusterId(String),
    /// It could not become a part of it.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why Raft does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log is still being read.
    #[error("this node is still reading its log")]
    NoLog,
    /// The identity could not be written.
    #[error("remember the cluster: {0}")]
    Pledge(#[source] std::io::Error),
    /// The log could not be read.
    #[error("read the vote: {0}")]
    Vote(#[source] std::io::Error),
    /// The promise of earlier runs is not known, or that of this one cannot be recorded.
    #[error(transparent)]
    Promise(#[from] IdentityError),
    /// A node of this name can be in no new cluster.
    #[error(
        "NODE_ID {0:?} is no name for the first node of a cluster: a name has 1 to {MAX_NEW_NAME_BYTES} letters, digits, dots, dashes \
         and underscores"
    )]
    BadName(String),
    /// openraft's settings contradict each other.
    #[error("settings of consensus: {0}")]
    Config(#[from] openraft::ConfigError),
    /// openraft refused.
    #[error("start consensus: {0}")]
    Raft(String),
}

/// What the operator wants of a node on its way to membership.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// To form a cluster when none is found.
    pub bootstrap: bool,
    /// Management addresses of nodes to join.
    pub join: Vec<String>,
    /// The sidecar's directory.
    pub dir: PathBuf,
    /// How long members wait.
    pub timing: Timing,
    /// To read by the leader's lease.
    pub read_lease: bool,
}

/// Takes a node from its start to membership.
pub struct Lifecycle {
    node: Node,
    store: Arc<IdentityStore>,
    /// Opened after the first questions can be answered: a long log takes a while.
    log: OnceLock<LogStore>,
    client: ManagementClient,
    bootstrap: bool,
    join: Vec<String>,
    /// Asked instead when there is nobody to join.
    registrar: Option<Registrar>,
    /// The sidecar's.
    dir: PathBuf,
    timing: Timing,
    read_lease: bool,
    votes_allowed: AtomicBool,
    foreign: watch::Sender<Option<String>>,
    claim: Mutex<Option<(NodeId, Instant)>>,
    /// What was last said of the way to membership; empty = it is a voter.
    reason: Mutex<String>,
    /// What is known of other processes with this node's identity.
    traces: Mutex<Traces>,
    /// Held while Raft is being started: it is started once.
    starting: tokio::sync::Mutex<()>,
    wake: Notify,
}

impl Lifecycle {
    /// Of a node that waits. Nothing is begun before [`log_is_open`](Self::log_is_open).
    pub fn new(
        node: Node,
        store: IdentityStore,
        client: ManagementClient,
        registrar: Option<Registrar>,
        wishes: Wishes,
    ) -> Self {
        Self {
            node,
            store: Arc::new(store),
            log: OnceLock::new(),
            client,
            bootstrap: wishes.bootstrap,
            join: wishes.join,
            registrar,
            dir: wishes.dir,
            timing: wishes.timing,
            read_lease: wishes.read_lease,
            votes_allowed: AtomicBool::new(false),
            foreign: watch::Sender::new(None),
            claim: Mutex::new(None),
            reason: Mutex::default(),
            traces: Mutex::default(),
            starting: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
        }
    }

    /// From now on Raft can be started.
    pub fn log_is_open(&self, log: LogStore) {
        // A second log would be a bug of the caller; the first one stays.
        let _ = self.log.set(log);
    }

    /// Whether this node may grant votes. Not right after a restart (see [`Timing::restart_wait`]): until then a lease that it
    /// helped to grant may still be trusted, though it does not remember it.
    pub fn votes_allowed(&self) -> bool {
        self.votes_allowed.load(Ordering::Acquire) && self.node.standing.may_vote()
    }

    /// Notes that a cluster has sent a Raft message to this node, which is in none: it must not form another.
    pub fn foreign_contact(&self, cluster_id: &str) {
        // Not in a group yet, but about to resume: its own cluster is calling.
        if self.store.allegiance().is_some() {
            return;
        }
        let noted = self.foreign.send_if_modified(|known| {
            let new = known.is_none() && !cluster_id.is_empty();
            if new {
                *known = Some(cluster_id.to_owned());
            }
            new
        });
        if noted {
            tracing::warn!(
                cluster_id,
                "a cluster still knows this address, though this node is empty: it must join that one"
            );
        }
    }

    /// What this node says while it waits, after noting that `claimant` wants to form the cluster. `None` once it is in one.
    pub fn waiting(&self, claimant: Option<NodeId>) -> Option<Waiting> {
        // An allegiance on disk counts before Raft runs.
        if self.node.group().is_some() || self.store.allegiance().is_some() {
            return None;
        }
        Some(Waiting { bootstrap: self.bootstrap, claim: self.claim(claimant), reason: self.reason() })
    }

    /// Why this node is no voter (yet), as its log says; empty = it is one, or nothing is known yet.
    pub fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn claim(&self, claimant: Option<NodeId>) -> Option<NodeId> {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let held = claim.filter(|(_, since)| now.duration_since(*since) < CLAIM_LIFETIME);
        *claim = match (held, claimant) {
            (Some((holder, _)), Some(claimant)) if holder == claimant => Some((holder, now)),
            (None, Some(claimant)) => Some((claimant, now)),
            (held, _) => held,
        };
        claim.map(|(holder, _)| holder)
    }

    fn release_claim(&self) {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.is_some_and(|(holder, _)| holder == self.node.identity.raft_id) {
            *claim = None;
        }
    }

    /// Makes this waiting node a part of a cluster. Durable and running when it returns; asking twice is as good as once.
    pub async fn adopt(self: &Arc<Self>, cluster_id: &str, raft_id: NodeId) -> Result<(), AdoptError> {
        if raft_id != self.node.identity.raft_id {
            return Err(AdoptError::WrongRaftId(self.node.identity.raft_id));
        }
        if cluster_id.len() != 32 || !cluster_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(AdoptError::BadClusterId(cluster_id.to_owned()));
        }
        let _starting = self.starting.lock().await;
        if self.log.get().is_none() {
            return Err(StartError::NoLog.into());
        }
        if let Some(known) = self.store.allegiance() {
            if known.cluster_id != cluster_id {
                return Err(AdoptError::InCluster(known.cluster_id));
            }
        } else {
            self.pledge(Allegiance { cluster_id: cluster_id.to_owned(), forming: false }).await?;
            tracing::info!(cluster_id, "adopted by a cluster");
        }
        if self.node.group().is_none() {
            self.start(cluster_id.to_owned()).await?;
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Until the node is a voter, then for as long as it may have to become one again; ends with the shutdown.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), StartError> {
        let work = async {
            self.become_member().await?;
            self.stay_member().await;
            Ok(())
        };
        tokio::select! {
            result = work => result,
            () = shutdown.wait() => Ok(()),
        }
    }

    /// Resumes, joins, forms or waits, until Raft runs.
    async fn become_member(self: &Arc<Self>) -> Result<(), StartError> {
        if let Some(allegiance) = self.store.allegiance() {
            tracing::info!(cluster_id = allegiance.cluster_id, "resuming as a part of the cluster");
            let _starting = self.starting.lock().await;
            if self.node.group().is_none() {
                self.start(allegiance.cluster_id.clone()).await?;
            }
            return self.finish_forming(allegiance).await;
        }
        if let Some(registrar) = &self.registrar {
            return self.be_assigned(registrar).await;
        }
        let mut story = Story::default();
        let mut pauses = Pauses::new(ROUND, SELDOM);
        if self.bootstrap && self.join.is_empty() {
            let mut foreign = self.foreign.subscribe();
            let _ = tokio::time::timeout(LISTEN_BEFORE_FORMING, foreign.wait_for(Option::is_some)).await;
        }
        let mut phase = self.node.watch_phase();
        // With others around it looks first who they are: of two that claim at once neither would get a majority soon.
        let mut claims = self.bootstrap && self.join.is_empty();
        while self.node.group().is_none() {
            let me = self.node.identity.raft_id;
            let claim = claims.then_some(me);
            // Its own claim first: two that ask at the same time cannot both have both.
            let claimed = self.claim(claim);
            let answers = self.ask_all(claim).await;
            let foreign = self.foreign.borrow().clone();
            let mut pause = ROUND;
            match decide(me, self.bootstrap, &answers, claimed, foreign.as_deref()) {
                Decision::Join(places) => {
                    let addresses: Vec<String> = places.into_iter().map(|at| self.join[at].clone()).collect();
                    self.ask_to_join(&addresses, &mut story).await;
                    pause = pauses.wait();
                }
                Decision::Form => {
                    if self.form().await? {
                        return Ok(());
                    }
                }
                Decision::Yield(first) => {
                    self.release_claim();
                    claims = false;
                    self.tell(
                        &mut story,
                        &format!("the node with raft id {first} may form the cluster, too, and goes first"),
                    );
                }
                Decision::Wait(_) if self.bootstrap && !claims => {
                    claims = true;
                    continue;
                }
                Decision::Wait(reason) => self.tell(&mut story, &reason),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = phase.wait_for(|phase| !matches!(phase, Phase::Waiting)) => {}
            }
        }
        Ok(())
    }

    /// Asks a router what to be, until Raft runs.
    async fn be_assigned(self: &Arc<Self>, registrar: &Registrar) -> Result<(), StartError> {
        let mut story = Story::default();
        let mut pauses = Pauses::new(ASK_AGAIN, SELDOM);
        let mut phase = self.node.watch_phase();
        while self.node.group().is_none() {
            let mut pause = ASK_AGAIN;
            match registrar.ask().await {
                Ok(Assignment::Join { group, join }) => {
                    self.tell(
                        &mut story,
                        &format!("assigned to group {group}: asking {} to be let in", join.join(", ")),
                    );
                    self.ask_to_join(&join, &mut story).await;
                    pause = pauses.wait();
                }
                Ok(Assignment::Bootstrap { group }) => {
                    self.tell(&mut story, &format!("assigned to be the first node of the new group {group}"));
                    // A router may know less than the members of an old cluster that still calls.
                    let mut foreign = self.foreign.subscribe();
                    let called = tokio::time::timeout(LISTEN_BEFORE_FORMING, foreign.wait_for(Option::is_some)).await;
                    let called = called.ok().and_then(|called| called.ok()?.clone());
                    match called {
                        Some(cluster) => self.tell(&mut story, &format!(
                            "the cluster {cluster} still knows this address: a new one is not formed beside it; let a \
                             member of it join this node, or remove this node from it"
                        )),
                        None if self.form().await? => return Ok(()),
                        None => {}
                    }
                }
                Ok(Assignment::Wait { reason }) => self.tell(&mut story, &format!("the router says to wait: {reason}")),
                Err(error) => {
                    self.tell(&mut story, &error.to_string());
                    pause = pauses.wait();
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = phase.wait_for(|phase| !matches!(phase, Phase::Waiting)) => {}
            }
        }
        Ok(())
    }

    async fn ask_all(&self, claim: Option<NodeId>) -> Vec<Answer> {
        let me = self.node.identity.raft_id;
        futures::future::join_all(self.join.iter().map(|address| async move {
            match self.client.status(address, claim).await {
                Ok(status) => Answer::of(&status, me),
                Err(error) => {
                    tracing::debug!("{error}");
                    Answer::Silent
                }
            }
        }))
        .await
    }

    /// Forms a cluster of one. False when the node was adopted in the meantime.
    async fn form(self: &Arc<Self>) -> Result<bool, StartError> {
        let _starting = self.starting.lock().await;
        if self.store.allegiance().is_some() {
            return Ok(false);
        }
        if !is_new_name(&self.node.identity.name) {
            return Err(StartError::BadName(self.node.identity.name.clone()));
        }
        let allegiance = Allegiance { cluster_id: new_cluster_id(), forming: true };
        tracing::info!(cluster_id = allegiance.cluster_id, "forming a new cluster");
        // Nobody older is in it. Who is in front of it may be.
        if self.registrar.as_ref().is_none_or(|registrar| registrar.routers_speak().contains(SPOKEN.max)) {
            self.node.versions.formed();
        }
        self.pledge(allegiance.clone()).await?;
        self.start(allegiance.cluster_id.clone()).await?;
        self.finish_forming(allegiance).await?;
        Ok(true)
    }

    /// Writes the first membership of a cluster this node has formed, unless it was written before a crash.
    async fn finish_forming(&self, allegiance: Allegiance) -> Result<(), StartError> {
        if !allegiance.forming {
            return Ok(());
        }
        let Some(group) = self.node.group() else {
            return Ok(());
        };
        let identity = &self.node.identity;
        let members = std::collections::BTreeMap::from([(identity.raft_id, identity.member())]);
        match group.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(StartError::Raft(error.to_string())),
        }
        self.pledge(Allegiance { forming: false, ..allegiance }).await
    }

    async fn pledge(&self, allegiance: Allegiance) -> Result<(), StartError> {
        let store = self.store.clone();
        let written = tokio::task::spawn_blocking(move || store.pledge(allegiance)).await;
        written.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(StartError::Pledge)
    }

    /// Starts Raft. The caller holds `starting`.
    async fn start(self: &Arc<Self>, cluster_id: String) -> Result<(), StartError> {
        let raft_id = self.node.identity.raft_id;
        let keeper = self.node.keeper.clone();
        let log = self.log.get().ok_or(StartError::NoLog)?.clone().guarded_by(keeper.clone());
        let voted = log.clone().read_vote().await.map_err(StartError::Vote)?.is_some();
        let config = Arc::new(raft_config(&cluster_id, &self.timing).validate()?);
        let promised = promise::record(&self.dir, Lasting::AtLeast(self.timing.promise)).await?;
        let on_contradiction: fn(&str) = |message| exit::fatal(exit::TEMPFAIL, message);
        let engine = self.node.engine.clone();
        let state_machine =
            RemoteStateMachine::new(engine, log.clone(), log.durable(), on_contradiction).reached_by(log.clone());
        let watching = state_machine.watch_engine();
        let (acks, progress) = (Acks::default(), state_machine.progress());
        let clock = GroupClock::default();
        let peers =
            Peers::new(cluster_id.clone(), raft_id, progress.clone(), clock.clone(), acks.clone(), keeper.clone());
        let lease = LeaderLease::new(raft_id, self.read_lease, &self.timing, acks, progress.clone(), keeper);
        let raft = Raft::new(raft_id, config, peers.clone(), log.clone(), state_machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        tokio::spawn(watching);
        let combiner = Combiner::default();
        let (inbound, timing) = (Inbound::default(), self.timing);
        let group = Arc::new(Group { cluster_id, raft, peers, inbound, timing, log, lease, progress, clock, combiner });
        tokio::spawn(group.lease.clone().renew(Arc::downgrade(&group)));
        tokio::spawn(candidacy::watch(self.node.clone(), Arc::downgrade(&group)));
        self.open_elections(group.clone(), voted, promised);
        tokio::spawn(narrate(group.clone(), self.node.clone()));
        self.node.set_running(group);
        Ok(())
    }

    /// Lets this node vote and stand, at once or after the restart wait (decision 3).
    fn open_elections(self: &Arc<Self>, group: Arc<Group>, voted: bool, promised: Option<Duration>) {
        let this = Arc::clone(self);
        let wait = match planted!(RestartWaitsShort) {
            true => self.timing.promise,
            false => self.timing.restart_wait(promised),
        };
        tokio::spawn(async move {
            let mut known = Vec::new();
            if voted {
                tracing::info!(?wait, "restarted with a vote on disk: taking no part in elections for a while");
                let asked = twin::known_addresses(&this.node, &group, &this.client, wait);
                ((), known) = tokio::join!(tokio::time::sleep(wait), asked);
            }
            // Its own port answers by now, too: another process that answers there in its place is found.
            if let Some(address) = twin::find(&this.node, &group, &known).await {
                this.found_twin(&address);
            } else if this.node.standing.stands(Bar::Duplicate) {
                // Found before there was a group; whether it is still there is looked at soon.
                Elections::of(&group).forbid(Reason::Duplicate);
            }
            // What was promised before is over. If it cannot be recorded, the next start waits longer than it must.
            if promised.is_some_and(|promised| promised > this.timing.promise)
                && let Err(error) = promise::record(&this.dir, Lasting::Only(this.timing.promise)).await
            {
                tracing::warn!("{error}");
            }
            this.votes_allowed.store(true, Ordering::Release);
            Elections::of(&group).permit(Reason::Restarted);
        });
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle").field("identity", &self.node.identity).finish_non_exhaustive()
    }
}
