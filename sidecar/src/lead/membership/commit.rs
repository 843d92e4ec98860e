//! The membership as the leader sees it, and one change of it through Raft.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition, ServerState};
use raftkv_runtime::failpoint;
use tokio::time::Instant;

use super::MembershipError;
use super::plan::{RefusalCode, View};
use crate::node::Group;
use crate::node::metrics::{ALIVE_WITHIN, has_quorum_contact, metrics_of, silent_for};
use crate::raft::types::{LogId, Member, NodeId, TypeConfig};

/// Between two looks at what takes time.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// A committed change takes a round trip; one that takes longer has no quorum.
pub(super) const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

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

/// Whose life a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// All members.
    All,
    /// The voters: a learner is removed dead or alive.
    Voters,
}

/// [`view`], once each member that is asked has answered this leader or has had the time to: a new leader has not heard of
/// anybody yet, and must not take them for dead.
pub(super) async fn settled_view(
    group: &Group,
    began: Instant,
    asked: Asked,
) -> Result<(View, Option<LogId>), MembershipError> {
    loop {
        let (view, at) = view(group)?;
        let all_answered = match asked {
            Asked::All => view.alive.len() == view.members.len(),
            Asked::Voters => view.voters.is_subset(&view.alive),
        };
        if all_answered || began.elapsed() >= ALIVE_WITHIN {
            return Ok((view, at));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Proposes a change that was planned on the membership stored at `at`. False: it has changed since, plan again.
pub(super) async fn commit(
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
                error => Err(MembershipError::refused(RefusalCode::Refused, error.to_string())),
            }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(error))) => {
            // openraft's own words are a dump of its structures.
            Err(MembershipError::NoLeader(match error.leader_node {
                Some(leader) => format!("{} leads now, no longer this node", leader.name),
                None => "this node does not lead any more".to_owned(),
            }))
        }
        Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
            Err(MembershipError::Unknown("another leader discarded the entry of this change".to_owned()))
        }
        Err(RaftError::Fatal(error)) => {
            tracing::debug!(%error, "a change was asked for while consensus stops");
            Err(MembershipError::Unknown("this node is stopping".to_owned()))
        }
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
