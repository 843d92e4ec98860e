//! [`Heartbeats`]: the stream of heartbeats to one member.

use std::sync::Arc;
use std::time::Duration;

use raftkv_proto::raft as proto;
use raftkv_proto::raft::append_response::Outcome;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::connections::{Lane, Peers};
use super::pump::Sent;
use crate::raft::handover::Handover;
use crate::raft::types::{LeaderId, NodeId};

/// Heartbeats on their way. A member that answers none of so many is given a new stream.
const MOST_UNANSWERED: usize = 16;

/// One heartbeat after the other on one stream, and their answers, in order, as they come.
///
/// openraft waits for an answer no longer than until the next heartbeat. On a path that is longer than that an answer belongs to an
/// earlier one: here each is noted with the time at which its own heartbeat was sent, and openraft is given whichever comes.
pub(super) struct Heartbeats {
    pub(super) address: String,
    requests: mpsc::Sender<proto::AppendRequest>,
    answers: mpsc::Receiver<Result<proto::AppendResponse, Status>>,
    sent: Arc<Sent>,
    /// Ends with the stream.
    _reader: super::raft_client::AbortOnDrop,
}

impl Heartbeats {
    /// A stream to `target`, which is at `address`. It connects by itself.
    pub(super) fn open(peers: &Peers, target: NodeId, address: String) -> Result<Self, tonic::transport::Error> {
        let mut client = peers.client(&address, Lane::Heartbeat)?;
        let (requests, receiver) = mpsc::channel(MOST_UNANSWERED);
        let (answering, answers) = mpsc::channel(MOST_UNANSWERED);
        let request = peers.request(target, ReceiverStream::new(receiver));
        let sent = Arc::new(Sent::default());
        let (noting, noted) = (peers.clone(), sent.clone());
        let reader = tokio::spawn(async move {
            let mut responses = match client.append(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    // The caller that waits is told; the stream is of no use any more.
                    let _ = answering.send(Err(status)).await;
                    return;
                }
            };
            loop {
                let answer = match responses.message().await {
                    Ok(Some(response)) => {
                        if let Some((leader, sent_ns)) = noted.answered() {
                            noting.note_ack(target, leader, sent_ns, &response);
                        }
                        Ok(response)
                    }
                    Ok(None) => Err(Status::unavailable("the heartbeat stream ended")),
                    Err(status) => Err(status),
                };
                let is_last = answer.is_err();
                if answering.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Self { address, requests, answers, sent, _reader: super::raft_client::AbortOnDrop(reader) })
    }

    /// Sends one more, with the successor that the leader has named, if any. False when the stream takes none: it is to be opened anew.
    pub(super) fn send(&self, leader: LeaderId, mut request: proto::AppendRequest, handover: &Handover) -> bool {
        let Ok(place) = self.requests.try_reserve() else { return false };
        if self.sent.unanswered() >= MOST_UNANSWERED {
            return false;
        }
        self.sent.push(leader);
        // In this order: an answer to what was sent after a successor was named tells that the member has heard of it.
        request.successor = handover.said_by(leader);
        place.send(request);
        true
    }

    /// The next answer, to whichever heartbeat; when none comes within `deadline`, one that has come since the last call, if any.
    pub(super) async fn answer(&mut self, deadline: Duration) -> Option<Result<proto::AppendResponse, Status>> {
        let mut earlier = None;
        while let Ok(answer) = self.answers.try_recv() {
            // Nothing comes after a refusal.
            let is_accepted = answer.as_ref().is_ok_and(|answer| matches!(answer.outcome, Some(Outcome::Matched(_))));
            earlier = Some(answer);
            if !is_accepted {
                return earlier;
            }
        }
        match tokio::time::timeout(deadline, self.answers.recv()).await {
            Ok(Some(answer)) => Some(answer),
            Ok(None) => Some(Err(Status::unavailable("the heartbeat stream was closed"))),
            Err(_) => earlier,
        }
    }
}

#[cfg(test)]
mod tests {
    use raftkv_runtime::clock::boottime_ns;

    use super::*;

    /// Whether a member has heard who is to lead is concluded from the time of the request that it has answered.
    #[tokio::test]
    async fn a_heartbeat_sent_after_a_successor_was_named_names_it() {
        let leader = LeaderId { term: 5, node_id: 1 };
        for _ in 0..200 {
            let (requests, mut receiver) = mpsc::channel(MOST_UNANSWERED);
            let (_answering, answers) = mpsc::channel(MOST_UNANSWERED);
            let _reader = super::super::raft_client::AbortOnDrop(tokio::spawn(std::future::pending()));
            let sent = Arc::new(Sent::default());
            let stream = Heartbeats { address: String::new(), requests, answers, sent: sent.clone(), _reader };
            let handover = Handover::default();
            let naming = std::thread::spawn({
                let handover = handover.clone();
                move || {
                    handover.name(leader, 2);
                    boottime_ns()
                }
            });
            while stream.send(leader, proto::AppendRequest::default(), &handover) {}
            let named_ns = naming.join().expect("no panic");
            drop(stream);
            while let Some(request) = receiver.recv().await {
                let (_, sent_ns) = sent.answered().expect("one for each");
                assert!(request.successor.is_some() || sent_ns <= named_ns, "sent {sent_ns}, named {named_ns}");
            }
        }
    }
}
