//! [`LeaderLease`]: what this node may conclude while it leads.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState};
use raftkv_runtime::clock::boottime_ns;

use crate::engine::state_machine::Raft;
use crate::raft::acks::Acks;
use crate::raft::keeper::Keeper;
use crate::raft::progress::Progress;
use crate::raft::timing::Timing;
use crate::raft::types::{LeaderId, NodeId, TypeConfig, Vote};

/// A lease is looked at this many times between two heartbeats, so that it is renewed soon after they are answered.
const LOOKS_PER_HEARTBEAT: u32 = 4;
/// The engine is told of a longer lease when it is longer by this part of a member's promise.
const STEPS: u32 = 12;

/// The lease of a node, while it leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LeaderLease {
    me: NodeId,
    enabled: bool,
    /// For how long this node helps nobody else after it has heard from a leader.
    promise: Duration,
    /// For a majority to confirm that this node leads.
    patience: Duration,
    look: Duration,
    acks: Acks,
    progress: Progress,
    keeper: Keeper,
}

/// Why nothing is known about what others have seen.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Ask who does.
    #[error("this node does not lead (any more)")]
    NotLeader,
    /// Too few members answered.
    #[error("no quorum confirmed the leader in time")]
    NoQuorum,
    /// openraft has stopped.
    #[error("consensus has stopped on this node")]
    Stopped(#[source] Fatal<TypeConfig>),
}

impl From<RaftError<TypeConfig, LinearizableReadError<TypeConfig>>> for ConfirmError {
    /// In our words: openraft's show its structures, and clients read them.
    fn from(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> Self {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Self::NotLeader,
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Self::NoQuorum,
            RaftError::Fatal(fatal) => Self::Stopped(fatal),
        }
    }
}

/// This node leads.
struct Leading {
    leader: LeaderId,
    voters: Vec<BTreeSet<NodeId>>,
}

impl LeaderLease {
    /// The lease of the node `me`. One that is not `enabled` never holds.
    pub fn new(me: NodeId, enabled: bool, timing: &Timing, acks: Acks, progress: Progress, keeper: Keeper) -> Self {
        let look = (timing.heartbeat / LOOKS_PER_HEARTBEAT).max(Duration::from_millis(1));
        Self { me, enabled, promise: timing.promise, patience: timing.patience, look, acks, progress, keeper }
    }

    /// Whether it may hold at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Renews the engine's lease for ever; to be run as a task that ends with the group, which has the Raft.
    pub async fn renew<G: AsRef<Raft>>(self, group: std::sync::Weak<G>) {
        if !self.enabled {
            return;
        }
        loop {
            tokio::time::sleep(self.look).await;
            let Some(group) = group.upgrade() else { return };
            let Some((leading, until)) = self.held(G::as_ref(&group)) else { continue };
            let Some(applied) = self.progress.applied() else { continue };
            self.keeper.grant(leading.leader, until, applied.index + 1, self.promise / STEPS);
        }
    }

    /// Below which index a read must have applied to see everything that anybody has seen, when the lease holds.
    pub fn read_index(&self, raft: &Raft) -> Option<u64> {
        if !self.enabled {
            return None;
        }
        // In this order: the lease held when the index was read if it holds after that.
        let next_index = self.progress.submitted_next();
        let (leading, until) = self.held(raft)?;
        (!self.keeper.is_barred(leading.leader) && boottime_ns() < until).then_some(next_index)
    }

    /// The same, confirmed by a quorum after this was called: ReadIndex as in Ongaro's Raft thesis, section 6.4.
    pub async fn confirmed_index(&self, raft: &Raft) -> Result<u64, ConfirmError> {
        let before = self.leading(raft).ok_or(ConfirmError::NotLeader)?;
        let asked_ns = boottime_ns();
        // Notes the commit index, and sends heartbeats. What openraft takes for their answers may be older (see `Acks`).
        let noted = raft.get_read_linearizer(ReadPolicy::ReadIndex).await?;
        let leading = self.leading(raft).filter(|now| now.leader == before.leader).ok_or(ConfirmError::NotLeader)?;
        let confirmed = self.acks.confirmed_after(leading.leader, self.me, asked_ns, &leading.voters);
        tokio::time::timeout(self.patience, confirmed).await.map_err(|_| ConfirmError::NoQuorum)?;
        Ok(noted.read_log_id().index() + 1)
    }

    /// Waits until a majority, and `member`, have acknowledged a message that left after this was called, `within` at most; whether they
    /// have.
    pub async fn is_heard(&self, raft: &Raft, member: NodeId, within: Duration) -> bool {
        let Some(mut leading) = self.leading(raft) else { return false };
        leading.voters.push(BTreeSet::from([member]));
        let heard = self.acks.confirmed_after(leading.leader, self.me, boottime_ns(), &leading.voters);
        // Without it the next heartbeat is waited for.
        let _ = raft.trigger().heartbeat().await;
        tokio::time::timeout(within, heard).await.is_ok()
    }

    /// As whom this node leads.
    pub fn leads_as(&self, raft: &Raft) -> Option<LeaderId> {
        self.leading(raft).map(|leading| leading.leader)
    }

    fn held(&self, raft: &Raft) -> Option<(Leading, u64)> {
        let now = boottime_ns();
        let leading = self.leading(raft)?;
        // What earlier leaders committed is known to be applied once an entry of this one is.
        if self.progress.applied()?.leader_id != leading.leader {
            return None;
        }
        let until = self.acks.lease_until(leading.leader, self.me, self.promise, now, &leading.voters)?;
        Some((leading, until))
    }

    fn leading(&self, raft: &Raft) -> Option<Leading> {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = led_as(self.me, metrics.state, metrics.vote)?;
        let voters = metrics.membership_config.membership().get_joint_config().clone();
        Some(Leading { leader, voters })
    }
}

/// As whom the node `me` leads: never as another one, whose vote it may know of already.
fn led_as(me: NodeId, state: ServerState, vote: Vote) -> Option<LeaderId> {
    (state == ServerState::Leader && vote.committed && vote.leader_id.node_id == me).then_some(vote.leader_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_leads_in_its_own_name_only() {
        let vote = |node_id, committed| Vote { leader_id: LeaderId { term: 5, node_id }, committed };
        let own = LeaderId { term: 5, node_id: 1 };
        assert_eq!(led_as(1, ServerState::Leader, vote(1, true)), Some(own));
        assert_eq!(led_as(1, ServerState::Leader, vote(2, true)), None, "it knows of the next leader already");
        assert_eq!(led_as(1, ServerState::Leader, vote(1, false)), None);
        assert_eq!(led_as(1, ServerState::Follower, vote(1, true)), None);
    }
}
