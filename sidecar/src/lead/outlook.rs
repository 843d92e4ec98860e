//! [`watch`]: whether a leader can do its work, what it does when it cannot, and the log lines about the loss of a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{RaftMetrics, ServerState};
use raftkv_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::lead::leadership::step_down;
use crate::lead::standstill::{Sight, Standstill, Verdict, View};
use crate::node::elections::{Elections, Reason};
use crate::node::metrics::{ALIVE_WITHIN, has_quorum_contact, matched_next, metrics_of, outage, outlook, silent_for};
use crate::node::{Group, Node, Phase};
use crate::raft::types::{NodeId, TypeConfig};

/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(100);
/// A loss that is over sooner is not told: elections and short pauses are none.
const TOLD_AFTER: Duration = Duration::from_millis(500);
/// A leader that stepped down because its entries stood still does not stand again for this many times the patience: the
/// others elect one of them meanwhile. Afterwards it may, in case they could not.
const STAYS_AWAY: u32 = 16;
/// Between two attempts to step down.
const STEP_DOWN_AGAIN: Duration = Duration::from_secs(1);

/// What was told of one node's view.
struct Told {
    node: Node,
    standstill: Standstill,
    /// Members to whom entries stand still, as told.
    told_standing: BTreeSet<NodeId>,
    told_stuck: bool,
    stepped_down_at: Option<Instant>,
    /// How many looks in a row have found no leader with a majority.
    looks_lost: u32,
    lost_since: Option<Instant>,
    told_lost: bool,
}

/// Until the shutdown: sees to it that entries move, and tells when there is no leader to count on.
pub async fn watch(node: Node, shutdown: Shutdown) {
    let mut told: Option<Told> = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Phase::Running(group) = node.phase() {
            let patience = group.timing.patience;
            told.get_or_insert_with(|| Told::new(node.clone(), patience)).tick(&group).await;
        }
    }
}

impl Told {
    fn new(node: Node, patience: Duration) -> Self {
        Self {
            node,
            standstill: Standstill::new(patience, Instant::now()),
            told_standing: BTreeSet::new(),
            told_stuck: false,
            stepped_down_at: None,
            looks_lost: 0,
            lost_since: None,
            told_lost: false,
        }
    }

    async fn tick(&mut self, group: &Group) {
        let metrics = metrics_of(group);
        // Counted in looks and not by the clock: a node that has just begun, has just stopped to lead or was suspended has not
        // missed a leader yet.
        let is_lost = match metrics.state {
            ServerState::Leader => !has_quorum_contact(group),
            _ => self.node.leader_silent_for() > ALIVE_WITHIN,
        };
        self.looks_lost = if is_lost { self.looks_lost.saturating_add(1) } else { 0 };
        group.peers.work.set_lost_for(TICK * self.looks_lost);
        let verdict = match metrics.state {
            ServerState::Leader => self.look(group, &metrics).await,
            _ => {
                self.standstill.forget();
                Verdict::default()
            }
        };
        // A leader that has just been elected has heard nothing yet, which is no reason to send anybody away.
        let silent = metrics.state == ServerState::Leader && outage(&self.node, group).is_some();
        group.peers.work.set(verdict.stuck, silent, verdict.standing.clone());
        for target in &verdict.remake {
            tracing::debug!(target, "entries do not move: making the connection again");
            group.peers.remake(*target);
        }
        self.tell_standing(&metrics, &verdict);
        self.act(group, &metrics, &verdict).await;
        self.tell_outlook(group, &metrics);
    }

    async fn look(&mut self, group: &Group, metrics: &RaftMetrics<TypeConfig>) -> Verdict {
        let suspects = self.standstill.suspects(Instant::now());
        // Reading the kernel's table takes a while where there are many sockets.
        let mut readings = BTreeMap::new();
        if !suspects.is_empty() {
            let peers = group.peers.clone();
            let read = move || suspects.into_iter().map(|id| (id, peers.entries_reading(id))).collect();
            readings = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        }
        let membership = metrics.membership_config.membership();
        let sight = |id: NodeId| Sight {
            matched_next: matched_next(metrics, id).unwrap_or(0),
            answers: silent_for(metrics, id).is_some_and(|silent| silent <= ALIVE_WITHIN),
            in_snapshot: group.peers.is_in_snapshot(id),
            reading: readings.get(&id).copied().flatten(),
        };
        let others = membership.nodes().map(|(id, _)| *id).filter(|id| *id != metrics.id);
        let view = View {
            leader: metrics.vote.leader_id,
            me: metrics.id,
            last_next: metrics.last_log_index.map_or(0, |index| index + 1),
            committed_next: metrics.local_committed.map_or(0, |committed| committed.index() + 1),
            has_quorum_contact: has_quorum_contact(group),
            voters: membership.get_joint_config().clone(),
            others: others.map(|id| (id, sight(id))).collect(),
        };
        self.standstill.look(&view, Instant::now())
    }

    fn tell_standing(&mut self, metrics: &RaftMetrics<TypeConfig>, verdict: &Verdict) {
        let name = |id: &NodeId| metrics.membership_config.get_node(id).map(|member| member.name.clone());
        for id in verdict.standing.difference(&self.told_standing) {
            let member = name(id).unwrap_or_default();
            tracing::warn!(
                member,
                "entries make no progress on their way to a member that answers heartbeats, also over a new connection: does the \
                 path drop large packets (MTU)?"
            );
        }
        for id in self.told_standing.difference(&verdict.standing) {
            if metrics.state == ServerState::Leader {
                tracing::info!(
                    member = name(id).unwrap_or_default(),
                    "entries make progress again, or the member is silent"
                );
            }
        }
        self.told_standing.clone_from(&verdict.standing);
    }

    async fn act(&mut self, group: &Group, metrics: &RaftMetrics<TypeConfig>, verdict: &Verdict) {
        let elections = Elections::of(group);
        if let Some(at) = self.stepped_down_at
            && at.elapsed() >= group.timing.patience * STAYS_AWAY
        {
            self.stepped_down_at = None;
            if elections.permit(Reason::Standstill) {
                tracing::info!("this node may lead again");
            }
        }
        if !verdict.stuck {
            self.told_stuck = false;
            return;
        }
        let can_replace = others_can_elect(metrics);
        if !self.told_stuck {
            self.told_stuck = true;
            tracing::error!(
                term = metrics.current_term,
                steps_down = can_replace,
                "entries of this leader make no progress at a majority, though heartbeats are answered: it takes no writes"
            );
        }
        if can_replace && self.stepped_down_at.is_none_or(|at| at.elapsed() >= STEP_DOWN_AGAIN) {
            self.stepped_down_at = Some(Instant::now());
            elections.forbid(Reason::Standstill);
            step_down(group).await;
        }
    }

    fn tell_outlook(&mut self, group: &Group, metrics: &RaftMetrics<TypeConfig>) {
        match (outlook(&self.node, group, metrics), self.lost_since) {
            (Err(_), None) => self.lost_since = Some(Instant::now()),
            (Err(why), Some(since)) if !self.told_lost && since.elapsed() >= TOLD_AFTER => {
                self.told_lost = true;
                let role = metrics.state;
                tracing::warn!(
                    term = metrics.current_term,
                    ?role,
                    "no leader with a majority: {why}; writes answer 503"
                );
            }
            (Ok(leader), Some(since)) => {
                if self.told_lost {
                    let lost_for = since.elapsed();
                    tracing::info!(
                        term = metrics.current_term,
                        leader,
                        ?lost_for,
                        "there is a leader with a majority again"
                    );
                }
                (self.lost_since, self.told_lost) = (None, false);
            }
            _ => {}
        }
    }
}

/// Whether the other voters that are alive are a majority of every set without this node: then they need neither its vote nor
/// its log.
fn others_can_elect(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let is_alive = |id: &NodeId| silent_for(metrics, *id).is_some_and(|silent| silent <= ALIVE_WITHIN);
    let sets = metrics.membership_config.membership().get_joint_config();
    let alive = |set: &BTreeSet<NodeId>| set.iter().filter(|id| **id != metrics.id && is_alive(id)).count();
    sets.iter().all(|set| alive(set) > set.len() / 2)
}
