//! [`World`]: two groups, what clients were told, and the move under way.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use raftkv_kv::{MoveId, Outcome, Refusal, SlotSet, SystemAnswer, SystemCommand as Command, slot_of};
use raftkv_store::{ExportedPage, StoreError};

use super::group::{Group, LIMITS};
use super::{KEEP_MS, KEYS, Write, name, slot};
use crate::support::{Harness, Taken, key, value};

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

pub(super) struct World {
    pub(super) groups: [Group; 2],
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
    pub(super) fn new() -> Self {
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

    /// Whether a move is under way.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// The group that serves a key; never both.
    pub(super) fn serving(&self, key: usize) -> Option<usize> {
        let serving: Vec<usize> = (0..2).filter(|&at| self.groups[at].ownership().serves(slot(key))).collect();
        assert!(serving.len() <= 1, "{} is served twice", name(key));
        serving.first().copied()
    }

    fn live(&self, key: usize, clock_ms: u64) -> Option<&Value> {
        self.values.get(&key).filter(|value| value.expires_at_ms == 0 || value.expires_at_ms > clock_ms)
    }

    /// As a router does it: wherever the slot is served, if it is.
    pub(super) fn client(&mut self, key: usize, write: &Write) {
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

    pub(super) fn begin(&mut self, from: usize, mask: u16) {
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

    pub(super) fn step(&mut self) {
        let Some(Move { id, from, to, slots, phase }) = self.moving.clone() else { return };
        let next = match phase {
            Phase::BeginImport => {
                assert_eq!(self.send(to, Command::BeginImport { id, slots, version: 1 }), SystemAnswer::Done);
                Phase::BeginExport
            }
            Phase::BeginExport => {
                assert_eq!(self.send(from, Command::BeginExport { id, slots, version: 1 }), SystemAnswer::Done);
                Phase::Copy { in_changes: 0 }
            }
            Phase::Copy { in_changes } => {
                let page = self.copy(id, from, to);
                let is_near = page.base_done && (page.changes_total - page.changes_done < 3 || in_changes > 3);
                if is_near { Phase::Fence } else { Phase::Copy { in_changes: in_changes + u32::from(page.base_done) } }
            }
            Phase::Fence => match self.send(from, Command::Fence { id }) {
                SystemAnswer::Fenced { changes, revision, clock_ms, .. } => Phase::Rest { changes, revision, clock_ms },
                other => panic!("{other:?}"),
            },
            Phase::Rest { changes, revision, clock_ms } => {
                let page = self.copy(id, from, to);
                assert_eq!(page.changes_total, changes, "nothing changes behind the fence");
                if page.changes_done < changes {
                    phase
                } else {
                    let pages = self.groups[to].ownership().incoming.unwrap().pages;
                    let commit = Command::CommitImport { id, pages, revision, clock_ms, times: Vec::new() };
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

    pub(super) fn cancel(&mut self) {
        let Some(Move { id, to, phase, .. }) = self.moving.clone() else { return };
        if !matches!(phase, Phase::Release | Phase::Purge | Phase::AbortExport) {
            assert_eq!(self.send(to, Command::AbortImport { id }), SystemAnswer::Done);
            if let Some(moving) = &mut self.moving {
                moving.phase = Phase::AbortExport;
            }
        }
    }

    pub(super) fn again(&mut self) {
        let Some((at, command)) = self.late.clone() else { return };
        let before = self.groups[at].ownership();
        if !matches!(command, Command::Purge { .. }) {
            self.groups[at].system(command.clone());
            assert_eq!(self.groups[at].ownership(), before, "late: {command:?}");
        }
    }

    /// Every key reads as the model says, at its group and nowhere else.
    pub(super) fn check(&self) {
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
            let request = raftkv_backend::ListRequest {
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
    pub(super) fn finish(mut self, cuts: &[usize]) {
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
