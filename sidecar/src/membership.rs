//! [`Membership`]: changes who is a member. One change at a time, on the leader; asked elsewhere, it is forwarded there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition, ServerState};
use raftkv_proto::WIRE_VERSION;
use raftkv_proto::raft::{AdoptRequest, IdentifyRequest, Identity as PeerIdentity};
use raftkv_runtime::failpoint;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::leadership::{
    ALIVE_WITHIN, Leadership, TransferError, has_quorum_contact, known_leader, matched_next, metrics_of, silent_for,
};
use crate::management::{CallError, ManagementClient, Problem};
use crate::membership_plan::{Refusal, Step, View, is_caught_up, plan_join, plan_remove, promotion, removal};
use crate::network::{Peers, RaftClient};
use crate::node::{Group, Node};
use crate::types::{LogId, Member, NodeId, TypeConfig};

/// To reach a node and have it say who it is.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// A node that is asked to join writes its identity to disk and opens nothing large.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at a step that takes time.
const POLL: Duration = Duration::from_millis(100);
/// A learner that got nothing new for so long is given up; it stays a learner, and asking again goes on from there.
const STALL_DEADLINE: Duration = Duration::from_secs(300);
/// A committed change takes a round trip; one that takes longer has no quorum.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);
/// To hand leadership over before the leader itself is removed.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);

/// What came of a change that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipOutcome {
    /// It is a voter now; with the names of members it replaced.
    Joined {
        /// Old selves of the node, gone now.
        replaced: Vec<String>,
    },
    /// It was one already.
    AlreadyVoter,
    /// It is still getting the log; the change goes on.
    CatchingUp {
        /// Entries it has.
        matched: u64,
        /// Entries there are.
        last: u64,
    },
    /// It is no member any more.
    Removed,
    /// The leader to which this was forwarded said so.
    Forwarded {
        /// Its words.
        result: String,
        /// Whether the change goes on.
        pending: bool,
    },
}

impl MembershipOutcome {
    /// Whether the change goes on in the background.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::CatchingUp { .. } | Self::Forwarded { pending: true, .. })
    }
}

impl fmt::Display for MembershipOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { replaced } if replaced.is_empty() => f.write_str("joined"),
            Self::Joined { replaced } => write!(f, "replaced {}", replaced.join(", ")),
            Self::AlreadyVoter => f.write_str("already a voter"),
            Self::CatchingUp { matched, last } => {
                write!(f, "learner, catching up: {matched} of {last}")
            }
            Self::Removed => f.write_str("removed"),
            Self::Forwarded { result, .. } => f.write_str(result),
        }
    }
}

/// Why a membership was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// This node is in no cluster.
    #[error("this node is in no cluster yet")]
    Waiting,
    /// Nobody leads, or the leader could not be reached; nothing was changed.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// Another change is under way.
    #[error("another change of the membership is under way: {0}")]
    InProgress(String),
    /// It cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node to join does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It may still happen: ask again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// What the leader answered.
    #[error("{}", .0.detail)]
    Remote(Problem),
}

impl MembershipError {
    fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal { code, detail: detail.into() })
    }

    /// As HTTP has it.
    pub fn to_problem(&self) -> Problem {
        let (status, code) = match self {
            Self::Remote(problem) => return problem.clone(),
            Self::Waiting => (StatusCode::SERVICE_UNAVAILABLE, "waiting"),
            Self::NoLeader(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Self::InProgress(_) => (StatusCode::CONFLICT, "in_progress"),
            Self::Refused(refusal) if refusal.code == "no_such_member" => (StatusCode::NOT_FOUND, refusal.code),
            Self::Refused(refusal) => (StatusCode::CONFLICT, refusal.code),
            Self::Unreachable(_) => (StatusCode::BAD_GATEWAY, "unreachable"),
            Self::Unknown(_) => (StatusCode::GATEWAY_TIMEOUT, "unknown"),
        };
        Problem::new(status, code, self.to_string())
    }
}

impl From<MembershipError> for tonic::Status {
    fn from(error: MembershipError) -> Self {
        let text = error.to_string();
        match error.to_problem().status {
            404 => Self::not_found(text),
            409 => Self::failed_precondition(text),
            504 => Self::deadline_exceeded(text),
            _ => Self::unavailable(text),
        }
    }
}

type Outcome = Result<MembershipOutcome, MembershipError>;

/// A change under way.
#[derive(Clone)]
struct Job {
    what: String,
    state: watch::Receiver<JobState>,
}

#[derive(Clone)]
enum JobState {
    Working(Option<MembershipOutcome>),
    Done(Outcome),
}

/// What a change is.
#[derive(Clone)]
enum Change {
    Join { name: String, raft_address: String },
    Remove { name: String, force: bool },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { name, raft_address } => write!(f, "{name} joins at {raft_address}"),
            Self::Remove { name, .. } => write!(f, "{name} leaves"),
        }
    }
}

/// Changes the membership of this node's group. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    node: Node,
    leadership: Leadership,
    client: ManagementClient,
    /// Held by the one change that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    job: Arc<Mutex<Option<Job>>>,
}

impl Membership {
    /// Of this node's group.
    pub fn new(node: Node, leadership: Leadership, client: ManagementClient) -> Self {
        Self { node, leadership, client, turn: Arc::default(), job: Arc::default() }
    }

    /// Makes the node called `name` that listens at `raft_address` a voter. May be asked again at any time. Past the
    /// deadline the change goes on, and the answer says how far it is.
    pub async fn join(&self, name: &str, raft_address: &str, deadline: Instant) -> Outcome {
        self.ask(Change::Join { name: name.to_owned(), raft_address: raft_address.to_owned() }, deadline, false).await
    }

    /// Removes a member by name or raft id.
    pub async fn remove(&self, name: &str, force: bool, deadline: Instant) -> Outcome {
        self.ask(Change::Remove { name: name.to_owned(), force }, deadline, false).await
    }

    /// [`join`](Self::join) for a request that another node forwarded: never forwarded again.
    pub async fn join_forwarded(&self, name: &str, raft_address: &str, deadline: Instant) -> Outcome {
        self.ask(Change::Join { name: name.to_owned(), raft_address: raft_address.to_owned() }, deadline, true).await
    }

    /// [`remove`](Self::remove) for a request that another node forwarded: never forwarded again.
    pub async fn remove_forwarded(&self, name: &str, force: bool, deadline: Instant) -> Outcome {
        self.ask(Change::Remove { name: name.to_owned(), force }, deadline, true).await
    }

    async fn ask(&self, change: Change, deadline: Instant, forwarded: bool) -> Outcome {
        let group = self.node.group().ok_or(MembershipError::Waiting)?;
        if metrics_of(&group).state == ServerState::Leader {
            return self.work(group, change, deadline).await;
        }
        if forwarded {
            return Err(MembershipError::NoLeader("the node this was forwarded to does not lead".to_owned()));
        }
        self.forward(&group, &change, deadline).await
    }

    async fn forward(&self, group: &Group, change: &Change, deadline: Instant) -> Outcome {
        let metrics = metrics_of(group);
        let leader = known_leader(&metrics)
            .and_then(|leader| metrics.membership_config.get_node(&leader))
            .ok_or_else(|| MembershipError::NoLeader("none is known here".to_owned()))?;
        let within = deadline.saturating_duration_since(Instant::now());
        let address = &leader.management_address;
        let answer = match change {
            Change::Join { name, raft_address } => self.client.join(address, name, raft_address, within, true).await,
            Change::Remove { name, force } => self.client.leave(address, name, *force, within, true).await,
        };
        match answer {
            Ok(changed) => Ok(MembershipOutcome::Forwarded { result: changed.result, pending: changed.pending }),
            Err(CallError::Refused(problem)) => Err(MembershipError::Remote(problem)),
            Err(error @ CallError::NoAnswer { .. }) => Err(MembershipError::NoLeader(error.to_string())),
        }
    }

    /// On the leader: begins the change, or waits for the same one that is under way.
    async fn work(&self, group: Arc<Group>, change: Change, deadline: Instant) -> Outcome {
        let what = change.to_string();
        if let Some(job) = self.current().filter(|job| job.what == what) {
            return wait_for(job, deadline).await;
        }
        let Ok(turn) = tokio::time::timeout_at(deadline, self.turn.clone().lock_owned()).await else {
            return Err(MembershipError::InProgress(self.current().map(|job| job.what).unwrap_or_default()));
        };
        let (state, watched) = watch::channel(JobState::Working(None));
        let job = Job { what: what.clone(), state: watched };
        *self.lock_job() = Some(job.clone());
        let this = self.clone();
        // On its own: whoever asked may go away, the change must still end in a definite state.
        tokio::spawn(async move {
            tracing::info!("membership: {what}");
            let report = |outcome| {
                state.send_replace(JobState::Working(Some(outcome)));
            };
            let outcome = match &change {
                Change::Join { name, raft_address } => this.run_join(&group, name, raft_address, report).await,
                Change::Remove { name, force } => match this.run_remove(&group, name, *force).await {
                    Err(MembershipError::NoLeader(_)) if !leads(&group) => {
                        // Leadership was handed over so that this node can be removed.
                        this.forward(&group, &change, Instant::now() + COMMIT_DEADLINE).await
                    }
                    outcome => outcome,
                },
            };
            match &outcome {
                Ok(outcome) => tracing::info!("membership: {what}: {outcome}"),
                Err(error) => tracing::warn!("membership: {what}: {error}"),
            }
            *this.lock_job() = None;
            state.send_replace(JobState::Done(outcome));
            drop(turn);
        });
        wait_for(job, deadline).await
    }

    fn current(&self) -> Option<Job> {
        self.lock_job().clone()
    }

    fn lock_job(&self) -> std::sync::MutexGuard<'_, Option<Job>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_join(
        &self,
        group: &Group,
        name: &str,
        raft_address: &str,
        report: impl Fn(MembershipOutcome),
    ) -> Outcome {
        let (mut client, identity) = identify(raft_address).await?;
        check_joiner(group, name, &identity)?;
        let joiner = Member {
            name: identity.name.clone(),
            // As the node itself says: the address asked with may be one that only the asker can use.
            raft_address: identity.raft_address.clone(),
            management_address: identity.management_address.clone(),
            http_address: identity.http_address.clone(),
            group_address: identity.group_address.clone(),
        };
        let mut done = None;
        let mut progress = (0, Instant::now());
        let began = Instant::now();
        loop {
            let (view, at) = settled_view(group, began).await?;
            match plan_join(&view, identity.raft_id, &joiner)? {
                Step::Done => return Ok(done.unwrap_or(MembershipOutcome::AlreadyVoter)),
                Step::AddLearner(raft_id, member) => {
                    if identity.cluster_id.is_empty() {
                        adopt(&mut client, group, raft_id).await?;
                    }
                    let change = ChangeMembers::AddNodes([(raft_id, member)].into());
                    if commit(group, change, true, at).await? {
                        tracing::info!(node = %joiner, raft_id, "is a learner now");
                    }
                }
                Step::Update(raft_id, member) => {
                    if commit(group, ChangeMembers::SetNodes([(raft_id, member)].into()), true, at).await? {
                        tracing::info!(node = %joiner, raft_id, "has new addresses");
                        done.get_or_insert(MembershipOutcome::Joined { replaced: Vec::new() });
                    }
                }
                Step::Promote { raft_id, replaced } => {
                    let metrics = metrics_of(group);
                    let last = metrics.last_log_index.map_or(0, |index| index + 1);
                    let matched = matched_next(&metrics, raft_id).unwrap_or(0);
                    if matched > progress.0 {
                        progress = (matched, Instant::now());
                    }
                    if !is_caught_up(matched, last) {
                        report(MembershipOutcome::CatchingUp { matched, last });
                        if progress.1.elapsed() > STALL_DEADLINE {
                            return Err(MembershipError::Unreachable(format!(
                                "{joiner} is a learner, but got nothing new for {STALL_DEADLINE:?}"
                            )));
                        }
                        tokio::time::sleep(POLL).await;
                        continue;
                    }
                    let names = replaced.iter().filter_map(|old| view.members.get(old)).map(ToString::to_string);
                    let names: Vec<String> = names.collect();
                    if commit(group, promotion(&view, raft_id, &replaced), false, at).await? {
                        tracing::info!(node = %joiner, raft_id, replaced = ?names, "is a voter now");
                        self.forget(group, &view, &replaced, &joiner);
                        done = Some(MembershipOutcome::Joined { replaced: names });
                    }
                }
                Step::Remove(old) => {
                    commit(group, removal(&view, &old), false, at).await?;
                }
                Step::FinishJoint => finish_joint(group, at).await?,
                Step::TransferFirst => {
                    return Err(MembershipError::Unknown("the plan makes no sense".to_owned()));
                }
            }
        }
    }

    async fn run_remove(&self, group: &Group, name: &str, force: bool) -> Outcome {
        let began = Instant::now();
        loop {
            let (view, at) = settled_view(group, began).await?;
            match plan_remove(&view, name, force)? {
                Step::Remove(targets) => {
                    if commit(group, removal(&view, &targets), false, at).await? {
                        tracing::info!(name, ?targets, "is no member any more");
                        self.forget(group, &view, &targets, &self.node.identity.member());
                        return Ok(MembershipOutcome::Removed);
                    }
                }
                Step::TransferFirst => {
                    tracing::info!("the leader is to leave: another has to lead first");
                    match self.leadership.transfer(None, TRANSFER_DEADLINE).await {
                        Ok(_) | Err(TransferError::NotLeader) => {
                            return Err(MembershipError::NoLeader("leadership has just moved".to_owned()));
                        }
                        Err(error) => {
                            return Err(MembershipError::refused("no_successor", error.to_string()));
                        }
                    }
                }
                _ => finish_joint(group, at).await?,
            }
        }
    }

    /// Drops connections to members that are gone, unless their address is another's now.
    fn forget(&self, group: &Group, view: &View, gone: &[NodeId], other: &Member) {
        for member in gone.iter().filter_map(|id| view.members.get(id)) {
            if member.raft_address != other.raft_address {
                group.peers.forget(&member.raft_address);
            }
        }
    }
}

fn leads(group: &Group) -> bool {
    metrics_of(group).state == ServerState::Leader
}

async fn wait_for(mut job: Job, deadline: Instant) -> Outcome {
    let done = job.state.wait_for(|state| matches!(state, JobState::Done(_)));
    let state = match tokio::time::timeout_at(deadline, done).await {
        Ok(Ok(state)) => Some(state.clone()),
        Ok(Err(_)) => return Err(MembershipError::Unknown("this node is stopping".to_owned())),
        Err(_) => None,
    };
    match state.unwrap_or_else(|| job.state.borrow().clone()) {
        JobState::Done(outcome) => outcome,
        JobState::Working(Some(progress)) => Ok(progress),
        JobState::Working(None) => Err(MembershipError::Unknown("not done yet; it goes on".to_owned())),
    }
}

/// What the leader sees, and the log id of the membership it saw: a change based on it is refused if that has changed.
fn view(group: &Group) -> Result<(View, Option<LogId>), MembershipError> {
    let metrics = metrics_of(group);
    if metrics.state != ServerState::Leader {
        return Err(MembershipError::NoLeader("this node does not lead any more".to_owned()));
    }
    let stored = &metrics.membership_config;
    let configs = stored.get_joint_config();
    let alive = |id: &NodeId| silent_for(&metrics, *id).is_some_and(|silent| silent <= ALIVE_WITHIN);
    let view = View {
        voters: configs.last().cloned().unwrap_or_default(),
        members: stored.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        alive: stored.nodes().map(|(id, _)| *id).filter(alive).collect(),
        joint: configs.len() > 1,
        leader: metrics.id,
    };
    Ok((view, *stored.log_id()))
}

/// [`view`], once each member has answered this leader or has had the time to: a new leader has not heard of anybody yet,
/// and must not take them for dead.
async fn settled_view(group: &Group, began: Instant) -> Result<(View, Option<LogId>), MembershipError> {
    loop {
        let (view, at) = view(group)?;
        if view.alive.len() == view.members.len() || began.elapsed() >= ALIVE_WITHIN {
            return Ok((view, at));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn identify(raft_address: &str) -> Result<(RaftClient, PeerIdentity), MembershipError> {
    let unreachable =
        |reason: String| MembershipError::Unreachable(format!("{raft_address} does not answer: {reason}"));
    let asked = tokio::time::timeout(DIAL_DEADLINE, async {
        let mut client = Peers::dial(raft_address).await.map_err(|error| unreachable(error.to_string()))?;
        let identity = client.identify(IdentifyRequest {}).await;
        let identity = identity.map_err(|status| unreachable(status.message().to_owned()))?.into_inner();
        Ok((client, identity))
    });
    asked.await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {DIAL_DEADLINE:?}"))))
}

fn check_joiner(group: &Group, name: &str, identity: &PeerIdentity) -> Result<(), MembershipError> {
    if identity.wire_version != WIRE_VERSION {
        return Err(MembershipError::refused(
            "wire_version",
            format!("{} speaks wire version {}, this group {WIRE_VERSION}", identity.name, identity.wire_version),
        ));
    }
    if identity.name != name {
        return Err(MembershipError::refused(
            "wrong_node",
            format!("the node at that address is called {:?}, not {name:?}", identity.name),
        ));
    }
    if !identity.cluster_id.is_empty() && identity.cluster_id != group.cluster_id {
        return Err(MembershipError::refused(
            "other_cluster",
            format!("{name} is in the cluster {}; empty its data directory first", identity.cluster_id),
        ));
    }
    Ok(())
}

async fn adopt(client: &mut RaftClient, group: &Group, raft_id: NodeId) -> Result<(), MembershipError> {
    let request = AdoptRequest { cluster_id: group.cluster_id.clone(), raft_id };
    match tokio::time::timeout(ADOPT_DEADLINE, client.adopt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            Err(MembershipError::Unreachable(format!("the node refuses to be adopted: {}", status.message())))
        }
        Err(_) => Err(MembershipError::Unreachable(format!("the node was not adopted within {ADOPT_DEADLINE:?}"))),
    }
}

/// Ends a change that another leader began.
async fn finish_joint(group: &Group, at: Option<LogId>) -> Result<(), MembershipError> {
    tracing::info!("membership: finishing a change that an earlier leader began");
    commit(group, ChangeMembers::AddVoterIds(Default::default()), false, at).await.map(drop)
}

/// Proposes a change that was planned on the membership stored at `at`. False: it has changed since, plan again.
async fn commit(
    group: &Group,
    change: ChangeMembers<NodeId, Member>,
    retain: bool,
    at: Option<LogId>,
) -> Result<bool, MembershipError> {
    failpoint!("sidecar::membership::before_change");
    let unchanged = [Precondition::<TypeConfig>::LastMembershipLogId { last_membership_log_id: at }];
    let proposed = group.raft.change_membership_if(change, retain, unchanged);
    let result = match tokio::time::timeout(COMMIT_DEADLINE, proposed).await {
        Ok(result) => result,
        Err(_) => {
            return Err(MembershipError::Unknown(format!("not committed within {COMMIT_DEADLINE:?}")));
        }
    };
    match result {
        Ok(_) => {
            failpoint!("sidecar::membership::after_change");
            Ok(true)
        }
        Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) => plan_again(group).await,
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            use openraft::errors::ChangeMembershipError as E;
            match error {
                // A new leader has to commit what the old one left first.
                E::InProgress(_) | E::UncommittedLeaderLog(_) => plan_again(group).await,
                error => Err(MembershipError::refused("refused", error.to_string())),
            }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(error))) => {
            Err(MembershipError::NoLeader(error.to_string()))
        }
        Err(RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_))) => {
            Err(MembershipError::Unknown(error.to_string()))
        }
        Err(RaftError::Fatal(error)) => Err(MembershipError::Unknown(error.to_string())),
    }
}

/// False after a moment, unless a leader without a quorum would wait for ever.
async fn plan_again(group: &Group) -> Result<bool, MembershipError> {
    tokio::time::sleep(POLL).await;
    if has_quorum_contact(group) {
        Ok(false)
    } else {
        Err(MembershipError::NoLeader("this leader has lost its quorum".to_owned()))
    }
}
