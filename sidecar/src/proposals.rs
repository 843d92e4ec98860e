//! [`Proposals`]: takes commands to the leader's log, here or over there.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use raftkv_proto::consensus::{
    Applied, ProposeRequest, ProposeResponse, Refused, RefusedReason, Unknown, propose_response::Outcome,
};

use crate::forward::{ForwardError, Forwarder, LeaderForwarder};
use crate::leadership;
use crate::network::Lane;
use crate::node::{Group, Node};
use crate::types::{Command, Member, NodeId};

/// Largest payload of one log entry.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Proposes for this node's engine and, on the leader, for other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Proposals {
    node: Node,
    forwarder: Arc<LeaderForwarder<ProposeRequest, ProposeResponse>>,
}

impl Proposals {
    /// Proposals of `node`.
    pub fn new(node: Node) -> Self {
        Self { node, forwarder: Arc::default() }
    }

    /// Proposes here or, where another node leads, there.
    pub async fn propose(&self, request: ProposeRequest) -> ProposeResponse {
        let (id, timeout) = (request.id, timeout_of(&request));
        let outcome = match self.local_group() {
            Err(refused) => refused,
            Ok(group) => match group.raft.as_leader() {
                Ok(_) => self.propose_locally(&group, request.payload, timeout).await,
                Err(forward) => match (forward.leader_id, forward.leader_node) {
                    (Some(leader), Some(member)) if leader != self.node.identity.raft_id => {
                        self.forward(&group, leader, &member, request).await
                    }
                    _ => refused(RefusedReason::NoLeader, "no leader is known"),
                },
            },
        };
        ProposeResponse { id, outcome: Some(outcome) }
    }

    /// Proposes here, for a follower: never forwarded again.
    pub async fn propose_as_leader(&self, request: ProposeRequest) -> ProposeResponse {
        let (id, timeout) = (request.id, timeout_of(&request));
        let outcome = match self.local_group() {
            Err(refused) => refused,
            Ok(group) => match group.raft.as_leader() {
                Ok(_) => self.propose_locally(&group, request.payload, timeout).await,
                Err(_) => refused(RefusedReason::NoLeader, "this node does not lead (any more)"),
            },
        };
        ProposeResponse { id, outcome: Some(outcome) }
    }

    fn local_group(&self) -> Result<Arc<Group>, Outcome> {
        let Some(group) = self.node.group() else {
            return Err(refused(RefusedReason::NoLeader, "this node is in no cluster yet"));
        };
        Ok(group)
    }

    async fn propose_locally(&self, group: &Group, payload: Bytes, timeout: Duration) -> Outcome {
        if !self.node.is_running() {
            return refused(RefusedReason::ShuttingDown, "this node is stopping");
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return refused(RefusedReason::TooLarge, &format!("a log entry holds {MAX_PAYLOAD_BYTES} bytes at most"));
        }
        // Without it a leader that is cut off would take entries it can never commit: unknown outcomes for nothing.
        if !leadership::has_quorum_contact(group) {
            return refused(RefusedReason::NoLeader, "the leader has lost contact with a majority");
        }
        let command = Command { clock_ms: wall_clock_ms(), payload };
        let (responder, receiver) = ProgressResponder::complete_only();
        if let Err(fatal) = group.raft.client_write_ff(command, Some(responder)).await {
            return refused(RefusedReason::ShuttingDown, &fatal.to_string());
        }
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(Ok(written))) if written.data.0.is_empty() => {
                // The engine had applied it before its answer was lost.
                unknown("applied, but the answer was lost")
            }
            Ok(Ok(Ok(written))) => Outcome::Applied(Applied { index: written.log_id.index(), answer: written.data.0 }),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => {
                refused(RefusedReason::NoLeader, "this node does not lead (any more)")
            }
            Ok(Ok(Err(error))) => unknown(&error.to_string()),
            Ok(Err(_)) => unknown("consensus stopped before the entry was applied"),
            Err(_) => unknown("the entry was not applied in time"),
        }
    }

    async fn forward(&self, group: &Arc<Group>, leader: NodeId, member: &Member, request: ProposeRequest) -> Outcome {
        let timeout = timeout_of(&request);
        let forwarder = self.forwarder_to(group, leader, member);
        match tokio::time::timeout(timeout, forwarder.call(request)).await {
            Ok(Ok(response)) => response.outcome.unwrap_or_else(|| unknown("the leader answered nothing")),
            Ok(Err(ForwardError::NotSent)) => refused(RefusedReason::NoLeader, "the leader cannot be reached"),
            Ok(Err(ForwardError::Lost)) => unknown("the connection to the leader broke"),
            Err(_) => unknown("the leader did not answer in time"),
        }
    }

    fn forwarder_to(
        &self,
        group: &Arc<Group>,
        leader: NodeId,
        member: &Member,
    ) -> Arc<Forwarder<ProposeRequest, ProposeResponse>> {
        self.forwarder.to(leader, || {
            let (peers, address) = (group.peers.clone(), member.raft_address.clone());
            Forwarder::start(move |requests| async move {
                let mut client = peers
                    .client(&address, Lane::Forward)
                    .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
                Ok(client.forward_propose(peers.request(leader, requests)).await?.into_inner())
            })
        })
    }
}

/// What is left of the caller's deadline.
fn timeout_of(request: &ProposeRequest) -> Duration {
    Duration::from_millis(u64::from(request.timeout_ms))
}

fn refused(reason: RefusedReason, message: &str) -> Outcome {
    Outcome::Refused(Refused { reason: reason.into(), message: message.to_owned() })
}

fn unknown(message: &str) -> Outcome {
    Outcome::Unknown(Unknown { message: message.to_owned() })
}

/// The wall clock, stepping back never within this process: the state machine takes the maximum anyway.
fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
