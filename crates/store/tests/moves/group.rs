//! [`Group`]: one of the two groups, with its clients' one session.

use bytes::Bytes;
use raftkv_kv::{Answer, Batch, MoveId, Op, Outcome, Ownership, Proposal, SystemAnswer, SystemCommand as Command};
use raftkv_store::{ApplyEntry, Export, ExportedPage, StateLimits};

use crate::support::{Harness, Taken, payload};

const STORE: u64 = 0xfeed;
/// So small that a move has many pages.
const PAGE_BYTES: usize = 150;
pub(super) const LIMITS: StateLimits = StateLimits {
    session_ms: u64::MAX,
    sessions: 100,
    answers_per_session: 10,
    idempotency_ms: 1_000,
    idempotency: 1_000,
    sweep: 2,
};

/// A group of one replica, with its whole log.
pub(super) struct Group {
    pub(super) h: Harness,
    pub(super) log: Vec<ApplyEntry>,
    session: u64,
    sequence: u64,
}

impl Group {
    pub(super) fn new(group: u32, clock_ms: u64) -> Self {
        let mut h = Harness::with(LIMITS);
        h.clock_ms = clock_ms;
        let mut this = Self { h, log: Vec::new(), session: 0, sequence: 0 };
        let Answer::SessionOpened { session } = this.propose(&Proposal::OpenSession) else { panic!() };
        this.session = session;
        assert_eq!(this.system(Command::Adopt { store: STORE, group, keep: group == 1 }), SystemAnswer::Done);
        this
    }

    pub(super) fn propose(&mut self, proposal: &Proposal) -> Answer {
        let entry = payload(self.h.next, self.h.clock_ms, proposal);
        self.h.next += 1;
        self.log.push(entry.clone());
        Answer::decode(&self.h.store.apply_blocking(vec![entry]).unwrap().answers[0]).unwrap()
    }

    pub(super) fn system(&mut self, command: Command) -> SystemAnswer {
        match self.propose(&Proposal::System(command)) {
            Answer::System(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn op(&mut self, op: Op) -> Outcome {
        self.sequence += 1;
        let batch =
            Batch { session: self.session, sequence: self.sequence, acknowledged_below: self.sequence, ops: vec![op] };
        match self.propose(&Proposal::Batch(batch)) {
            Answer::Applied(mut outcomes) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn ownership(&self) -> Ownership {
        Ownership::clone(&self.h.store.ownership())
    }

    pub(super) fn export(&self, move_id: MoveId, cursor: Bytes) -> ExportedPage {
        self.h.store.export(&Export { move_id, cursor, max_bytes: PAGE_BYTES }).unwrap()
    }

    /// Another store takes over with nothing but a snapshot.
    pub(super) fn replace(&mut self) {
        let taken = Taken::of(&self.h.store);
        let mut other = Harness::with(LIMITS);
        taken.install(&other.store);
        (other.next, other.clock_ms) = (self.h.next, self.h.clock_ms);
        assert_eq!(other.store.ownership(), self.h.store.ownership());
        self.h = other;
    }
}
