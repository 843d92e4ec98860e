//! [`Killer`]: takes this node out of its group, has its data wiped, and ends it.
//!
//! What happens, and what a crash leaves:
//! 1. `kill-begun` is written. After a crash the next start goes on with the kill, unless it turns out to be refused.
//! 2. The group removes the node. From here it is no member, whatever happens.
//! 3. The order to wipe is written ([`wipe`]). Both processes carry out their part of it before they open anything.
//! 4. This process ends, and the engine, which looks for the order, too.
//!
//! The last voter of a group has nobody to remove it: its group ends with it, and so do keys that are nowhere else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use openraft::{RaftMetrics, ServerState};
use raftkv_proto::state_machine::EngineStatus;
use raftkv_runtime::wipe::{self, Part};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lead::membership::plan::RefusalCode;
use crate::lead::membership::{Membership, MembershipError};
use crate::node::elections::{Elections, Reason};
use crate::node::metrics::metrics_of;
use crate::node::standing::Bar;
use crate::node::{Group, Node, Phase};
use crate::peers::management::Problem;
use crate::raft::types::TypeConfig;

/// In the sidecar's directory: a kill was begun.
const BEGUN: &str = "kill-begun";
/// For one request to be removed.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two of them.
const LEAVE_AGAIN: Duration = Duration::from_millis(500);
/// How long an operator's kill waits for a leader: several elections. One begun before a restart goes on for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the engine to say what the group owns.
const ENGINE_DEADLINE: Duration = Duration::from_secs(5);
/// For what the last voter has taken to be applied.
const APPLY_DEADLINE: Duration = Duration::from_secs(5);

/// Why a node was not killed. Nothing has changed, but for [`Membership`](Self::Membership) with an unknown outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KillError {
    /// It is in no cluster: there is nothing to take it out of.
    #[error("this node is in no cluster yet; stop it and delete its data directory")]
    Waiting,
    /// The engine keeps its data in another directory, where no order reaches it.
    #[error("the engine's data is not in {}: stop the node and delete both directories", .0.display())]
    Elsewhere(PathBuf),
    /// The last node of a group that owns slots.
    #[error("this is the last node of group {group}, which owns {slots} slots: remove the group first")]
    OwnsSlots {
        /// Its id.
        group: u32,
        /// How many.
        slots: u32,
    },
    /// The last node of a group that takes part in a move.
    #[error("this is the last node of group {group}, to or from which slots are being moved: wait, or cancel the move")]
    Moving {
        /// Its id.
        group: u32,
    },
    /// The last node of all.
    #[error("this is the last node: all {keys} keys would be deleted; say so with confirm=delete-all-keys")]
    Unconfirmed {
        /// How many it holds.
        keys: u64,
    },
    /// What the group owns cannot be found out.
    #[error("the engine does not say what the group owns: {0}")]
    Engine(String),
    /// The group did not remove it.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The disk failed.
    #[error("note the kill on the disk: {0}")]
    Disk(String),
}

impl KillError {
    /// As HTTP has it.
    pub fn to_problem(&self) -> Problem {
        let (status, code) = match self {
            Self::Membership(error) => return error.to_problem(),
            Self::Waiting => (StatusCode::CONFLICT, "waiting"),
            Self::Elsewhere(_) => (StatusCode::CONFLICT, "data_elsewhere"),
            Self::OwnsSlots { .. } => (StatusCode::CONFLICT, "owns_slots"),
            Self::Moving { .. } => (StatusCode::CONFLICT, "moving"),
            Self::Unconfirmed { .. } => (StatusCode::CONFLICT, "unconfirmed"),
            Self::Engine(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_engine"),
            Self::Disk(_) => (StatusCode::INTERNAL_SERVER_ERROR, "disk"),
        };
        Problem::new(status, code, self.to_string())
    }

    /// Whether trying again can help.
    fn is_definite(&self) -> bool {
        match self {
            Self::Membership(MembershipError::Refused(_)) => true,
            // The member of this name may be the other process: that one must not be removed in the place of this one.
            Self::Membership(MembershipError::OutOfService { bar: Bar::Duplicate | Bar::Stale, .. }) => true,
            Self::Membership(MembershipError::Remote(problem)) => {
                problem.status == 409 && problem.code != "in_progress"
            }
            Self::Membership(_) | Self::Engine(_) | Self::Disk(_) => false,
            _ => true,
        }
    }
}

/// What came of a kill that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// The order to wipe is on disk; the node is ending.
    Done,
    /// It goes on.
    Pending,
}

/// How the process has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Killed: the next start wipes.
    Wipe,
    /// The kill was given up after the node had stopped serving: the next start goes on as before.
    Resume(String),
}

#[derive(Debug, Clone)]
enum Job {
    Idle,
    Working,
    Over(Result<(), KillError>),
}

/// Kills this node. Cheap to clone.
#[derive(Clone)]
pub struct Killer {
    node: Node,
    membership: Arc<Membership>,
    /// Of the node.
    data_dir: PathBuf,
    /// Of the sidecar.
    dir: PathBuf,
    job: Arc<watch::Sender<Job>>,
    ending: Arc<watch::Sender<Option<Ending>>>,
}

impl Killer {
    /// Of this node, whose directories are these.
    pub fn new(node: Node, membership: Arc<Membership>, data_dir: &Path, dir: &Path) -> Self {
        Self {
            node,
            membership,
            data_dir: data_dir.to_owned(),
            dir: dir.to_owned(),
            job: Arc::new(watch::Sender::new(Job::Idle)),
            ending: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Kills the node. `confirmed`: also when all keys go with it. Asking again while it is under way waits for the same.
    /// Past the deadline it goes on.
    pub async fn kill(&self, confirmed: bool, deadline: Instant) -> Result<Killed, KillError> {
        let mut watched = self.job.subscribe();
        let begins = self.job.send_if_modified(|job| {
            let begins = !matches!(job, Job::Working | Job::Over(Ok(())));
            if begins {
                *job = Job::Working;
            }
            begins
        });
        if begins {
            let this = self.clone();
            // On its own: whoever asked may go away, the kill must still end in a definite state.
            tokio::spawn(async move {
                let done = this.work(confirmed, Some(PATIENCE)).await;
                if let Err(error) = &done {
                    tracing::warn!("this node is not killed: {error}");
                }
                this.over(done);
            });
        }
        let over = watched.wait_for(|job| matches!(job, Job::Over(_)));
        match tokio::time::timeout_at(deadline, over).await {
            Ok(Ok(job)) => match &*job {
                Job::Over(done) => done.clone().map(|()| Killed::Done),
                Job::Idle | Job::Working => Ok(Killed::Pending),
            },
            _ => Ok(Killed::Pending),
        }
    }

    /// Goes on with a kill that was begun before a restart; to be run as a task.
    pub async fn resume(self) {
        if !self.dir.join(BEGUN).exists() {
            return;
        }
        tracing::warn!("this node was being killed when it stopped: going on with that");
        self.job.send_replace(Job::Working);
        let mut phase = self.node.watch_phase();
        // An error would mean that the node is gone.
        if phase.wait_for(|phase| matches!(phase, Phase::Running(_))).await.is_err() {
            return;
        }
        let done = self.work(false, None).await;
        if let Err(error) = &done {
            tracing::warn!("the kill is given up, this node goes on: {error}");
            if let Err(error) = self.forget_begun().await {
                tracing::warn!("{error}");
            }
        }
        self.over(done);
    }

    /// Returns when the process has to end.
    pub async fn ended(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await.map(|ending| ending.clone()) {
            Ok(Some(ending)) => ending,
            // Not while `self` lives.
            _ => std::future::pending().await,
        }
    }

    fn over(&self, done: Result<(), KillError>) {
        let killed = done.is_ok();
        self.job.send_replace(Job::Over(done));
        if killed {
            self.ending.send_replace(Some(Ending::Wipe));
        }
    }

    async fn work(&self, confirmed: bool, patience: Option<Duration>) -> Result<(), KillError> {
        let group = self.node.group().ok_or(KillError::Waiting)?;
        if !Part::Engine.dir(&self.data_dir).is_dir() {
            return Err(KillError::Elsewhere(self.data_dir.clone()));
        }
        if !Elections::of(&group).is_forbidden_by(Reason::Removed) {
            let left = match is_last_voter(&group) {
                true => self.end_group(&group, confirmed).await,
                false => self.leave(&group, patience).await,
            };
            match left {
                // It has come to lead a group of its own meanwhile.
                Err(KillError::Membership(error)) if error.is_refused_as(RefusalCode::LastVoter) => {
                    self.end_group(&group, confirmed).await?;
                }
                left => left?,
            }
        }
        tracing::warn!("this node is killed: it is no member any more, its data is wiped at the next start");
        let data_dir = self.data_dir.clone();
        blocking(move || wipe::order(&data_dir)).await
    }

    /// Has the group remove this node.
    async fn leave(&self, group: &Group, patience: Option<Duration>) -> Result<(), KillError> {
        self.note_begun().await?;
        let began = Instant::now();
        // By its id: a later life of this name must not be hit.
        let me = self.node.identity.raft_id.to_string();
        loop {
            let asked = self.membership.remove(&me, false, Instant::now() + LEAVE_DEADLINE).await;
            let error = match asked {
                Ok(outcome) if !outcome.is_pending() => return Ok(()),
                // It goes on: asking again tells how it ended.
                Ok(_) => None,
                Err(error) if error.is_refused_as(RefusalCode::NoSuchMember) => return Ok(()),
                // Nobody tells a node that was removed who leads; that it was is found out by asking the others.
                Err(_) if Elections::of(group).is_forbidden_by(Reason::Removed) => return Ok(()),
                Err(error) => Some(KillError::from(error)),
            };
            let out_of_patience = patience.is_some_and(|patience| began.elapsed() > patience);
            if let Some(error) = error.filter(|error| error.is_definite() || out_of_patience) {
                self.forget_begun().await?;
                return Err(error);
            }
            tokio::time::sleep(LEAVE_AGAIN).await;
        }
    }

    /// Makes sure that nothing is lost with the last voter that was not given up.
    async fn end_group(&self, group: &Group, confirmed: bool) -> Result<(), KillError> {
        let status = self.engine_status().await?;
        may_end(&status, confirmed)?;
        // Nothing is taken from here on: what was asked above must still be true when the data is gone.
        self.node.set_stopping();
        let applied =
            |metrics: &RaftMetrics<TypeConfig>| metrics.last_applied.map(|id| id.index()) >= metrics.last_log_index;
        let _ = group.raft.wait(Some(APPLY_DEADLINE)).metrics(applied, "all entries are applied").await;
        let still = match self.engine_status().await {
            Ok(status) => may_end(&status, confirmed),
            Err(error) => Err(error),
        };
        if let Err(error) = &still {
            self.ending.send_replace(Some(Ending::Resume(error.to_string())));
        }
        still
    }

    async fn engine_status(&self) -> Result<EngineStatus, KillError> {
        match tokio::time::timeout(ENGINE_DEADLINE, self.node.engine.status()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(status)) => Err(KillError::Engine(raftkv_runtime::reason::call(&status, ""))),
            Err(_) => Err(KillError::Engine(format!("no answer within {ENGINE_DEADLINE:?}"))),
        }
    }

    async fn note_begun(&self) -> Result<(), KillError> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut file = std::fs::File::create(dir.join(BEGUN))?;
            file.write_all(b"this node is being killed\n")?;
            file.sync_all()?;
            std::fs::File::open(dir)?.sync_all()
        })
        .await
    }

    async fn forget_begun(&self) -> Result<(), KillError> {
        let dir = self.dir.clone();
        blocking(move || {
            match std::fs::remove_file(dir.join(BEGUN)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::File::open(dir)?.sync_all()
        })
        .await
    }
}

/// Whether the last voter of a group may go, with the group.
fn may_end(status: &EngineStatus, confirmed: bool) -> Result<(), KillError> {
    match status.group {
        0 if confirmed => Ok(()),
        0 => Err(KillError::Unconfirmed { keys: status.keys }),
        group if status.moving => Err(KillError::Moving { group }),
        group if status.owned_slots > 0 => Err(KillError::OwnsSlots { group, slots: status.owned_slots }),
        _ => Ok(()),
    }
}

/// Only a leader can be sure: just after the start no members are known, and later maybe not the newest.
fn is_last_voter(group: &Group) -> bool {
    let metrics = metrics_of(group);
    metrics.state == ServerState::Leader && metrics.membership_config.voter_ids().eq([metrics.id])
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), KillError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(KillError::Disk(error.to_string())),
        Err(error) => Err(KillError::Disk(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_end_only_when_nothing_is_lost_or_that_was_said() {
        let status = |group, owned_slots, moving| EngineStatus {
            group,
            owned_slots,
            moving,
            keys: 9,
            ..EngineStatus::default()
        };
        assert!(matches!(may_end(&status(0, 0, false), false), Err(KillError::Unconfirmed { keys: 9 })));
        assert!(may_end(&status(0, 0, false), true).is_ok());
        for confirmed in [false, true] {
            assert!(matches!(
                may_end(&status(2, 5, false), confirmed),
                Err(KillError::OwnsSlots { group: 2, slots: 5 })
            ));
            assert!(matches!(may_end(&status(2, 0, true), confirmed), Err(KillError::Moving { group: 2 })));
            assert!(may_end(&status(2, 0, false), confirmed).is_ok());
        }
    }
}
