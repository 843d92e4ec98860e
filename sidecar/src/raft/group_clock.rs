//! [`GroupClock`]: the clock of the group, a counter of the milliseconds for which it was led.
//!
//! Everything in the replicated state that ends after a while ends by this clock. No wall clock moves it: a leader whose wall clock is
//! two days ahead would make its group forget what it has promised to keep for a day. The leader adds what its monotonic clock
//! (`CLOCK_BOOTTIME`) says has passed, while a majority answers it. The time for which nobody leads, or for which the leader stands
//! still, does not count.
//!
//! Each entry is stamped, and the largest stamp applied is the clock in the state. Between entries the leader tells its clock with every
//! message, and members remember what the newest leader told: the next one goes on from there.
//!
//! **What ends after a while never ends early**, by whichever leader's count. A value that a leader counts is never more than that of an
//! earlier moment plus the time since then. A new leader begins with the largest stamp in its log, or with what it was told. What it was
//! told comes from the leader of its last entry or a newer one: an older leader may have been ahead of the one that made that entry, so
//! whatever a newer leader says replaces it ([`GroupClock::heard`]), also where that is less.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftkv_kv::MAX_CLOCK_MS;
use raftkv_runtime::clock::boottime_ns;
use raftkv_runtime::planted;

use crate::raft::types::LeaderId;

/// More is not added at once: a leader that stood still for longer may not have led meanwhile.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct GroupClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the newest leader has told this node, which may be this node itself. In memory only.
    heard: Option<(LeaderId, u64)>,
    /// While this node leads, from when an entry of its own is applied.
    counter: Option<Counter>,
}

/// What this node counts as a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    leader: LeaderId,
    /// In nanoseconds, so that nothing is lost between two steps.
    value_ns: u128,
    looked_ns: u64,
    in_contact: bool,
}

/// What a leader knows when it looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) leader: LeaderId,
    /// The clock in the state of its engine, once an entry of its own term is applied: all earlier stamps are in it then.
    pub(crate) state_ms: Option<u64>,
    /// A majority has answered within a second.
    pub(crate) in_contact: bool,
}

impl Counter {
    /// Adds what has passed.
    fn advance(&mut self, now_ns: u64) {
        let passed = Duration::from_nanos(now_ns.saturating_sub(self.looked_ns)).min(LONGEST_STEP);
        if self.in_contact {
            self.value_ns += passed.as_nanos();
        }
        self.looked_ns = self.looked_ns.max(now_ns);
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.value_ns / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// Of two leaders the newer one.
fn order(leader: LeaderId) -> (u64, u64) {
    (leader.term, leader.node_id)
}

impl State {
    fn heard_ms(&self) -> u64 {
        if planted!(ClockForgets) {
            return 0;
        }
        self.heard.map_or(0, |(_, ms)| ms)
    }

    fn note(&mut self, leader: LeaderId, clock_ms: u64) {
        // No group comes there: a leader that says so is none that can be believed.
        if clock_ms > MAX_CLOCK_MS {
            return;
        }
        match &mut self.heard {
            Some((before, _)) if order(leader) < order(*before) => {}
            Some((before, ms)) if leader == *before => *ms = clock_ms.max(*ms),
            heard => *heard = Some((leader, clock_ms)),
        }
    }

    fn look(&mut self, sight: Option<Sight>, now_ns: u64) {
        let Some(sight) = sight else {
            self.counter = None;
            return;
        };
        if let Some(counter) = self.counter.as_mut().filter(|counter| counter.leader == sight.leader) {
            // Before this look the node was in contact as far as it knew.
            counter.advance(now_ns);
            counter.in_contact = sight.in_contact;
            return;
        }
        let heard_ms = self.heard_ms();
        let in_contact = sight.in_contact;
        self.counter = sight.state_ms.map(|state_ms| Counter {
            leader: sight.leader,
            value_ns: u128::from(state_ms.max(heard_ms)) * 1_000_000,
            looked_ns: now_ns,
            in_contact,
        });
    }

    fn stamp(&mut self, now_ns: u64) -> u64 {
        let Some(counter) = &mut self.counter else {
            // A leader of which no entry is applied: the state's clock becomes the larger of this and of all earlier stamps, with
            // which the counter will begin.
            return self.heard_ms();
        };
        counter.advance(now_ns);
        let (leader, ms) = (counter.leader, counter.ms());
        self.note(leader, ms);
        ms
    }
}

impl GroupClock {
    /// What the clock shows: stamped on an entry that is proposed now, and told to members. Only to be asked while this node leads; 0 =
    /// nothing is known, as below the cluster version that has the clock.
    pub fn stamp_ms(&self) -> u64 {
        self.lock().stamp(boottime_ns())
    }

    /// A leader, whose message this node has accepted, tells what the clock shows; 0 = it does not know.
    pub fn heard(&self, leader: LeaderId, clock_ms: u64) {
        self.lock().note(leader, clock_ms);
    }

    /// Counts on, as a leader that sees this; `None` = this node does not lead.
    pub(crate) fn look(&self, sight: Option<Sight>) {
        self.lock().look(sight, boottime_ns());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn leader(term: u64) -> LeaderId {
        LeaderId { term, node_id: 1 }
    }

    fn sight(term: u64, state_ms: u64, in_contact: bool) -> Option<Sight> {
        Some(Sight { leader: leader(term), state_ms: Some(state_ms), in_contact })
    }

    #[test]
    fn led_time_counts_and_no_other() {
        let mut clock = State::default();
        assert_eq!(clock.stamp(0), 0, "nobody leads here");
        clock.look(sight(1, 5_000, true), 7 * SECOND_NS);
        assert_eq!(clock.stamp(7 * SECOND_NS), 5_000, "from the state");
        assert_eq!(clock.stamp(7 * SECOND_NS + SECOND_NS / 20), 5_050);
        clock.look(sight(1, 5_000, false), 7 * SECOND_NS + SECOND_NS / 10);
        assert_eq!(clock.stamp(9 * SECOND_NS), 5_100, "no majority answers");
        clock.look(sight(1, 5_000, true), 10 * SECOND_NS);
        assert_eq!(clock.stamp(10 * SECOND_NS + SECOND_NS / 2), 5_600, "only since the last look");
        assert_eq!(clock.stamp(100 * SECOND_NS), 6_600, "it stood still");
        assert_eq!(clock.stamp(99 * SECOND_NS), 6_600, "never back");
        assert_eq!(clock.stamp(100 * SECOND_NS), 6_600, "and nothing twice");
    }

    #[test]
    fn a_new_leader_goes_on_from_what_it_was_told_or_has_applied() {
        let mut clock = State::default();
        clock.note(leader(1), 9_000);
        clock.note(leader(1), 8_000);
        let early = Some(Sight { leader: leader(2), state_ms: None, in_contact: true });
        clock.look(early, SECOND_NS);
        assert_eq!(clock.stamp(2 * SECOND_NS), 9_000, "no entry of its own is applied: it does not count yet");
        clock.look(sight(2, 5_000, true), 3 * SECOND_NS);
        assert_eq!(clock.stamp(3 * SECOND_NS), 9_000);
        clock.look(None, SECOND_NS);
        clock.note(leader(3), 11_000);
        clock.look(sight(4, 12_000, true), 4 * SECOND_NS);
        assert_eq!(clock.stamp(4 * SECOND_NS), 12_000);
        clock.look(sight(5, 11_500, true), 9 * SECOND_NS);
        assert_eq!(clock.stamp(9 * SECOND_NS), 12_000, "what it told itself counts, and the time in between does not");
    }

    #[test]
    fn a_clock_beyond_its_bound_is_not_believed() {
        let mut clock = State::default();
        clock.note(leader(1), 5_000);
        for clock_ms in [MAX_CLOCK_MS + 1, u64::MAX] {
            clock.note(leader(2), clock_ms);
        }
        assert_eq!(clock.stamp(0), 5_000);
        clock.note(leader(2), MAX_CLOCK_MS);
        assert_eq!(clock.stamp(0), MAX_CLOCK_MS);
    }

    #[test]
    fn what_a_newer_leader_says_replaces_what_an_older_one_said() {
        // The older one had counted further than the newer one knew. What the newer one grants is counted from its own clock: were
        // the older one's value taken up later, it would end early.
        let mut clock = State::default();
        clock.note(leader(1), 600_000);
        clock.note(leader(2), 1_000);
        clock.note(leader(1), 700_000);
        clock.look(sight(3, 900, true), 0);
        assert_eq!(clock.stamp(0), 1_000);
    }
}
