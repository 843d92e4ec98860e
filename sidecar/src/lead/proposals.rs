//! [`Proposals`]: takes commands to the leader's log, here or over there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_kv::{AdmissionError, admit};
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse, RefusedReason};

use crate::engine::disk::Disk;
use crate::node::metrics::{await_successor, has_quorum_contact, led_by, may_ask, metrics_of, outage, replaced};
use crate::node::{Group, Node};
use crate::peers::forward::{ForwardError, LeaderForwarder};
use crate::propose::combiner::{refused, unknown};
use crate::raft::types::{Member, NodeId};
use crate::wal::Shortage;

/// Largest payload of one log entry.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// The longest that a proposal or a question for a read barrier waits, whatever it says: as long as a client's request may take.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a leader says to a node that is none of its group's.
pub(crate) const NO_MEMBER: &str = "the leader says that this node is no member of the cluster (any more)";

/// Proposes for this node's engine and, on the leader, for other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Proposals {
    node: Node,
    disk: Disk,
    /// Whether it is this node's engine only that can propose at the sidecar's socket.
    trusts_socket: bool,
    forwarder: Arc<LeaderForwarder<ProposeRequest, ProposeResponse>>,
}

impl Proposals {
    /// Proposals of `node`, whose log is on `disk`. Where others than its engine can reach the sidecar's socket, as by TCP, it is not to be
    /// trusted: what comes there is then admitted as what other members forward.
    pub fn new(node: Node, disk: Disk, trusts_socket: bool) -> Self {
        Self { node, disk, trusts_socket, forwarder: Arc::default() }
    }

    /// Proposes here or, where another node leads, there.
    pub async fn propose(&self, request: ProposeRequest) -> ProposeResponse {
        let (id, deadline) = (request.id, Instant::now() + timeout_of(&request));
        let outcome = match self.local_group().and_then(|group| self.check_own(&request.payload).map(|()| group)) {
            Err(refused) => refused,
            Ok(group) => {
                let led_by = led_by(&group);
                match self.propose_once(&group, request.clone()).await {
                    // A leader that has just gone is soon replaced: what was certainly not taken waits for that.
                    Outcome::Refused(refused)
                        if refused.reason() == RefusedReason::NoLeader
                            && await_successor(&self.node, &group, led_by, deadline).await =>
                    {
                        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
                        let timeout_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
                        self.propose_once(&group, ProposeRequest { timeout_ms, ..request }).await
                    }
                    outcome => outcome,
                }
            }
        };
        ProposeResponse { id, outcome: Some(outcome) }
    }

    async fn propose_once(&self, group: &Arc<Group>, request: ProposeRequest) -> Outcome {
        match group.raft.as_leader() {
            Ok(_) => self.propose_locally(group, request).await,
            Err(_) if let Some(why) = outage(&self.node, group) => refused(RefusedReason::NoMajority, why),
            Err(forward) => match (forward.leader_id, forward.leader_node) {
                (Some(leader), Some(member)) if leader != self.node.identity.raft_id => {
                    self.forward(group, leader, &member, request).await
                }
                _ => refused(RefusedReason::NoLeader, "no leader is known"),
            },
        }
    }

    /// Proposes here, for the follower `sender`: never forwarded again. 0 = it is not known who asks.
    pub async fn propose_as_leader(&self, sender: NodeId, request: ProposeRequest) -> ProposeResponse {
        let id = request.id;
        let outcome = match self.local_group() {
            Err(refused) => refused,
            Ok(group) if !may_ask(&group, sender) => refused(RefusedReason::OutOfService, NO_MEMBER),
            Ok(group) => match group.raft.as_leader() {
                // An engine checks what it proposes, and what comes to it. But what is sent here may be from anybody, and in the log it
                // would be applied by every member, for ever.
                Ok(_) => match admit(&request.payload) {
                    Ok(_) => self.propose_locally(&group, request).await,
                    Err(error) => not_admitted(&error),
                },
                Err(_) => refused(RefusedReason::NoLeader, "this node does not lead (any more)"),
            },
        };
        ProposeResponse { id, outcome: Some(outcome) }
    }

    fn check_own(&self, payload: &[u8]) -> Result<(), Outcome> {
        if self.trusts_socket {
            return Ok(());
        }
        match admit(payload) {
            // Its engine raises the version while this node leads.
            Ok(_) | Err(AdmissionError::RaisesVersion) => Ok(()),
            Err(error) => Err(not_admitted(&error)),
        }
    }

    fn local_group(&self) -> Result<Arc<Group>, Outcome> {
        let Some(group) = self.node.group() else {
            return Err(refused(RefusedReason::NoLeader, "this node is in no cluster yet"));
        };
        match self.node.standing.barred() {
            Some((_, why)) => Err(refused(RefusedReason::OutOfService, &why)),
            None => Ok(group),
        }
    }

    async fn propose_locally(&self, group: &Arc<Group>, request: ProposeRequest) -> Outcome {
        let timeout = timeout_of(&request);
        let ProposeRequest { payload, callers, takes_space, .. } = request;
        if !self.node.is_running() {
            return refused(RefusedReason::ShuttingDown, "this node is stopping");
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return refused(RefusedReason::TooLarge, &format!("a log entry holds {MAX_PAYLOAD_BYTES} bytes at most"));
        }
        // Without it a leader that is cut off would take entries it can never commit: unknown outcomes for nothing.
        if !has_quorum_contact(group) || group.peers.work.is_stuck() {
            return match outage(&self.node, group) {
                Some(why) => refused(RefusedReason::NoMajority, why),
                None => refused(RefusedReason::NoLeader, "the leader has lost contact with a majority"),
            };
        }
        if takes_space && self.disk.refuses_values() {
            return refused(RefusedReason::DiskFull, "the disk of the leader is nearly full");
        }
        if takes_space && let Some(member) = group.peers.full.waited_for() {
            let of = metrics_of(group).membership_config.get_node(&member).map(|node| node.name.clone());
            let of = of.unwrap_or_else(|| member.to_string());
            return refused(
                RefusedReason::DiskFull,
                &format!("the disk of {of}, a member of the group, is nearly full"),
            );
        }
        // Its fate would not be known for as long as that lasts.
        match group.log.wal().waits_for() {
            None => {}
            Some(Shortage::Room) => {
                return refused(RefusedReason::DiskFull, "the disk of the leader is full: its log waits for room");
            }
            // Passes by itself, or another member leads soon: it is asked again until the deadline.
            Some(Shortage::Descriptor) => {
                return refused(
                    RefusedReason::Overloaded,
                    "the sidecar of the leader has no file descriptor left: its log waits for one",
                );
            }
        }
        match tokio::time::timeout(
            timeout,
            group.combiner.propose(&group.raft, &group.clock, payload, callers, timeout),
        )
        .await
        {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => unknown("this process stopped before the entry was applied"),
            Err(_) => unknown("the entry was not applied in time"),
        }
    }

    async fn forward(&self, group: &Arc<Group>, leader: NodeId, member: &Member, request: ProposeRequest) -> Outcome {
        let timeout = timeout_of(&request);
        let forwarder = self.forwarder.to(&group.peers, leader, member, |mut client, requests| async move {
            Ok(client.forward_propose(requests).await?.into_inner())
        });
        match tokio::time::timeout(timeout, forwarder.call(request, replaced(group, leader))).await {
            Ok(Ok(response)) => {
                let outcome = response.outcome.unwrap_or_else(|| unknown("the leader answered nothing"));
                if matches!(&outcome, Outcome::Refused(refused) if refused.reason() == RefusedReason::OutOfService) {
                    self.node.standing.doubt();
                }
                outcome
            }
            Ok(Err(ForwardError::NotSent)) => refused(RefusedReason::NoLeader, "the leader cannot be reached"),
            Ok(Err(ForwardError::Lost)) => unknown("the connection to the leader broke, or another leads now"),
            Err(_) => unknown("the leader did not answer in time"),
        }
    }
}

fn not_admitted(error: &AdmissionError) -> Outcome {
    metrics::counter!("raftkv_sidecar_proposals_not_admitted_total").increment(1);
    let reason = if error.is_too_large() { RefusedReason::TooLarge } else { RefusedReason::NotAdmitted };
    refused(reason, &error.to_string())
}

/// What is left of the caller's deadline.
fn timeout_of(request: &ProposeRequest) -> Duration {
    within_longest(request.timeout_ms)
}

/// A time that a request names, up to the longest.
pub(crate) fn within_longest(timeout_ms: u32) -> Duration {
    Duration::from_millis(timeout_ms.into()).min(LONGEST_TIMEOUT)
}
