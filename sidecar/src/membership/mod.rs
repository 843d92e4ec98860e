//! [`Membership`]: changes who is a member, on the leader; asked elsewhere, it is forwarded there.
//!
//! One step is committed at a time. What takes long holds nobody up: while a joining node gets the data, other changes are made,
//! its own removal included. Each step is planned on the membership that it is proposed with, so changes that are under way
//! together see each other's steps and never overwrite them.

mod commit;
mod joiner;
mod outcome;
pub mod plan;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{ChangeMembers, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use commit::{Asked, COMMIT_DEADLINE, POLL, commit, settled_view};
use joiner::{adopt, check_joiner, identify};
pub use outcome::{MembershipError, MembershipOutcome};
use plan::{Step, View, is_caught_up, plan_join, plan_remove, promotion, removal};

use crate::leadership::{Leadership, TransferError, known_leader, matched_next, metrics_of};
use crate::management::{CallError, ManagementClient};
use crate::node::{Group, Node};
use crate::types::{LogId, Member, NodeId};

/// A learner that got nothing new for so long is given up; it stays a learner, and asking again goes on from there.
const STALL_DEADLINE: Duration = Duration::from_secs(300);
/// Changes under way at the same time; asking for more is refused. Each waits for one node.
const MAX_JOBS: usize = 16;
/// To hand leadership over before the leader itself is removed.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);

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
    /// Held while a step is committed.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The changes under way, at most [`MAX_JOBS`].
    jobs: Arc<Mutex<Vec<Job>>>,
}

impl Membership {
    /// Of this node's group.
    pub fn new(node: Node, leadership: Leadership, client: ManagementClient) -> Self {
        Self { node, leadership, client, turn: Arc::default(), jobs: Arc::default() }
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
        let (state, watched) = watch::channel(JobState::Working(None));
        let job = Job { what: what.clone(), state: watched };
        let begun = {
            let mut jobs = self.lock_jobs();
            match jobs.iter().find(|job| job.what == what).cloned() {
                Some(same) => Err(same),
                None if jobs.len() >= MAX_JOBS => {
                    let whats: Vec<_> = jobs.iter().map(|job| job.what.as_str()).collect();
                    return Err(MembershipError::InProgress(whats.join(", ")));
                }
                None => {
                    jobs.push(job.clone());
                    Ok(())
                }
            }
        };
        if let Err(same) = begun {
            return wait_for(same, deadline).await;
        }
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
            this.lock_jobs().retain(|job| job.what != what);
            state.send_replace(JobState::Done(outcome));
        });
        wait_for(job, deadline).await
    }

    fn lock_jobs(&self) -> std::sync::MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits one step, when no other one is being committed.
    async fn step(
        &self,
        group: &Group,
        change: ChangeMembers<NodeId, Member>,
        retain: bool,
        at: Option<LogId>,
    ) -> Result<bool, MembershipError> {
        let Ok(_turn) = tokio::time::timeout(COMMIT_DEADLINE, self.turn.lock()).await else {
            let whats: Vec<_> = self.lock_jobs().iter().map(|job| job.what.clone()).collect();
            return Err(MembershipError::InProgress(whats.join(", ")));
        };
        commit(group, change, retain, at).await
    }

    /// Ends a change that another leader began.
    async fn finish_joint(&self, group: &Group, at: Option<LogId>) -> Result<(), MembershipError> {
        tracing::info!("membership: finishing a change that an earlier leader began");
        self.step(group, ChangeMembers::AddVoterIds(Default::default()), false, at).await.map(drop)
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
        let mut was_member = false;
        let began = Instant::now();
        loop {
            let (view, at) = settled_view(group, began, Asked::All).await?;
            if was_member && !view.members.contains_key(&identity.raft_id) {
                return Err(MembershipError::refused(
                    "removed",
                    format!("{joiner} was removed before it had all data"),
                ));
            }
            was_member |= view.members.contains_key(&identity.raft_id);
            match plan_join(&view, identity.raft_id, &joiner)? {
                Step::Done => return Ok(done.unwrap_or(MembershipOutcome::AlreadyVoter)),
                Step::AddLearner(raft_id, member) => {
                    if identity.cluster_id.is_empty() {
                        adopt(&mut client, group, raft_id).await?;
                    }
                    let change = ChangeMembers::AddNodes([(raft_id, member)].into());
                    if self.step(group, change, true, at).await? {
                        was_member = true;
                        tracing::info!(node = %joiner, raft_id, "is a learner now");
                    }
                }
                Step::Update(raft_id, member) => {
                    if self.step(group, ChangeMembers::SetNodes([(raft_id, member)].into()), true, at).await? {
                        tracing::info!(node = %joiner, raft_id, "has new addresses");
                        done.get_or_insert(MembershipOutcome::Joined { replaced: Vec::new() });
                    }
                }
                Step::Promote { raft_id, replaced } => {
                    let metrics = metrics_of(group);
                    let last = metrics.last_log_index.map_or(0, |index| index + 1);
                    let matched = matched_next(&metrics, raft_id).unwrap_or(0);
                    // A snapshot has a deadline of its own.
                    if matched > progress.0 || group.peers.is_in_snapshot(raft_id) {
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
                    if self.step(group, promotion(&view, raft_id, &replaced), false, at).await? {
                        tracing::info!(node = %joiner, raft_id, replaced = ?names, "is a voter now");
                        self.forget(group, &view, &replaced, &joiner);
                        done = Some(MembershipOutcome::Joined { replaced: names });
                    }
                }
                Step::Remove(old) => {
                    self.step(group, removal(&view, &old), false, at).await?;
                }
                Step::FinishJoint => self.finish_joint(group, at).await?,
                Step::TransferFirst => {
                    return Err(MembershipError::Unknown("the plan makes no sense".to_owned()));
                }
            }
        }
    }

    async fn run_remove(&self, group: &Group, name: &str, force: bool) -> Outcome {
        let began = Instant::now();
        loop {
            let (view, at) = settled_view(group, began, Asked::Voters).await?;
            match plan_remove(&view, name, force)? {
                Step::Remove(targets) => {
                    if self.step(group, removal(&view, &targets), false, at).await? {
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
                _ => self.finish_joint(group, at).await?,
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
