//! [`Acks`]: when each member last acknowledged this leader.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::raft::types::{LeaderId, NodeId};

/// What is left out at the end of a lease: it holds as long as no member's clock runs more than a quarter faster than the
/// leader's (1 / (1 - 20 %)). Clocks that are not broken differ by less than a thousandth.
const MARGIN_PERCENT: u64 = 20;

/// A member's answer to a request of this leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// As whom the request was sent.
    pub leader: LeaderId,
    /// When it was about to be sent, by the clock that counts suspension: the member received it later.
    pub sent_ns: u64,
    /// For how long after it received the request the member helps nobody else to lead.
    pub promise: Duration,
}

impl Ack {
    /// Until when the member keeps its promise, by this node's clock.
    fn until_ns(&self) -> u64 {
        self.sent_ns.saturating_add(shortened(self.promise))
    }
}

/// The last acknowledgement of each member. Cheap to clone.
///
/// openraft keeps times of its own. It takes an answer to one append for an answer to all that end with the same entry,
/// also to a commit index that was sent after the member had answered: after a pause of this process such a time may be
/// far too late. Here a time is that of the very request that was answered.
#[derive(Debug, Clone, Default)]
pub struct Acks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<HashMap<NodeId, Ack>>,
    noted: Notify,
}

impl Acks {
    /// Notes an answer. Answers of two connections may be noted in any order.
    pub fn note(&self, member: NodeId, ack: Ack) {
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.entry(member).or_insert(ack);
        if (known.leader, known.sent_ns) < (ack.leader, ack.sent_ns) {
            *known = ack;
        }
        drop(last);
        self.shared.noted.notify_waiters();
    }

    /// Until when nobody but `leader`, which is the node `me`, can lead: by then a member of each majority that followed it
    /// may help another. `own` is this node's own promise, given at `now_ns`; it keeps it by revoking what it granted
    /// before it votes.
    pub fn lease_until(
        &self,
        leader: LeaderId,
        me: NodeId,
        own: Duration,
        now_ns: u64,
        voters: &[BTreeSet<NodeId>],
    ) -> Option<u64> {
        let mine = now_ns.saturating_add(shortened(own));
        self.of_majorities(leader, voters, |member, ack| match ack {
            _ if member == me => Some(mine),
            ack => ack.map(|ack| ack.until_ns().min(mine)),
        })
    }

    /// Returns once a majority has acknowledged `leader` in requests sent after `after_ns`.
    pub async fn confirmed_after(&self, leader: LeaderId, me: NodeId, after_ns: u64, voters: &[BTreeSet<NodeId>]) {
        loop {
            let mut noted = std::pin::pin!(self.shared.noted.notified());
            // From here on a note is not missed.
            noted.as_mut().enable();
            let confirmed = self.of_majorities(leader, voters, |member, ack| match ack {
                _ if member == me => Some(u64::MAX),
                ack => ack.map(|ack| ack.sent_ns),
            });
            if confirmed.is_some_and(|sent| sent > after_ns) {
                return;
            }
            noted.await;
        }
    }

    /// The highest value that a majority of every set of voters reaches.
    fn of_majorities(
        &self,
        leader: LeaderId,
        voters: &[BTreeSet<NodeId>],
        value: impl Fn(NodeId, Option<&Ack>) -> Option<u64>,
    ) -> Option<u64> {
        let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let of_majority = |set: &BTreeSet<NodeId>| {
            let acked = |member: &NodeId| last.get(member).filter(|ack| ack.leader == leader);
            let mut values: Vec<u64> = set.iter().filter_map(|member| value(*member, acked(member))).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.get(set.len() / 2).copied()
        };
        // All sets, or none of them counts.
        voters.iter().map(of_majority).collect::<Option<Vec<u64>>>()?.into_iter().min()
    }
}

fn shortened(promise: Duration) -> u64 {
    let nanos = u64::try_from(promise.as_nanos()).unwrap_or(u64::MAX);
    nanos / 100 * (100 - MARGIN_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = 1;
    const MS: u64 = 1_000_000;
    const OWN: Duration = Duration::from_millis(1_000);

    fn leader(term: u64) -> LeaderId {
        LeaderId { term, node_id: ME }
    }

    fn ack(term: u64, sent_ms: u64, promise_ms: u64) -> Ack {
        Ack { leader: leader(term), sent_ns: sent_ms * MS, promise: Duration::from_millis(promise_ms) }
    }

    fn voters(sets: &[&[NodeId]]) -> Vec<BTreeSet<NodeId>> {
        sets.iter().map(|set| set.iter().copied().collect()).collect()
    }

    fn until_ms(acks: &Acks, term: u64, now_ms: u64, sets: &[&[NodeId]]) -> Option<u64> {
        acks.lease_until(leader(term), ME, OWN, now_ms * MS, &voters(sets)).map(|until| until / MS)
    }

    #[test]
    fn a_lease_ends_a_margin_before_the_promise_that_was_counted_from_the_sending() {
        let acks = Acks::default();
        assert_eq!(until_ms(&acks, 5, 100, &[&[1, 2, 3]]), None, "nobody has answered");
        acks.note(2, ack(5, 100, 600));
        // However late the answer is noted.
        assert_eq!(until_ms(&acks, 5, 5_000, &[&[1, 2, 3]]), Some(100 + 480));
        assert_eq!(until_ms(&acks, 6, 5_000, &[&[1, 2, 3]]), None, "it was given in another term");
        acks.note(3, ack(5, 300, 600));
        assert_eq!(until_ms(&acks, 5, 5_000, &[&[1, 2, 3]]), Some(300 + 480));
        // The earlier of two answers, noted late, takes nothing back and adds nothing.
        acks.note(3, ack(5, 200, 60_000));
        assert_eq!(until_ms(&acks, 5, 5_000, &[&[1, 2, 3]]), Some(300 + 480));
        // A member that promises nothing gives no lease.
        let acks = Acks::default();
        acks.note(2, ack(5, 100, 0));
        assert_eq!(until_ms(&acks, 5, 100, &[&[1, 2, 3]]), Some(100));
    }

    #[test]
    fn a_majority_of_every_set_of_voters_must_have_promised() {
        let acks = Acks::default();
        acks.note(2, ack(5, 400, 600));
        acks.note(3, ack(5, 300, 600));
        assert_eq!(until_ms(&acks, 5, 500, &[&[1, 2, 3, 4, 5]]), Some(300 + 480), "the third best of five");
        acks.note(4, ack(5, 200, 600));
        assert_eq!(until_ms(&acks, 5, 500, &[&[1, 2, 3], &[1, 4, 5]]), Some(200 + 480), "the worse of two sets");
        assert_eq!(until_ms(&acks, 5, 500, &[&[1, 2, 3], &[5, 6, 7]]), None);
        assert_eq!(until_ms(&acks, 5, 500, &[&[2, 3, 4]]), Some(300 + 480), "a leader on its way out does not count");
        assert_eq!(until_ms(&acks, 5, 500, &[&[1]]), Some(500 + 800), "one that is alone is its own majority");
        assert_eq!(until_ms(&acks, 5, 500, &[]), None);
    }

    #[tokio::test]
    async fn a_confirmation_is_an_answer_to_what_was_sent_after_the_question() {
        let acks = Acks::default();
        acks.note(2, ack(5, 100, 600));
        acks.note(3, ack(5, 100, 600));
        let sets = voters(&[&[1, 2, 3]]);
        let asked = tokio::spawn({
            let (acks, sets) = (acks.clone(), sets.clone());
            async move { acks.confirmed_after(leader(5), ME, 100 * MS, &sets).await }
        });
        let soon = Duration::from_millis(30);
        acks.note(3, ack(4, 200, 600));
        tokio::time::sleep(soon).await;
        assert!(!asked.is_finished(), "sent before the question, or as another leader");
        acks.note(2, ack(5, 101, 600));
        tokio::time::timeout(Duration::from_secs(10), asked).await.expect("in time").expect("no panic");
        let single = voters(&[&[1]]);
        let alone = acks.confirmed_after(leader(9), ME, 0, &single);
        tokio::time::timeout(soon, alone).await.expect("its own majority");
    }
}
