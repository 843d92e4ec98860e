//! [`Leadership`]: who should lead. A leader that cannot serve gives leadership to one that can; a node that cannot serve
//! does not stand for election.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::VoteRequest;
use openraft::{RaftMetrics, ServerState};
use raftkv_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::node::elections::{Elections, Reason};
use crate::node::metrics::{ALIVE_WITHIN, known_leader, matched_next, metrics_of, silent_for};
use crate::node::{Group, Node, Phase};
use crate::peers::management::ManagementClient;
use crate::raft::types::{LeaderId, LogId, Member, NodeId, TypeConfig, Vote};
use crate::wal::Shortage;

/// How often the engine and the leadership are looked at.
const TICK: Duration = Duration::from_millis(100);
/// An engine that restarts within this is not worth a change of leader.
const ENGINE_GONE_AFTER: Duration = Duration::from_millis(300);
/// An engine that came back must stay this long before the node stands for election: no flapping.
const ENGINE_BACK_AFTER: Duration = Duration::from_millis(500);
/// A shortage of file descriptors that lasts for longer is worth one: connections that end give some back before.
const DESCRIPTORS_GONE_AFTER: Duration = Duration::from_secs(3);
/// For the vote that ends a leadership to be durable. It counts from the moment on at which it is given.
const STEP_DOWN_DEADLINE: Duration = Duration::from_secs(1);
/// A leadership that was given up is over at once, but a node whose log takes no votes hears of that later.
const STEP_DOWN_AGAIN: Duration = Duration::from_secs(10);
/// One attempt at a transfer: the successor flushes its log, stands and wins well within it.
const TRANSFER_ATTEMPT: Duration = Duration::from_millis(400);
/// A majority hears within this who is to take over: several heartbeats. Where it does not, the transfer is tried all the same.
const NAMED_WITHIN: Duration = Duration::from_millis(150);
/// Time a successor has to say that it could serve.
const READY_DEADLINE: Duration = Duration::from_millis(250);
/// Time to give leadership away before stopping.
const STOP_DEADLINE: Duration = Duration::from_millis(2_000);
/// One go at it, over several successors.
const TRANSFER_ROUND: Duration = Duration::from_millis(1_200);
/// A leader that announced a transfer takes no writes until another leads (openraft never takes the announcement back).
/// After so many failed rounds it steps down by itself.
const ROUNDS_BEFORE_STEP_DOWN: u32 = 3;

/// What the leader knows of another voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Who.
    pub raft_id: NodeId,
    /// Below which index its log is known to be the leader's; 0 = unknown.
    pub matched_next: u64,
    /// Since it last answered.
    pub silent_for: Option<Duration>,
}

/// Those who could lead, best first: alive, then the longest log, then the one heard of last.
pub fn candidates(mut others: Vec<Successor>) -> Vec<Successor> {
    others.retain(|other| other.silent_for.is_some_and(|silent| silent <= ALIVE_WITHIN));
    others.sort_by(|a, b| b.matched_next.cmp(&a.matched_next).then(a.silent_for.cmp(&b.silent_for)));
    others
}

/// Why leadership stayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only a leader can give it away.
    #[error("this node does not lead")]
    NotLeader,
    /// Nobody to take it.
    #[error("no other voter is alive, up to date and able to serve")]
    NoSuccessor,
    /// The one named is not a voter.
    #[error("{0} is no other voter")]
    UnknownSuccessor(String),
    /// The time ran out; it may still happen.
    #[error("no other voter took over in time; this node keeps trying")]
    TimedOut,
}

/// Watches over who leads. Cheap to clone.
#[derive(Clone)]
pub struct Leadership {
    node: Node,
    client: ManagementClient,
    /// The term in which a transfer was announced: until it ends this node must get rid of leadership.
    announced: Arc<Mutex<Option<u64>>>,
}

impl Leadership {
    /// Of this node.
    pub fn new(node: Node, client: ManagementClient) -> Self {
        Self { node, client, announced: Arc::default() }
    }

    /// Gives leadership to `to` (a name or a raft id), or to the best there is. Returns who leads then.
    pub async fn transfer(&self, to: Option<&str>, within: Duration) -> Result<NodeId, TransferError> {
        let group = self.node.group().ok_or(TransferError::NotLeader)?;
        let metrics = metrics_of(&group);
        if metrics.state != ServerState::Leader {
            return Err(TransferError::NotLeader);
        }
        let only = match to {
            None => None,
            Some(to) => match find_voter(&metrics, to) {
                Some(voter) if voter != metrics.id => Some(voter),
                _ => return Err(TransferError::UnknownSuccessor(to.to_owned())),
            },
        };
        self.hand_over(&group, only, within).await
    }

    async fn hand_over(&self, group: &Group, only: Option<NodeId>, within: Duration) -> Result<NodeId, TransferError> {
        let deadline = Instant::now() + within;
        // Looked at once: a successor that this node named as another leader would be believed.
        let Some(leader) = group.lease.leads_as(&group.raft) else { return Err(TransferError::NotLeader) };
        let term = leader.term;
        let mut tried = false;
        loop {
            let successors = self.successors(group, only).await;
            if successors.is_empty() && !tried {
                return Err(TransferError::NoSuccessor);
            }
            for (successor, member) in successors {
                if Instant::now() >= deadline {
                    break;
                }
                tried = true;
                self.announce(term);
                tracing::info!(to = %member, term, "giving leadership away");
                // The successor is elected whatever lease there is.
                self.node.keeper.revoke(leader).await;
                // A member breaks its promise for one that its leader has named.
                group.peers.handover.name(leader, successor);
                if !group.lease.is_heard(&group.raft, successor, NAMED_WITHIN).await {
                    tracing::debug!(to = %member, term, "not a majority has answered since the successor was named");
                }
                if group.raft.trigger().transfer_leader(successor).await.is_err() {
                    return Err(TransferError::NotLeader);
                }
                if let Some(leader) = another_leads(group, TRANSFER_ATTEMPT).await {
                    return Ok(leader);
                }
                tracing::warn!(to = %member, term, "it did not take over, trying the next");
            }
            if Instant::now() >= deadline {
                return Err(TransferError::TimedOut);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The voters that could take over, asked whether their engines are there. None is asked that is out of date: after
    /// the announcement no writes are taken, so an attempt with it costs availability.
    async fn successors(&self, group: &Group, only: Option<NodeId>) -> Vec<(NodeId, Member)> {
        let metrics = metrics_of(group);
        // To ask takes a file descriptor. Then it is enough that they are alive.
        let asks = !Elections::of(group).is_forbidden_by(Reason::NoDescriptor);
        let membership = &metrics.membership_config;
        let others = membership
            .voter_ids()
            .filter(|voter| *voter != metrics.id && only.is_none_or(|only| only == *voter))
            .map(|raft_id| Successor {
                raft_id,
                matched_next: matched_next(&metrics, raft_id).unwrap_or(0),
                silent_for: silent_for(&metrics, raft_id),
            })
            .collect();
        let asked = candidates(others).into_iter().filter_map(|successor| {
            let member = membership.get_node(&successor.raft_id)?.clone();
            let client = self.client.clone();
            Some(async move {
                let ready = !asks || client.is_ready(&member.management_address, READY_DEADLINE).await;
                ready.then_some((successor.raft_id, member))
            })
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Until the shutdown: stands back while the engine is gone, another process has this node's identity, or the log waits for a file
    /// descriptor.
    pub async fn watch(self, shutdown: Shutdown) {
        let connected = self.node.engine.connected();
        let mut changed_at = Instant::now();
        let mut was_connected = *connected.borrow();
        let mut failures = 0;
        let mut shortage = Lasting::default();
        let mut stepped_down: Option<(u64, Instant)> = None;
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            let is_connected = *connected.borrow();
            if is_connected != was_connected {
                was_connected = is_connected;
                changed_at = Instant::now();
            }
            let Phase::Running(group) = self.node.phase() else {
                continue;
            };
            let elections = Elections::of(&group);
            let settled_for = changed_at.elapsed();
            if !is_connected && settled_for >= ENGINE_GONE_AFTER {
                if elections.forbid(Reason::EngineGone) {
                    tracing::warn!("the engine is gone: this node does not stand for election and will not lead");
                }
            } else if is_connected && settled_for >= ENGINE_BACK_AFTER && elections.permit(Reason::EngineGone) {
                tracing::info!("the engine is back: this node may lead again");
            }
            let is_short = group.log.wal().waits_for() == Some(Shortage::Descriptor);
            if shortage.look(is_short, Instant::now()) >= DESCRIPTORS_GONE_AFTER {
                if elections.forbid(Reason::NoDescriptor) {
                    tracing::warn!(
                        "the log waits for a file descriptor: this node does not stand for election and will not lead"
                    );
                }
            } else if !is_short && elections.permit(Reason::NoDescriptor) {
                tracing::info!("the log has got its file descriptor: this node may lead again");
            }

            let metrics = metrics_of(&group);
            let leads = metrics.state == ServerState::Leader;
            // A leader that has a twin serves nothing: another one must lead.
            let cannot_serve = [Reason::EngineGone, Reason::Duplicate, Reason::Stale, Reason::NoDescriptor]
                .into_iter()
                .any(|it| elections.is_forbidden_by(it));
            let must_go = cannot_serve || self.is_announced(metrics.current_term);
            if !leads || !must_go {
                failures = 0;
                continue;
            }
            let round = self.hand_over(&group, None, TRANSFER_ROUND).await;
            let still_leads = metrics_of(&group).state == ServerState::Leader;
            failures = failures_after(failures, &round, still_leads, self.is_announced(metrics.current_term));
            if failures >= ROUNDS_BEFORE_STEP_DOWN {
                failures = 0;
                let term = metrics.current_term;
                if stepped_down.is_none_or(|(of, at)| of != term || at.elapsed() >= STEP_DOWN_AGAIN) {
                    stepped_down = Some((term, Instant::now()));
                    step_down(&group).await;
                }
            }
        }
    }

    /// Before the process ends: takes no new work, and gives leadership away so that the others need not wait for an
    /// election timeout.
    pub async fn stop(&self) {
        self.node.set_stopping();
        let Some(group) = self.node.group() else {
            return;
        };
        Elections::of(&group).forbid(Reason::Stopping);
        if metrics_of(&group).state != ServerState::Leader {
            return;
        }
        match tokio::time::timeout(STOP_DEADLINE, self.hand_over(&group, None, STOP_DEADLINE)).await {
            Ok(Ok(leader)) => tracing::info!(leader, "another member leads now"),
            Ok(Err(error)) => tracing::info!("stopping as leader: {error}"),
            Err(_) => tracing::warn!("stopping as leader: nobody took over in time"),
        }
    }

    fn announce(&self, term: u64) {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some(term);
    }

    fn is_announced(&self, term: u64) -> bool {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) == Some(term)
    }
}

/// Stops leading without a successor.
///
/// openraft has no call for it. Granting another voter a vote in the next term does it, as if that voter had asked: it is
/// durable like any vote, and should that voter really stand in that term, it is the same vote.
pub(crate) async fn step_down(group: &Group) {
    let metrics = metrics_of(group);
    let Some(other) = metrics.membership_config.voter_ids().find(|voter| *voter != metrics.id) else {
        return;
    };
    tracing::warn!(term = metrics.current_term, "stepping down: leadership cannot be given to a named successor");
    let leader_id = LeaderId { term: metrics.current_term + 1, node_id: other };
    let request = VoteRequest {
        vote: Vote { leader_id, committed: false },
        // Only compared with our own: never less.
        last_log_id: Some(LogId::new(LeaderId { term: u64::MAX, node_id: u64::MAX }, u64::MAX)),
        leadership_transfer: true,
    };
    // An error means that Raft has stopped, which ends the process elsewhere.
    let _ = tokio::time::timeout(STEP_DOWN_DEADLINE, group.raft.vote(request)).await;
}

/// Rounds that have failed, one after the other, to give away a leadership that must end, after another `round`.
fn failures_after(before: u32, round: &Result<NodeId, TransferError>, still_leads: bool, is_announced: bool) -> u32 {
    match round {
        Ok(_) => 0,
        Err(TransferError::NotLeader) if !still_leads => 0,
        // Nobody could take it, and nothing was announced: writes may go on once the engine is back.
        Err(TransferError::NoSuccessor) if !is_announced => before,
        // That includes a leader whose log has not taken the vote by which it leads, as without a file descriptor: it can name no successor.
        Err(_) => before + 1,
    }
}

/// For how long something has been so, without a pause.
#[derive(Debug, Default)]
struct Lasting {
    since: Option<Instant>,
}

impl Lasting {
    fn look(&mut self, is_so: bool, now: Instant) -> Duration {
        self.since = if is_so { self.since.or(Some(now)) } else { None };
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Waits until this node does not lead; `Some` with the new leader once it is known.
async fn another_leads(group: &Group, within: Duration) -> Option<NodeId> {
    let wait = group.raft.wait(Some(within));
    let moved = |metrics: &RaftMetrics<TypeConfig>| known_leader(metrics).is_some_and(|leader| leader != metrics.id);
    wait.metrics(moved, "another member leads").await.ok().and_then(|metrics| known_leader(&metrics))
}

fn find_voter(metrics: &RaftMetrics<TypeConfig>, name_or_id: &str) -> Option<NodeId> {
    let membership = &metrics.membership_config;
    let named = |voter: &NodeId| membership.get_node(voter).is_some_and(|member| member.name == name_or_id);
    let with_id = |voter: &NodeId| voter.to_string() == name_or_id;
    membership.voter_ids().find(named).or_else(|| membership.voter_ids().find(with_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(raft_id: NodeId, matched_next: u64, silent_ms: Option<u64>) -> Successor {
        Successor { raft_id, matched_next, silent_for: silent_ms.map(Duration::from_millis) }
    }

    fn order(others: Vec<Successor>) -> Vec<NodeId> {
        candidates(others).into_iter().map(|candidate| candidate.raft_id).collect()
    }

    #[test]
    fn the_longest_log_among_the_living_comes_first() {
        let others = vec![successor(1, 90, Some(10)), successor(2, 100, Some(50)), successor(3, 100, Some(20))];
        assert_eq!(order(others), [3, 2, 1]);
    }

    #[test]
    fn a_shortage_counts_from_its_begin_and_anew_after_each_end() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut shortage = Lasting::default();
        assert_eq!(shortage.look(false, begin), Duration::ZERO);
        assert_eq!(shortage.look(true, begin + second), Duration::ZERO);
        assert_eq!(shortage.look(true, begin + 4 * second), 3 * second);
        assert_eq!(shortage.look(false, begin + 5 * second), Duration::ZERO);
        assert_eq!(shortage.look(true, begin + 6 * second), Duration::ZERO);
    }

    #[test]
    fn a_leader_that_cannot_name_a_successor_fails_until_it_leads_no_more() {
        let not_leader = Err(TransferError::NotLeader);
        assert_eq!(failures_after(1, &not_leader, true, false), 2, "its vote is not durable yet");
        assert_eq!(failures_after(1, &not_leader, false, false), 0);
        assert_eq!(failures_after(1, &Ok(2), false, true), 0);
        assert_eq!(failures_after(1, &Err(TransferError::TimedOut), true, true), 2);
        let nobody = Err(TransferError::NoSuccessor);
        assert_eq!(failures_after(1, &nobody, true, false), 1, "it may serve again");
        assert_eq!(failures_after(1, &nobody, true, true), 2, "it takes no writes any more");
    }

    #[test]
    fn the_silent_are_no_successors() {
        let silent = ALIVE_WITHIN.as_millis() as u64 + 1;
        assert!(order(vec![successor(1, 100, Some(silent)), successor(2, 100, None)]).is_empty());
    }
}
