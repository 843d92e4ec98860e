//! Slots move between two groups while clients go on, every step is repeated, and stores are reopened or replaced by
//! snapshots at any moment: nothing is lost, served twice, or told apart from a single store.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raftkv_engine::store::{ApplyEntry, Export, ExportedPage, StateLimits, StoreError};
use raftkv_kv::{
    Answer, Batch, MoveId, Op, Outcome, Ownership, Precondition, Proposal, Refusal, SlotSet, SystemAnswer,
    SystemCommand as Command, slot_of,
};

use crate::store::support::{Harness, Taken, delete, key, once, payload, set_until, value, when};

const STORE: u64 = 0xfeed;
const KEYS: usize = 12;
/// So small that a move has many pages.
const PAGE_BYTES: usize = 150;
const LIMITS: StateLimits = StateLimits {
    session_ms: u64::MAX,
    sessions: 100,
    answers_per_session: 10,
    idempotency_ms: 1_000,
    idempotency: 1_000,
    sweep: 2,
};

fn name(key: usize) -> String {
    format!("key{key}")
}

fn slot(key: usize) -> u16 {
    slot_of(name(key).as_bytes())
}

/// A group of one replica, with its whole log.
struct Group {
    h: Harness,
    log: Vec<ApplyEntry>,
    session: u64,
    sequence: u64,
}

impl Group {
    fn new(group: u32, clock_ms: u64) -> Self {
        let mut h = Harness::with(LIMITS);
        h.clock_ms = clock_ms;
        let mut this = Self { h, log: Vec::new(), session: 0, sequence: 0 };
        let Answer::SessionOpened { session } = this.propose(&Proposal::OpenSession) else { panic!() };
        this.session = session;
        assert_eq!(this.system(Command::Adopt { store: STORE, group, keep: group == 1 }), SystemAnswer::Done);
        this
    }

    fn propose(&mut self, proposal: &Proposal) -> Answer {
        let entry = payload(self.h.next, self.h.clock_ms, proposal);
        self.h.next += 1;
        self.log.push(entry.clone());
        Answer::decode(&self.h.store.apply_blocking(vec![entry]).unwrap().answers[0]).unwrap()
    }

    fn system(&mut self, command: Command) -> SystemAnswer {
        match self.propose(&Proposal::System(command)) {
            Answer::System(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn op(&mut self, op: Op) -> Outcome {
        self.sequence += 1;
        let batch =
            Batch { session: self.session, sequence: self.sequence, acknowledged_below: self.sequence, ops: vec![op] };
        match self.propose(&Proposal::Batch(batch)) {
            Answer::Applied(mut outcomes) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn ownership(&self) -> Ownership {
        Ownership::clone(&self.h.store.ownership())
    }

    fn export(&self, move_id: MoveId, cursor: Bytes) -> ExportedPage {
        self.h.store.export(&Export { move_id, cursor, max_bytes: PAGE_BYTES }).unwrap()
    }

    /// Another store takes over with nothing but a snapshot.
    fn replace(&mut self) {
        let taken = Taken::of(&self.h.store);
        let mut other = Harness::with(LIMITS);
        taken.install(&other.store);
        (other.next, other.clock_ms) = (self.h.next, self.h.clock_ms);
        assert_eq!(other.store.ownership(), self.h.store.ownership());
        self.h = other;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    text: String,
    revision: u64,
    create_revision: u64,
    expires_at_ms: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    fingerprint: u64,
    outcome: Outcome,
    expires_at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    BeginImport,
    BeginExport,
    Copy { in_changes: u32 },
    Fence,
    Rest { changes: u64, revision: u64, clock_ms: u64 },
    Release,
    Purge,
    AbortExport,
}

#[derive(Debug, Clone)]
struct Move {
    id: MoveId,
    from: usize,
    to: usize,
    slots: SlotSet,
    phase: Phase,
}

struct World {
    groups: [Group; 2],
    values: BTreeMap<usize, Value>,
    /// The highest revision that a key has had.
    revisions: HashMap<usize, u64>,
    kept: HashMap<(usize, u8), Kept>,
    moving: Option<Move>,
    moves: MoveId,
    /// A command that may come again, long after.
    late: Option<(usize, Command)>,
}

impl World {
    fn new() -> Self {
        Self {
            // The clocks of their leaders differ.
            groups: [Group::new(1, 1_000), Group::new(2, 1_040)],
            values: BTreeMap::new(),
            revisions: HashMap::new(),
            kept: HashMap::new(),
            moving: None,
            moves: 0,
            late: None,
        }
    }

    fn serving(&self, key: usize) -> Option<usize> {
        let serving: Vec<usize> = (0..2).filter(|&at| self.groups[at].ownership().serves(slot(key))).collect();
        assert!(serving.len() <= 1, "{} is served twice", name(key));
        serving.first().copied()
    }

    fn live(&self, key: usize, clock_ms: u64) -> Option<&Value> {
        self.values.get(&key).filter(|value| value.expires_at_ms == 0 || value.expires_at_ms > clock_ms)
    }

    /// As a router does it: wherever the slot is served, if it is.
    fn client(&mut self, key: usize, write: &Write) {
        let serving = self.serving(key);
        for at in 0..2 {
            if Some(at) != serving {
                assert_eq!(self.groups[at].op(write.op(key, 0)), Outcome::WrongGroup);
            }
        }
        let Some(at) = serving else { return };
        let clock_ms = self.groups[at].h.clock_ms;
        let outcome = self.groups[at].op(write.op(key, clock_ms));
        if let Some((client, fingerprint)) = write.once {
            if let Some(kept) = self.kept.get(&(key, client)).filter(|kept| kept.expires_at_ms > clock_ms) {
                let expected = if kept.fingerprint == fingerprint {
                    Outcome::Replayed(Box::new(kept.outcome.clone()))
                } else {
                    Outcome::IdempotencyMismatch
                };
                assert_eq!(outcome, expected, "{write:?} of {}", name(key));
                return;
            }
            let kept = Kept { fingerprint, outcome: outcome.clone(), expires_at_ms: clock_ms + KEEP_MS };
            self.kept.insert((key, client), kept);
        }
        self.check_outcome(key, write, clock_ms, outcome);
    }

    fn check_outcome(&mut self, key: usize, write: &Write, clock_ms: u64, outcome: Outcome) {
        let live = self.live(key, clock_ms).cloned();
        let current = live.as_ref().map_or(0, |live| live.revision);
        match outcome {
            Outcome::PreconditionFailed { current: told } => {
                assert!(write.only_absent && live.is_some());
                assert_eq!(told, current);
            }
            Outcome::Set { revision, created } => {
                assert!(!write.delete && (!write.only_absent || live.is_none()));
                assert_eq!(created, live.is_none(), "{write:?} of {}: {live:?}", name(key));
                self.rise(key, revision);
                let create_revision = live.map_or(revision, |live| live.create_revision);
                let expires_at_ms = write.expiry(clock_ms);
                let text = write.text.to_string();
                self.values.insert(key, Value { text, revision, create_revision, expires_at_ms });
            }
            Outcome::Deleted { revision, existed } => {
                assert!(write.delete);
                assert_eq!(existed, live.is_some(), "{write:?} of {}", name(key));
                if existed {
                    self.rise(key, revision);
                    self.values.remove(&key);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn rise(&mut self, key: usize, revision: u64) {
        let before = self.revisions.insert(key, revision).unwrap_or(0);
        assert!(revision > before, "the revision of {} went from {before} to {revision}", name(key));
    }

    fn begin(&mut self, from: usize, mask: u16) {
        let owned = self.groups[from].ownership().owned;
        let chosen = (0..KEYS).filter(|key| mask & (1 << key) != 0).map(slot);
        let slots: SlotSet = chosen.filter(|slot| owned.contains(*slot)).collect();
        if !slots.is_empty() {
            self.moves += 1;
            let phase = Phase::BeginImport;
            self.moving = Some(Move { id: self.moves, from, to: 1 - from, slots, phase });
        }
    }

    /// Sends a command, and again, which changes nothing.
    fn send(&mut self, at: usize, command: Command) -> SystemAnswer {
        let group = &mut self.groups[at];
        let answer = group.system(command.clone());
        let after = (group.ownership(), group.h.store.revision());
        let keys = group.h.store.status().unwrap().keys;
        let again = group.system(command.clone());
        match (&answer, &again) {
            (SystemAnswer::Imported { next_page }, again) => {
                assert_eq!(again, &SystemAnswer::Refused(Refusal::Page { next_page: *next_page }));
            }
            // A repeat of it is the next piece.
            (SystemAnswer::Purged { .. }, _) => return again,
            (answer, again) => assert_eq!(answer, again),
        }
        assert_eq!((group.ownership(), group.h.store.revision()), after);
        assert!(group.h.store.status().unwrap().keys <= keys, "less by what has expired, at most");
        self.late = Some((at, command));
        answer
    }

    fn step(&mut self) {
        let Some(Move { id, from, to, slots, phase }) = self.moving.clone() else { return };
        let next = match phase {
            Phase::BeginImport => {
                assert_eq!(self.send(to, Command::BeginImport { id, slots }), SystemAnswer::Done);
                Phase::BeginExport
            }
            Phase::BeginExport => {
                assert_eq!(self.send(from, Command::BeginExport { id, slots }), SystemAnswer::Done);
                Phase::Copy { in_changes: 0 }
            }
            Phase::Copy { in_changes } => {
                let page = self.copy(id, from, to);
                let is_near = page.base_done && (page.changes_total - page.changes_done < 3 || in_changes > 3);
                if is_near { Phase::Fence } else { Phase::Copy { in_changes: in_changes + u32::from(page.base_done) } }
            }
            Phase::Fence => match self.send(from, Command::Fence { id }) {
                SystemAnswer::Fenced { changes, revision, clock_ms } => Phase::Rest { changes, revision, clock_ms },
                other => panic!("{other:?}"),
            },
            Phase::Rest { changes, revision, clock_ms } => {
                let page = self.copy(id, from, to);
                assert_eq!(page.changes_total, changes, "nothing changes behind the fence");
                if page.changes_done < changes {
                    phase
                } else {
                    let pages = self.groups[to].ownership().incoming.unwrap().pages;
                    let commit = Command::CommitImport { id, pages, revision, clock_ms };
                    assert_eq!(self.send(to, commit), SystemAnswer::Done);
                    let clock = &mut self.groups[to].h.clock_ms;
                    *clock = clock_ms.max(*clock);
                    Phase::Release
                }
            }
            Phase::Release => {
                assert_eq!(self.send(to, Command::AbortImport { id }), SystemAnswer::Refused(Refusal::Committed));
                assert_eq!(self.send(from, Command::Release { id }), SystemAnswer::Done);
                Phase::Purge
            }
            Phase::AbortExport => {
                assert_eq!(self.send(from, Command::AbortExport { id }), SystemAnswer::Done);
                Phase::Purge
            }
            Phase::Purge => {
                let done = [from, to].map(|at| self.send(at, Command::Purge { limit: 5 }));
                if done.iter().all(|answer| matches!(answer, SystemAnswer::Purged { done: true, .. })) {
                    self.moving = None;
                    return;
                }
                Phase::Purge
            }
        };
        if let Some(moving) = &mut self.moving {
            moving.phase = next;
        }
    }

    fn copy(&mut self, id: MoveId, from: usize, to: usize) -> ExportedPage {
        let incoming = self.groups[to].ownership().incoming.unwrap();
        let page = self.groups[from].export(id, incoming.cursor);
        let records = page.page.encode();
        let import = Command::Import { id, page: incoming.pages, cursor: page.cursor.clone(), records };
        let next_page = incoming.pages + 1;
        assert_eq!(self.send(to, import), SystemAnswer::Imported { next_page });
        page
    }

    fn cancel(&mut self) {
        let Some(Move { id, to, phase, .. }) = self.moving.clone() else { return };
        if !matches!(phase, Phase::Release | Phase::Purge | Phase::AbortExport) {
            assert_eq!(self.send(to, Command::AbortImport { id }), SystemAnswer::Done);
            if let Some(moving) = &mut self.moving {
                moving.phase = Phase::AbortExport;
            }
        }
    }

    fn again(&mut self) {
        let Some((at, command)) = self.late.clone() else { return };
        let before = self.groups[at].ownership();
        if !matches!(command, Command::Purge { .. }) {
            self.groups[at].system(command.clone());
            assert_eq!(self.groups[at].ownership(), before, "late: {command:?}");
        }
    }

    /// Every key reads as the model says, at its group and nowhere else.
    fn check(&self) {
        for number in 0..KEYS {
            let serving = self.serving(number);
            for (at, group) in self.groups.iter().enumerate() {
                let found = group.h.store.get(&key(&name(number)));
                if Some(at) != serving {
                    assert!(matches!(found, Err(StoreError::WrongGroup)), "{found:?}");
                    continue;
                }
                let found = found.unwrap();
                // Reads see the clock of the last entry.
                let clock_ms = group.log.last().unwrap().clock_ms.max(group.h.store.status().unwrap().clock_ms);
                let expected = self.live(number, clock_ms);
                assert_eq!(found.is_some(), expected.is_some(), "{}: {found:?}, {expected:?}", name(number));
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert_eq!(found.value, Some(value(&expected.text)));
                    assert_eq!(found.revision, expected.revision);
                    assert_eq!(found.create_revision, expected.create_revision);
                    assert_eq!(found.expires_at_ms, expected.expires_at_ms);
                }
            }
        }
        for group in &self.groups {
            let request = raftkv_api::ListRequest {
                start: Bytes::new(),
                end: None,
                limit: usize::MAX,
                max_bytes: usize::MAX,
                keys_only: true,
            };
            let (page, served) = group.h.store.list_served(&request).unwrap();
            assert_eq!(served, group.ownership().served());
            assert!(page.entries.iter().all(|entry| served.contains(slot_of(entry.key.as_bytes()))));
        }
    }

    /// Ends what is under way, and compares everything that there is.
    fn finish(mut self, cuts: &[usize]) {
        for _ in 0..2_000 {
            self.step();
        }
        assert!(self.moving.is_none(), "the move ends");
        for at in 0..2 {
            self.groups[at].h.clock_ms += 5_000;
            for _ in 0..60 {
                // Everything that can expire is swept.
                self.groups[at].system(Command::Fence { id: MoveId::MAX });
            }
            let nothing = SystemAnswer::Purged { removed: 0, done: true };
            assert_eq!(self.groups[at].system(Command::Purge { limit: 1_000 }), nothing);
        }
        self.check();
        for group in &mut self.groups {
            let owned = group.ownership().owned;
            let here =
                self.values.iter().filter(|(key, value)| owned.contains(slot(**key)) && value.expires_at_ms == 0);
            let status = group.h.store.status().unwrap();
            assert_eq!(status.keys, here.count() as u64);
            assert_eq!(status.idempotency_records, 0);
            group.h.store.verify().unwrap();

            let replica = Harness::with(LIMITS);
            let mut rest = group.log.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (some, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                replica.store.apply_blocking(some.to_vec()).unwrap();
            }
            assert_eq!(replica.store.state_hash(), group.h.store.state_hash());
            assert_eq!(Taken::of(&replica.store), Taken::of(&group.h.store));
            assert_eq!(replica.store.ownership(), group.h.store.ownership());
            replica.store.verify().unwrap();
        }
    }
}

const KEEP_MS: u64 = 300;

#[derive(Debug, Clone)]
struct Write {
    text: u16,
    delete: bool,
    only_absent: bool,
    expires: bool,
    once: Option<(u8, u64)>,
}

impl Write {
    fn expiry(&self, clock_ms: u64) -> u64 {
        if self.expires { clock_ms + 40 } else { 0 }
    }

    fn op(&self, key: usize, clock_ms: u64) -> Op {
        let name = name(key);
        let mut op =
            if self.delete { delete(&name) } else { set_until(&name, &self.text.to_string(), self.expiry(clock_ms)) };
        if self.only_absent && !self.delete {
            op = when(op, Precondition::Absent);
        }
        match self.once {
            Some((client, fingerprint)) => once(op, &format!("c{client}"), fingerprint, KEEP_MS),
            None => op,
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Client { key: usize, write: Write },
    Begin { from: usize, mask: u16 },
    Step,
    Cancel,
    Again,
    Tick(u64),
    Reopen(usize),
    Replace(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let once = proptest::option::weighted(0.3, (0..3u8, 0..2u64));
    let write = (any::<u16>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.2), once)
        .prop_map(|(text, delete, only_absent, expires, once)| Write {
            text,
            delete,
            only_absent: only_absent && !delete,
            expires,
            once,
        });
    prop_oneof![
        24 => (0..KEYS, write).prop_map(|(key, write)| Action::Client { key, write }),
        4 => (0..2usize, any::<u16>()).prop_map(|(from, mask)| Action::Begin { from, mask }),
        24 => Just(Action::Step),
        1 => Just(Action::Cancel),
        3 => Just(Action::Again),
        3 => (1..20u64).prop_map(Action::Tick),
        1 => (0..2usize).prop_map(Action::Reopen),
        1 => (0..2usize).prop_map(Action::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 14, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_groups_are_as_one_store(actions in vec(action(), 50..250), cuts in vec(1..12usize, 1..8)) {
        let mut world = World::new();
        for action in actions {
            match action {
                Action::Client { key, write } => world.client(key, &write),
                Action::Begin { from, mask } if world.moving.is_none() => world.begin(from, mask),
                Action::Begin { .. } => {}
                Action::Step => world.step(),
                Action::Cancel => world.cancel(),
                Action::Again => world.again(),
                Action::Tick(ms) => world.groups.iter_mut().for_each(|group| group.h.clock_ms += ms),
                Action::Reopen(at) => world.groups[at].h.reopen(LIMITS),
                Action::Replace(at) => world.groups[at].replace(),
            }
            for key in 0..KEYS {
                world.serving(key);
            }
        }
        world.check();
        world.finish(&cuts);
    }
}
