//! [`Standstill`]: whether the entries of a leader make progress, judged by the entries themselves and by the connections
//! that carry them.
//!
//! A path may carry heartbeats and lose every large packet. A link may be slow: an entry is then under way for minutes, and
//! the bytes that the other host has acknowledged show that it moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raftkv_runtime::grpc::Reading;
use tokio::time::Instant;

use crate::raft::types::{LeaderId, NodeId};

/// So many bytes more on a connection are progress: more than a connection that is made again carries before the first large
/// packet, and the least that a slow link must carry between two looks.
const PROGRESS_BYTES: u64 = 2 * 1024;
/// After this many times the patience without progress a connection is made again. The wait doubles each time, without an
/// upper bound: on a slow link a large message needs one connection for as long as it takes.
const REMAKE_AFTER: u32 = 3;
/// After so many times the patience without progress entries stand still: a new connection was tried in between.
const STANDS_AFTER: u32 = 8;
/// The same where the other host has received everything and does not answer: its disk may be slow.
const STANDS_AFTER_RECEIVED: u32 = 20;

/// What a leader sees of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Below which index its log matches.
    pub matched_next: u64,
    /// It answers heartbeats. A member that does not is down or cut off, which is no standstill.
    pub answers: bool,
    /// It is being sent a snapshot, which has a deadline of its own.
    pub in_snapshot: bool,
    /// Of the connection that carries entries to it; `None` = there is none, or nobody looked.
    pub reading: Option<Reading>,
}

/// What a leader sees of its log and its group.
#[derive(Debug, Clone)]
pub struct View {
    /// As whom it leads.
    pub leader: LeaderId,
    /// This node.
    pub me: NodeId,
    /// The index after its last entry.
    pub last_next: u64,
    /// The index after the last entry that is committed.
    pub committed_next: u64,
    /// A majority answers heartbeats.
    pub has_quorum_contact: bool,
    /// All sets of voters.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All other members.
    pub others: BTreeMap<NodeId, Sight>,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Entries that are not committed make no progress at a majority.
    pub stuck: bool,
    /// Members to whom entries make no progress.
    pub standing: BTreeSet<NodeId>,
    /// Members whose connection for entries is to be made again now.
    pub remake: Vec<NodeId>,
}

/// What has been seen so far of one leadership.
#[derive(Debug)]
pub struct Standstill {
    /// The patience of the group.
    unit: Duration,
    leader: Option<LeaderId>,
    looked_at: Instant,
    committed_next: u64,
    committed_at: Instant,
    others: BTreeMap<NodeId, Pace>,
}

/// The progress of one member.
#[derive(Debug)]
struct Pace {
    matched_next: u64,
    /// When it last made progress, or had nothing to wait for.
    at: Instant,
    connection: u64,
    /// Bytes acknowledged on the connection when the entries last made progress.
    base: u64,
    /// The most that any connection has carried since then.
    carried: u64,
    received_all: bool,
    remake_after: u32,
    remade_at: Option<Instant>,
}

impl Standstill {
    /// Nothing seen yet. `patience` is that of the group.
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self {
            unit: patience,
            leader: None,
            looked_at: now,
            committed_next: 0,
            committed_at: now,
            others: BTreeMap::new(),
        }
    }

    /// Members for whom the connection should be looked at: those that have waited for a while.
    pub fn suspects(&self, now: Instant) -> BTreeSet<NodeId> {
        let is_suspect = |pace: &Pace| now.duration_since(pace.at) >= self.unit;
        self.others.iter().filter(|(_, pace)| is_suspect(pace)).map(|(id, _)| *id).collect()
    }

    /// This node does not lead.
    pub fn forget(&mut self) {
        self.leader = None;
        self.others.clear();
    }

    /// Takes in what is seen now.
    pub fn look(&mut self, view: &View, now: Instant) -> Verdict {
        // After a pause of this process nothing is known of the time in between.
        let paused = now.duration_since(self.looked_at) >= self.unit;
        self.looked_at = now;
        if self.leader != Some(view.leader) || paused {
            self.forget();
            self.leader = Some(view.leader);
            (self.committed_next, self.committed_at) = (view.committed_next, now);
        }
        let has_nothing_to_commit = view.committed_next >= view.last_next;
        if view.committed_next != self.committed_next || has_nothing_to_commit || !view.has_quorum_contact {
            (self.committed_next, self.committed_at) = (view.committed_next, now);
        }
        self.others.retain(|id, _| view.others.contains_key(id));
        let mut verdict = Verdict::default();
        for (id, sight) in &view.others {
            let pace = self.others.entry(*id).or_insert_with(|| Pace::new(sight, now));
            pace.look(sight, view.last_next, now);
            if pace.stands(self.unit, now) {
                verdict.standing.insert(*id);
            }
            if pace.is_to_be_remade(self.unit, now) {
                verdict.remake.push(*id);
            }
        }
        let moves = |id: &NodeId| *id == view.me || !verdict.standing.contains(id);
        let is_majority = |set: &BTreeSet<NodeId>| set.iter().filter(|id| moves(id)).count() > set.len() / 2;
        let waits = now.duration_since(self.committed_at) >= self.unit * STANDS_AFTER;
        verdict.stuck = waits && !view.voters.iter().all(is_majority);
        verdict
    }
}

impl Pace {
    fn new(sight: &Sight, now: Instant) -> Self {
        Self {
            matched_next: sight.matched_next,
            at: now,
            connection: 0,
            base: 0,
            carried: 0,
            received_all: false,
            remake_after: REMAKE_AFTER,
            remade_at: None,
        }
    }

    fn look(&mut self, sight: &Sight, last_next: u64, now: Instant) {
        let has_all = sight.matched_next >= last_next;
        if sight.matched_next != self.matched_next || has_all || sight.in_snapshot || !sight.answers {
            *self = Self { matched_next: sight.matched_next, ..Self::new(sight, now) };
            return;
        }
        self.received_all = sight.reading.is_some_and(|reading| reading.outstanding == 0);
        let Some(Reading { connection, acknowledged, .. }) = sight.reading else { return };
        if connection != self.connection {
            // The first look at a connection that was there before the wait began: what it carried before says nothing.
            self.base = if self.connection == 0 { acknowledged } else { 0 };
            self.connection = connection;
        }
        let carried = acknowledged.saturating_sub(self.base);
        if carried >= self.carried + PROGRESS_BYTES {
            self.carried = carried;
            self.at = now;
        }
    }

    fn stands(&self, unit: Duration, now: Instant) -> bool {
        let after = if self.received_all { STANDS_AFTER_RECEIVED } else { STANDS_AFTER };
        now.duration_since(self.at) >= unit * after
    }

    fn is_to_be_remade(&mut self, unit: Duration, now: Instant) -> bool {
        let since = self.remade_at.map_or(self.at, |remade| remade.max(self.at));
        // What has arrived is not to be sent again.
        let is_due = !self.received_all && now.duration_since(since) >= unit * self.remake_after;
        if is_due {
            self.remade_at = Some(now);
            self.remake_after = self.remake_after.saturating_mul(2);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_millis(600);
    const ME: NodeId = 1;

    struct Group {
        standstill: Standstill,
        view: View,
        now: Instant,
    }

    impl Group {
        fn new(others: &[NodeId]) -> Self {
            let now = Instant::now();
            let sight = Sight { matched_next: 10, answers: true, in_snapshot: false, reading: None };
            let view = View {
                leader: LeaderId { term: 1, node_id: ME },
                me: ME,
                last_next: 10,
                committed_next: 10,
                has_quorum_contact: true,
                voters: vec![others.iter().copied().chain([ME]).collect()],
                others: others.iter().map(|id| (*id, sight)).collect(),
            };
            Self { standstill: Standstill::new(UNIT, now), view, now }
        }

        fn set(&mut self, id: NodeId, connection: u64, acknowledged: u64, outstanding: u64) {
            let sight = self.view.others.get_mut(&id).expect("a member");
            sight.reading = Some(Reading { connection, acknowledged, outstanding });
        }

        /// Looks for so many election timeouts, four times in each; the connections that were to be made again, and the last
        /// verdict.
        fn wait(&mut self, units: u32, mut each: impl FnMut(&mut Self)) -> (Vec<NodeId>, Verdict) {
            let (mut remade, mut last) = (Vec::new(), Verdict::default());
            for _ in 0..units * 4 {
                self.now += UNIT / 4;
                each(self);
                last = self.standstill.look(&self.view, self.now);
                remade.extend(last.remake.iter().copied());
            }
            (remade, last)
        }
    }

    #[test]
    fn an_idle_group_never_stands_still_and_one_with_an_entry_that_nobody_gets_does_after_a_new_connection() {
        let mut group = Group::new(&[2, 3]);
        assert_eq!(group.wait(100, |_| {}), (Vec::new(), Verdict::default()));
        group.view.last_next = 11;
        let (remade, verdict) = group.wait(STANDS_AFTER - 1, |group| {
            for id in [2, 3] {
                group.set(id, 7, 5_000_000, 9_000);
            }
        });
        assert_eq!((remade, verdict.stuck), (vec![2, 3], false));
        assert!(group.standstill.suspects(group.now).contains(&2));
        // The new connection carries its own beginning, again and again, and no more.
        let mut connection = 8;
        let (_, verdict) = group.wait(STANDS_AFTER + 2, |group| {
            connection += 1;
            for id in [2, 3] {
                group.set(id, connection, 700, 9_000);
            }
        });
        assert!(verdict.stuck && verdict.standing == BTreeSet::from([2, 3]), "{verdict:?}");
        // It gets through at last.
        group.view.others.values_mut().for_each(|sight| sight.matched_next = 11);
        group.view.committed_next = 11;
        assert_eq!(group.wait(1, |_| {}).1, Verdict::default());
    }

    #[test]
    fn a_slow_link_makes_progress() {
        let mut group = Group::new(&[2, 3]);
        group.view.last_next = 11;
        let mut acknowledged = 1_000_000;
        let (remade, verdict) = group.wait(200, |group| {
            // A quarter of 600 ms at 100 kbit/s.
            acknowledged += 1_875;
            group.set(2, 1, acknowledged, 60_000);
            group.set(3, 1, acknowledged, 60_000);
        });
        assert_eq!((remade, verdict), (Vec::new(), Verdict::default()));
    }

    #[test]
    fn one_member_alone_is_named_and_the_others_are_a_majority() {
        let mut group = Group::new(&[2, 3]);
        let (_, verdict) = group.wait(STANDS_AFTER + 2, |group| {
            group.view.last_next += 1;
            group.view.committed_next = group.view.last_next - 1;
            group.view.others.get_mut(&3).expect("a member").matched_next = group.view.last_next;
        });
        assert_eq!((verdict.stuck, verdict.standing), (false, BTreeSet::from([2])));
    }

    #[test]
    fn who_has_received_everything_has_longer_and_is_sent_nothing_again() {
        let mut group = Group::new(&[2, 3]);
        group.view.last_next = 11;
        let received = |group: &mut Group| [2, 3].into_iter().for_each(|id| group.set(id, 1, 9_000, 0));
        let (remade, verdict) = group.wait(STANDS_AFTER_RECEIVED - 2, received);
        assert_eq!((remade, verdict), (Vec::new(), Verdict::default()));
        assert!(group.wait(4, received).1.stuck);
        // A snapshot has a deadline of its own.
        group.view.others.values_mut().for_each(|sight| sight.in_snapshot = true);
        assert_eq!(group.wait(1, |_| {}).1, Verdict::default());
    }

    #[test]
    fn a_member_that_was_down_has_its_time_when_it_is_back() {
        let mut group = Group::new(&[2, 3]);
        group.view.last_next = 11;
        group.view.others.values_mut().for_each(|sight| sight.answers = false);
        group.view.has_quorum_contact = false;
        assert_eq!(group.wait(4 * STANDS_AFTER, |_| {}), (Vec::new(), Verdict::default()));
        assert!(
            group.standstill.suspects(group.now).is_empty(),
            "nobody looks at the connection of a member that is down"
        );
        group.view.others.values_mut().for_each(|sight| sight.answers = true);
        group.view.has_quorum_contact = true;
        assert_eq!(group.wait(STANDS_AFTER - 1, |_| {}).1, Verdict::default());
        assert!(group.wait(2, |_| {}).1.stuck);
    }

    #[test]
    fn a_pause_of_this_process_is_no_standstill() {
        let mut group = Group::new(&[2, 3]);
        group.view.last_next = 11;
        group.wait(1, |_| {});
        group.now += UNIT * 100;
        assert_eq!(group.standstill.look(&group.view, group.now), Verdict::default());
    }

    #[test]
    fn another_leadership_begins_from_nothing() {
        let mut group = Group::new(&[2, 3]);
        group.view.last_next = 11;
        assert!(group.wait(2 * STANDS_AFTER, |_| {}).1.stuck);
        group.view.leader.term = 2;
        assert_eq!(group.wait(1, |_| {}).1, Verdict::default());
    }
}
