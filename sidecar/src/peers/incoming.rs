//! [`Incoming`]: one snapshot comes in at a time, and the newest sender has the turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::raft::types::Vote;

/// Between two lines about a transfer that takes long.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// A transfer that makes room lets go as soon as it is told to; one that is being installed takes its time.
pub(crate) const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// Lets snapshots in.
pub struct Incoming {
    slot: Arc<Semaphore>,
    /// Number of the newest that came, and its vote while it is being received.
    newest: Arc<watch::Sender<(u64, Option<Vote>)>>,
    patience: Duration,
}

impl Default for Incoming {
    fn default() -> Self {
        let newest = Arc::new(watch::Sender::new((0, None)));
        Self { slot: Arc::new(Semaphore::new(1)), newest, patience: TAKE_OVER_PATIENCE }
    }
}

/// A snapshot that is being received. When it is dropped before it is [whole](Self::whole), it has broken off.
pub struct Receiving {
    number: u64,
    newest: Arc<watch::Sender<(u64, Option<Vote>)>>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: Arc<AtomicU64>,
    began: Instant,
}

impl Incoming {
    /// A leader begins to send one; that it is the leader has been checked. An earlier transfer makes room, of which the sender may be gone without a word; but not for an
    /// earlier leader, nor when it is whole and being installed.
    pub async fn begin(&self, vote: Vote) -> Result<Receiving, Status> {
        let busy = || Status::resource_exhausted("another snapshot is being received");
        let mut number = None;
        self.newest.send_if_modified(|(newest, of)| {
            let is_newer = of.as_ref().is_none_or(|of| vote >= *of);
            if is_newer {
                (*newest, *of) = (*newest + 1, Some(vote));
                number = Some(*newest);
            }
            is_newer
        });
        let number = number.ok_or_else(busy)?;
        let turn = tokio::time::timeout(self.patience, self.slot.clone().acquire_owned()).await;
        let permit = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
        let newest = Arc::clone(&self.newest);
        Ok(Receiving { number, newest, permit: Some(permit), bytes: Arc::default(), began: Instant::now() })
    }
}

impl Receiving {
    /// Counts what comes in.
    pub fn counter(&self) -> impl Fn(usize) + Send + use<> {
        let bytes = Arc::clone(&self.bytes);
        move |more| {
            bytes.fetch_add(more as u64, Ordering::Relaxed);
        }
    }

    /// Runs `work`, which receives it, and tells of progress now and then. Ends early when a newer transfer needs the room.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let mut newest = self.newest.subscribe();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.inspect_err(|status| {
                    tracing::warn!(bytes = self.bytes(), %status, "the snapshot was not received");
                }),
                _ = newest.wait_for(|(newest, _)| *newest != self.number) => {
                    return Err(Status::aborted("another snapshot is sent instead"));
                }
                () = tokio::time::sleep(TELL_INTERVAL) => {
                    let seconds = self.began.elapsed().as_secs();
                    tracing::info!(bytes = self.bytes(), seconds, "still receiving the snapshot");
                }
            }
        }
    }

    /// All of it is here. Another one has to wait until what is returned is dropped.
    pub fn whole(mut self) -> Option<OwnedSemaphorePermit> {
        let (bytes, took) = (self.bytes(), self.began.elapsed());
        tracing::info!(bytes, ?took, "the snapshot is received and durable, installing");
        self.permit.take()
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // What is over keeps nobody out.
        self.newest.send_if_modified(|(newest, of)| {
            if *newest == self.number {
                *of = None;
            }
            false
        });
        if self.permit.is_some() {
            let (bytes, took) = (self.bytes(), self.began.elapsed());
            tracing::info!(bytes, ?took, "receiving the snapshot broke off; its leader sends it again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::LeaderId;

    fn vote(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
    }

    #[tokio::test]
    async fn a_transfer_whose_sender_is_gone_makes_room_but_not_for_an_earlier_leader() {
        let mut incoming = Incoming::default();
        let first = incoming.begin(vote(2)).await.expect("nothing else comes in");
        let receiving = tokio::spawn(async move { first.run(std::future::pending::<Result<(), Status>>()).await });
        let stale = incoming.begin(vote(1)).await.err().expect("an earlier leader");
        assert_eq!(stale.code(), tonic::Code::ResourceExhausted);
        assert!(!receiving.is_finished());
        let second = incoming.begin(vote(2)).await.expect("the same leader begins again");
        let ended = receiving.await.expect("no panic").expect_err("it made room");
        assert_eq!(ended.code(), tonic::Code::Aborted);

        let installing = second.whole();
        incoming.patience = Duration::from_millis(20);
        let third = incoming.begin(vote(3)).await.err().expect("the second one is being installed");
        assert_eq!(third.code(), tonic::Code::ResourceExhausted);
        drop(installing);
        incoming.patience = TAKE_OVER_PATIENCE;
        let third = incoming.begin(vote(3)).await.expect("that is over");
        let counted = third.counter();
        let received = async {
            counted(5);
            Ok(())
        };
        third.run(received).await.expect("received");
        assert_eq!(third.bytes(), 5);
        drop(third);
        incoming.begin(vote(1)).await.expect("what is over keeps nobody out");
    }
}
