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
use raftkv_runtime::reminder::Reminder;
use tokio::sync::watch;
use tokio::time::Instant;

use commit::{Asked, COMMIT_DEADLINE, POLL, commit, settled_view};
#[cfg(test)]
pub(crate) use joiner::{DIAL_DEADLINE, MAX_ADDRESS_BYTES};
use joiner::{adopt, check_addresses, check_asker, check_joiner, check_log, check_moved, check_new, identify};
pub use outcome::{MembershipError, MembershipOutcome};
use plan::{RefusalCode, Step, View, is_caught_up, plan_join, plan_remove, promotion, removal};

use crate::lead::leadership::{Leadership, TransferError};
use crate::node::metrics::{known_leader, matched_next, metrics_of};
use crate::node::{Group, Node};
use crate::peers::management::{CallError, Joiner, ManagementClient, Pass};
use crate::raft::types::{LogId, Member, NodeId};

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
    /// Two processes with one identity ask for different changes, though they are told in the same words.
    change: Change,
    state: watch::Receiver<JobState>,
}

#[derive(Clone)]
enum JobState {
    Working(Option<MembershipOutcome>),
    Done(Outcome),
}

/// What a change is.
#[derive(Clone, PartialEq, Eq)]
enum Change {
    Join { name: String, raft_address: String, joiner: Option<Joiner> },
    Remove { name: String, force: bool },
}

impl Change {
    fn join(name: &str, raft_address: &str, joiner: Option<Joiner>) -> Self {
        Self::Join { name: name.to_owned(), raft_address: raft_address.to_owned(), joiner }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { name, raft_address, joiner: None } => write!(f, "{name} joins at {raft_address}"),
            Self::Join { name, raft_address, joiner: Some(joiner) } => {
                write!(f, "{name} with raft id {} joins at {raft_address}", joiner.raft_id)
            }
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
    complaints: Arc<Mutex<Reminder>>,
}

impl Membership {
    /// Of this node's group.
    pub fn new(node: Node, leadership: Leadership, client: ManagementClient) -> Self {
        Self { node, leadership, client, turn: Arc::default(), jobs: Arc::default(), complaints: Arc::default() }
    }

    /// Makes the node called `name` that listens at `raft_address` a voter. May be asked again at any time. Past the
    /// deadline a change that has begun continues, and the answer says how far it is. Where the node asks itself, `joiner`
    /// says which process that is: another one that answers at its address is not made a member in its place.
    pub async fn join(&self, name: &str, raft_address: &str, joiner: Option<Joiner>, deadline: Instant) -> Outcome {
        self.ask(Change::join(name, raft_address, joiner), deadline, false).await
    }

    /// Removes a member by name or raft id.
    pub async fn remove(&self, name: &str, force: bool, deadline: Instant) -> Outcome {
        self.ask(Change::Remove { name: name.to_owned(), force }, deadline, false).await
    }

    /// [`join`](Self::join) for a request that another node forwarded: never forwarded again.
    pub async fn join_forwarded(
        &self,
        name: &str,
        raft_address: &str,
        joiner: Option<Joiner>,
        deadline: Instant,
    ) -> Outcome {
        self.ask(Change::join(name, raft_address, joiner), deadline, true).await
    }

    /// [`remove`](Self::remove) for a request that another node forwarded: never forwarded again.
    pub async fn remove_forwarded(&self, name: &str, force: bool, deadline: Instant) -> Outcome {
        self.ask(Change::Remove { name: name.to_owned(), force }, deadline, true).await
    }

    async fn ask(&self, change: Change, deadline: Instant, forwarded: bool) -> Outcome {
        let group = self.node.group().ok_or(MembershipError::Waiting)?;
        if let Some((bar, why)) = self.node.standing.barred() {
            return Err(MembershipError::OutOfService { bar, why });
        }
        let metrics = metrics_of(&group);
        if let Change::Join { name, .. } = &change {
            check_new(name, metrics.membership_config.nodes().map(|(_, member)| member))?;
        }
        if metrics.state == ServerState::Leader {
            return self.work(group, change, deadline).await;
        }
        if forwarded {
            return Err(MembershipError::NoLeader("the node this was forwarded to does not lead".to_owned()));
        }
        self.forward(&group, &change, deadline).await
    }

    async fn forward(&self, group: &Group, change: &Change, deadline: Instant) -> Outcome {
        let (leader, pass) = self.pass_to_leader(group, deadline).await?;
        let address = &leader.management_address;
        let answer = match change {
            Change::Join { name, raft_address, joiner } => {
                self.client.join(address, name, raft_address, *joiner, &pass).await
            }
            Change::Remove { name, force } => self.client.leave(address, name, *force, &pass).await,
        };
        match answer {
            Ok(changed) => Ok(MembershipOutcome::Forwarded { result: changed.result, pending: changed.pending }),
            Err(CallError::Refused(mut problem)) => {
                problem.detail = format!("the leader {} answers: {}", leader.name, problem.detail);
                Err(MembershipError::Remote(problem))
            }
            Err(error @ CallError::NotSent { .. }) => Err(self.no_leader(&error.to_string())),
            Err(error @ CallError::NoAnswer { .. }) => {
                Err(MembershipError::Unknown(format!("the leader {} was asked: {error}", leader.name)))
            }
        }
    }

    /// The leader, which has just said so itself, and what a change that is passed on to it carries. Nothing was asked of
    /// anybody when it fails.
    pub(crate) async fn pass_to_leader(
        &self,
        group: &Group,
        deadline: Instant,
    ) -> Result<(Member, Pass), MembershipError> {
        let mut tried: Option<(NodeId, String)> = None;
        loop {
            let metrics = metrics_of(group);
            let leader = known_leader(&metrics)
                .filter(|leader| *leader != metrics.id)
                .and_then(|leader| Some((leader, metrics.membership_config.get_node(&leader)?)));
            let Some((raft_id, leader)) = leader else {
                return Err(self.no_leader(tried.as_ref().map_or("none is known here", |(_, why)| why.as_str())));
            };
            // Another one may have been elected while the last did not answer.
            if let Some((_, why)) =
                tried.as_ref().filter(|(before, _)| *before == raft_id || Instant::now() >= deadline)
            {
                return Err(self.no_leader(why));
            }
            let why = match self.client.status(&leader.management_address, None).await {
                Ok(status) if status.cluster_id.is_none() => "is in no cluster any more".to_owned(),
                Ok(status) if status.node.raft_id != raft_id => "has given its address to another node".to_owned(),
                Ok(status) if status.node.role != "leader" => "does not lead any more".to_owned(),
                Ok(status) => return Ok((leader.clone(), Pass::until(deadline, &status))),
                Err(error) => format!("does not answer ({error})"),
            };
            tried = Some((raft_id, format!("{}, which led last, {why}", leader.name)));
        }
    }

    fn no_leader(&self, why: &str) -> MembershipError {
        let name = &self.node.identity.name;
        MembershipError::NoLeader(format!("{name} knows the cluster and has no leader: {why}; nothing was done"))
    }

    /// On the leader: begins the change, or waits for the same one that is under way.
    async fn work(&self, group: Arc<Group>, change: Change, deadline: Instant) -> Outcome {
        let what = change.to_string();
        let (state, watched) = watch::channel(JobState::Working(None));
        let job = Job { change: change.clone(), state: watched };
        let begun = {
            let mut jobs = self.lock_jobs();
            match jobs.iter().find(|job| job.change == change).cloned() {
                Some(same) => Err(same),
                // Too late to begin anything.
                None if Instant::now() >= deadline => return Err(MembershipError::Expired),
                None if jobs.len() >= MAX_JOBS => return Err(in_progress(&jobs)),
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
            tracing::debug!("membership: {what}");
            let report = |outcome| {
                state.send_replace(JobState::Working(Some(outcome)));
            };
            let outcome = match &change {
                Change::Join { name, raft_address, joiner } => {
                    this.run_join(&group, (name, raft_address, *joiner), deadline, report).await
                }
                Change::Remove { name, force } => match this.run_remove(&group, name, *force, deadline).await {
                    // So that this node can be removed: by the leader that there is now, if there is still time.
                    Err(MembershipError::HandedOver) => this.forward(&group, &change, deadline).await,
                    outcome => outcome,
                },
            };
            match &outcome {
                Ok(MembershipOutcome::AlreadyVoter) => tracing::debug!("membership: {what}: already a voter"),
                Ok(outcome) => tracing::info!("membership: {what}: {outcome}"),
                Err(error) => this.complain(&format!("membership: {what}: {error}")),
            }
            this.lock_jobs().retain(|job| job.change != change);
            state.send_replace(JobState::Done(outcome));
        });
        wait_for(job, deadline).await
    }

    /// Who is refused asks again, and again.
    fn complain(&self, text: &str) {
        if let Some(again) = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).due(text) {
            tracing::warn!("{text}{again}");
        }
    }

    fn lock_jobs(&self) -> std::sync::MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits one step, when no other one is being committed: the first step of a change not after the deadline of that
    /// change, `until`; what follows from a step that was committed, whenever it can be.
    async fn step(
        &self,
        group: &Group,
        change: ChangeMembers<NodeId, Member>,
        retain: bool,
        at: Option<LogId>,
        until: Option<Instant>,
    ) -> Result<bool, MembershipError> {
        let Ok(_turn) = tokio::time::timeout(COMMIT_DEADLINE, self.turn.lock()).await else {
            return Err(in_progress(&self.lock_jobs()));
        };
        until.map_or(Ok(()), in_time)?;
        commit(group, change, retain, at).await
    }

    /// Ends a change that another leader began.
    async fn finish_joint(&self, group: &Group, at: Option<LogId>) -> Result<(), MembershipError> {
        tracing::info!("membership: finishing a change that an earlier leader began");
        self.step(group, ChangeMembers::AddVoterIds(Default::default()), false, at, None).await.map(drop)
    }

    async fn run_join(
        &self,
        group: &Group,
        (name, raft_address, asker): (&str, &str, Option<Joiner>),
        deadline: Instant,
        report: impl Fn(MembershipOutcome),
    ) -> Outcome {
        // From before the node says where its log ends: what it acknowledges meanwhile must not count against it.
        let before = metrics_of(group);
        let (mut client, identity) = identify(raft_address).await?;
        check_asker(name, raft_address, asker, &identity)?;
        check_joiner(group, self.node.versions.cluster(), name, &identity)?;
        check_addresses(&identity)?;
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
                    RefusalCode::Removed,
                    format!("{joiner} was removed before it had all data"),
                ));
            }
            was_member |= view.members.contains_key(&identity.raft_id);
            match plan_join(&view, identity.raft_id, &joiner)? {
                Step::Done => return Ok(done.unwrap_or(MembershipOutcome::AlreadyVoter)),
                Step::AddLearner(raft_id, member) => {
                    in_time(deadline)?;
                    if identity.cluster_id.is_empty() {
                        adopt(&mut client, group, raft_id).await?;
                    }
                    let change = ChangeMembers::AddNodes([(raft_id, member)].into());
                    if self.step(group, change, true, at, Some(deadline)).await? {
                        was_member = true;
                        tracing::info!(node = %joiner, raft_id, "is a learner now");
                    }
                }
                Step::Update(raft_id, member) => {
                    if let Some(known) = view.members.get(&raft_id) {
                        check_moved(known, &member, &identity).await?;
                        check_log(known, &member, matched_next(&before, raft_id), identity.log_next)?;
                    }
                    let change = ChangeMembers::SetNodes([(raft_id, member)].into());
                    if self.step(group, change, true, at, Some(deadline)).await? {
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
                    if self.step(group, promotion(&view, raft_id, &replaced), false, at, None).await? {
                        tracing::info!(node = %joiner, raft_id, replaced = ?names, "is a voter now");
                        self.forget(group, &view, &replaced, &joiner);
                        done = Some(MembershipOutcome::Joined { replaced: names });
                    }
                }
                Step::Remove(old) => {
                    self.step(group, removal(&view, &old), false, at, None).await?;
                }
                Step::FinishJoint => self.finish_joint(group, at).await?,
                Step::TransferFirst => {
                    return Err(MembershipError::Unknown("the plan makes no sense".to_owned()));
                }
            }
        }
    }

    async fn run_remove(&self, group: &Group, name: &str, force: bool, deadline: Instant) -> Outcome {
        let began = Instant::now();
        loop {
            let (view, at) = settled_view(group, began, Asked::Voters).await?;
            match plan_remove(&view, name, force)? {
                Step::Remove(targets) => {
                    if self.step(group, removal(&view, &targets), false, at, Some(deadline)).await? {
                        tracing::info!(name, ?targets, "is no member any more");
                        self.forget(group, &view, &targets, &self.node.identity.member());
                        return Ok(MembershipOutcome::Removed);
                    }
                }
                Step::TransferFirst => {
                    in_time(deadline)?;
                    tracing::info!("the leader is to leave: another has to lead first");
                    match self.leadership.transfer(None, TRANSFER_DEADLINE).await {
                        Ok(_) | Err(TransferError::NotLeader) => return Err(MembershipError::HandedOver),
                        Err(error) => {
                            return Err(MembershipError::refused(RefusalCode::NoSuccessor, error.to_string()));
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

fn in_progress(jobs: &[Job]) -> MembershipError {
    let changes: Vec<_> = jobs.iter().map(|job| job.change.to_string()).collect();
    MembershipError::InProgress(changes.join(", "))
}

/// Nobody waits past the deadline: what has not begun by then must not surprise anybody later.
fn in_time(deadline: Instant) -> Result<(), MembershipError> {
    if Instant::now() < deadline { Ok(()) } else { Err(MembershipError::Expired) }
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
