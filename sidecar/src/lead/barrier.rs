//! [`ReadBarriers`]: up to where a read must have applied to be linearizable.
//!
//! The leader answers by its lease, or notes its commit index and then confirms with a quorum that it still leads. All
//! questions that wait when a confirmation begins share it; one that arrives later waits for the next, because an older
//! confirmation says nothing about writes acknowledged since.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_proto::consensus::{
    BarrierMode, ReadBarrierRequest, ReadBarrierResponse, Refused, RefusedReason, read_barrier_response::Outcome,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::lead::proposals::{NO_MEMBER, within_longest};
use crate::node::metrics::{
    await_successor, has_quorum_contact, is_left_behind, led_by, may_ask, metrics_of, outage, replaced,
};
use crate::node::{Group, Node};
use crate::peers::forward::LeaderForwarder;
use crate::raft::types::{Member, NodeId};

/// Questions waiting for the next confirmation; more are refused as overload.
pub(crate) const QUEUE: usize = 4_096;

type Question = oneshot::Sender<Outcome>;

/// Answers barriers for this node's engine and, on the leader, for other nodes. Cheap to clone.
#[derive(Clone)]
pub struct ReadBarriers {
    node: Node,
    questions: mpsc::Sender<Question>,
    forwarder: Arc<LeaderForwarder<ReadBarrierRequest, ReadBarrierResponse>>,
}

impl ReadBarriers {
    /// Barriers of `node`. Starts the task that confirms leadership; it ends when all clones are gone.
    pub fn new(node: Node) -> Self {
        let (questions, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(confirm(node.clone(), waiting));
        Self { node, questions, forwarder: Arc::default() }
    }

    /// Asks here or, where another node leads, there.
    pub async fn barrier(&self, mut request: ReadBarrierRequest) -> ReadBarrierResponse {
        let (id, timeout) = (request.id, within_longest(request.timeout_ms));
        let deadline = Instant::now() + timeout;
        let group = self.node.group();
        if group.as_ref().is_some_and(|group| !group.lease.is_enabled()) {
            // What is not trusted here is not trusted at the leader either.
            request.set_mode(BarrierMode::ReadIndex);
        }
        if let Some((_, why)) = self.node.standing.barred() {
            return ReadBarrierResponse { id, outcome: Some(refused(RefusedReason::OutOfService, &why)) };
        }
        let outcome = match group {
            None => refused(RefusedReason::NoLeader, "this node is in no cluster yet"),
            Some(group) => {
                let led_by = led_by(&group);
                match self.ask_once(&group, request, timeout).await {
                    Outcome::Refused(refused)
                        if refused.reason() == RefusedReason::NoLeader
                            && await_successor(&self.node, &group, led_by, deadline).await =>
                    {
                        self.ask_once(&group, request, deadline.saturating_duration_since(Instant::now())).await
                    }
                    outcome => outcome,
                }
            }
        };
        ReadBarrierResponse { id, outcome: Some(outcome) }
    }

    async fn ask_once(&self, group: &Arc<Group>, request: ReadBarrierRequest, timeout: Duration) -> Outcome {
        match group.raft.as_leader() {
            Ok(_) => self.ask(group, request.mode(), timeout).await,
            Err(_) if let Some(why) = outage(&self.node, group) => refused(RefusedReason::NoMajority, why),
            Err(forward) => match (forward.leader_id, forward.leader_node) {
                (Some(leader), Some(member)) if leader != self.node.identity.raft_id => {
                    let outcome = self.forward(group, leader, &member, request, timeout).await;
                    reachable(group, outcome)
                }
                _ => refused(RefusedReason::NoLeader, "no leader is known"),
            },
        }
    }

    /// Answers for the follower `sender`: never forwarded again. 0 = it is not known who asks.
    pub async fn barrier_as_leader(&self, sender: NodeId, request: ReadBarrierRequest) -> ReadBarrierResponse {
        let timeout = within_longest(request.timeout_ms);
        let outcome = match self.node.group() {
            None => refused(RefusedReason::NoLeader, "this node is in no cluster yet"),
            Some(group) if !may_ask(&group, sender) => refused(RefusedReason::OutOfService, NO_MEMBER),
            Some(group) => {
                let outcome = self.ask(&group, request.mode(), timeout).await;
                if let Outcome::NextIndex(next_index) = outcome {
                    group.progress.hurry(next_index);
                }
                outcome
            }
        };
        ReadBarrierResponse { id: request.id, outcome: Some(outcome) }
    }

    async fn ask(&self, group: &Group, mode: BarrierMode, timeout: Duration) -> Outcome {
        if mode == BarrierMode::Lease
            && let Some(next_index) = group.lease.read_index(&group.raft)
        {
            return Outcome::NextIndex(next_index);
        }
        // A leader that is stuck still confirms reads.
        if !has_quorum_contact(group)
            && let Some(why) = outage(&self.node, group)
        {
            return refused(RefusedReason::NoMajority, why);
        }
        let answer = match put(&self.questions) {
            Ok(answer) => answer,
            Err(refused) => return refused,
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => stopping(),
            Err(_) => refused(RefusedReason::NoLeader, "no quorum confirmed the leader in time"),
        }
    }

    async fn forward(
        &self,
        group: &Arc<Group>,
        leader: NodeId,
        member: &Member,
        request: ReadBarrierRequest,
        timeout: Duration,
    ) -> Outcome {
        let forwarder = self.forwarder.to(&group.peers, leader, member, |mut client, requests| async move {
            Ok(client.forward_read_barrier(requests).await?.into_inner())
        });
        match tokio::time::timeout(timeout, forwarder.call(request, replaced(group, leader))).await {
            Ok(Ok(response)) => {
                let nothing = || refused(RefusedReason::NoLeader, "the leader answered nothing");
                let outcome = response.outcome.unwrap_or_else(nothing);
                if matches!(&outcome, Outcome::Refused(refused) if refused.reason() == RefusedReason::OutOfService) {
                    self.node.standing.doubt();
                }
                outcome
            }
            // A question changes nothing: lost and never sent are the same.
            Ok(Err(_)) => refused(RefusedReason::NoLeader, "the leader cannot be reached"),
            Err(_) => refused(RefusedReason::NoLeader, "the leader did not answer in time"),
        }
    }
}

/// Puts a question into the queue, without waiting for room.
///
/// A question is asked in the body of its answer, which makes no progress while the client does not read. One that waited for room would
/// be handed a place all the same and keep it: a few streams that nobody reads would take all places.
fn put(questions: &mpsc::Sender<Question>) -> Result<oneshot::Receiver<Outcome>, Outcome> {
    let (reply, answer) = oneshot::channel();
    match questions.try_send(reply) {
        Ok(()) => Ok(answer),
        Err(TrySendError::Full(_)) => {
            Err(refused(RefusedReason::Overloaded, "too many read barriers wait at the leader"))
        }
        Err(TrySendError::Closed(_)) => Err(stopping()),
    }
}

/// A read that has to wait for entries which do not come is refused at once.
fn reachable(group: &Group, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::NextIndex(next_index)
            if next_index > group.progress.submitted_next() && is_left_behind(group, &metrics_of(group)) =>
        {
            refused(RefusedReason::NoMajority, "entries of the leader make no progress on their way to this node")
        }
        outcome => outcome,
    }
}

/// Confirms leadership for all questions that wait, again and again.
async fn confirm(node: Node, mut waiting: mpsc::Receiver<Question>) {
    let mut questions: Vec<Question> = Vec::new();
    while waiting.recv_many(&mut questions, QUEUE).await > 0 {
        // What else is ready to run may bring questions that can share this confirmation.
        tokio::task::yield_now().await;
        while let Ok(question) = waiting.try_recv() {
            questions.push(question);
        }
        let Some(group) = node.group() else {
            questions.clear();
            continue;
        };
        let outcome = match group.lease.confirmed_index(&group.raft).await {
            Ok(next_index) => Outcome::NextIndex(next_index),
            Err(error) => refused(RefusedReason::NoLeader, &error.to_string()),
        };
        for reply in questions.drain(..) {
            // Whoever asked may have given up.
            let _ = reply.send(outcome.clone());
        }
    }
}

fn stopping() -> Outcome {
    refused(RefusedReason::ShuttingDown, "this node is stopping")
}

fn refused(reason: RefusedReason, message: &str) -> Outcome {
    Outcome::Refused(Refused { reason: reason.into(), message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn why(put: Result<oneshot::Receiver<Outcome>, Outcome>) -> Option<RefusedReason> {
        match put {
            Err(Outcome::Refused(refused)) => Some(refused.reason()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn questions_beyond_the_queue_are_refused_and_keep_no_place() {
        let (questions, mut waiting) = mpsc::channel(2);
        // Kept, as by streams that nobody reads.
        let kept = [put(&questions), put(&questions)];
        assert!(kept.iter().all(Result::is_ok));
        for _ in 0..8 {
            assert_eq!(why(put(&questions)), Some(RefusedReason::Overloaded));
        }
        let mut taken = Vec::new();
        assert_eq!(waiting.recv_many(&mut taken, 2).await, 2);
        let answer = put(&questions).expect("there is room as soon as a confirmation has begun");
        let question = waiting.recv().now_or_never().flatten().expect("it is in the queue");
        question.send(Outcome::NextIndex(7)).expect("somebody waits");
        assert_eq!(answer.await, Ok(Outcome::NextIndex(7)));
        drop(waiting);
        assert_eq!(why(put(&questions)), Some(RefusedReason::ShuttingDown));
    }
}
