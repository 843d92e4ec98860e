//! Moves of slots between groups, with every command repeated, late, out of order, and sent by two coordinators.

use bytes::Bytes;
use proptest::prelude::*;
use raftkv_kv::{
    Effect, Ended, GroupFacts, ImportPage, ImportRecord, MAX_CLOCK_MS, MAX_REVISION, MoveId, Outcome, Ownership,
    PutKey, Refusal, SLOTS, STRICT_VERSION, SlotSet, SlotTime, SystemCommand as Command, UpgradePolicy, put_key,
    raise_version, slot_of,
};

const STORE: u64 = 7;
/// The cluster version with slot time.
const VERSION: u32 = 2;
const GROUPS: usize = 3;
/// Number of pages per move.
const PAGES: u64 = 2;
/// Moves take whole runs of slots; the number of runs.
const RUNS: u16 = 8;
const RUN: u16 = SLOTS / RUNS;

fn run_of(run: u16) -> SlotSet {
    SlotSet::range(run * RUN, run * RUN + RUN - 1)
}

fn page() -> Bytes {
    ImportPage::default().encode()
}

/// A move as known to the coordinators, which share the record.
#[derive(Debug, Clone, Default)]
struct Move {
    id: MoveId,
    from: usize,
    to: usize,
    slots: SlotSet,
    import_begun: bool,
    export_begun: bool,
    pages: u64,
    fenced: Option<(u64, u64, Vec<SlotTime>)>,
    committed: bool,
    import_aborted: bool,
    released: bool,
    export_aborted: bool,
}

impl Move {
    /// The next command of a coordinator continuing or cancelling the move.
    fn next(&self, cancel: bool) -> Option<(usize, Command)> {
        let id = self.id;
        let slots = self.slots.clone();
        let over = self.released || self.export_aborted;
        match cancel && !self.committed {
            _ if over => None,
            true if !self.import_aborted => Some((self.to, Command::AbortImport { id })),
            true => Some((self.from, Command::AbortExport { id })),
            false if self.import_aborted => None,
            false if !self.import_begun => Some((self.to, Command::BeginImport { id, slots, version: VERSION })),
            false if !self.export_begun => Some((self.from, Command::BeginExport { id, slots, version: VERSION })),
            false if self.pages < PAGES => {
                let cursor = Bytes::from(self.pages.to_string());
                Some((self.to, Command::Import { id, page: self.pages, cursor, records: page() }))
            }
            false => match self.fenced.clone() {
                None => Some((self.from, Command::Fence { id })),
                Some((revision, clock_ms, times)) if !self.committed => {
                    Some((self.to, Command::CommitImport { id, pages: PAGES, revision, clock_ms, times }))
                }
                Some(_) => Some((self.from, Command::Release { id })),
            },
        }
    }

    fn learn(&mut self, command: &Command, answer: &Result<Effect, Refusal>) {
        match (command, answer) {
            (Command::BeginImport { .. }, Ok(_)) => self.import_begun = true,
            (Command::BeginExport { .. }, Ok(_)) => self.export_begun = true,
            (Command::Import { .. }, Ok(Effect::Import { next_page, .. }) | Err(Refusal::Page { next_page })) => {
                self.pages = self.pages.max(*next_page);
            }
            (Command::Fence { .. }, Ok(Effect::Fenced { at, times })) => {
                self.fenced = Some((at.revision, at.clock_ms, times.clone()));
            }
            (Command::CommitImport { .. }, Ok(_)) => self.committed = true,
            (Command::AbortImport { .. }, Ok(_)) => self.import_aborted = true,
            (Command::AbortImport { .. }, Err(Refusal::Committed)) => self.committed = true,
            (Command::Release { .. }, Ok(_)) => self.released = true,
            (Command::AbortExport { .. }, Ok(_)) => self.export_aborted = true,
            _ => {}
        }
    }
}

struct World {
    groups: Vec<Ownership>,
    facts: Vec<GroupFacts>,
    /// Slot time of each run: advances with the clock of the serving group, and stands still while no group serves the
    /// run.
    times: [u64; RUNS as usize],
    /// Every command ever sent: each may arrive again at any time.
    sent: Vec<(MoveId, usize, Command)>,
    current: Option<Move>,
    last: MoveId,
}

impl World {
    fn new() -> Self {
        let mut groups = vec![Ownership::default(); GROUPS];
        for (at, group) in groups.iter_mut().enumerate() {
            let adopt = Command::Adopt { store: STORE, group: at as u32 + 1, keep: at == 0 };
            group.apply(adopt, &GroupFacts::default()).unwrap();
        }
        let facts =
            (0..GROUPS as u64).map(|at| GroupFacts { version: VERSION, clock_ms: at * 1_000, ..GroupFacts::default() });
        let times = [0; RUNS as usize];
        Self { groups, facts: facts.collect(), times, sent: Vec::new(), current: None, last: 0 }
    }

    fn begin(&mut self, run: u16, to: usize) {
        let slots = run_of(run);
        let Some(from) = self.groups.iter().position(|group| group.owned.contains_all(&slots)) else {
            panic!("no group owns {slots} between two moves")
        };
        if from != to {
            self.last += 1;
            self.current = Some(Move { id: self.last, from, to, slots, ..Move::default() });
        }
    }

    fn deliver(&mut self, at: usize) -> Result<(), TestCaseError> {
        let (id, group, command) = self.sent[at].clone();
        let facts = &mut self.facts[group];
        facts.revision += 1;
        facts.clock_ms += 3;
        let facts = *facts;
        for (run, time) in (0..RUNS).zip(&mut self.times) {
            *time += if self.groups[group].serves(run * RUN) { 3 } else { 0 };
        }
        let before = self.groups[group].clone();
        let answer = self.groups[group].apply(command.clone(), &facts);
        if answer.is_err() {
            prop_assert_eq!(&self.groups[group], &before, "refused, and yet something changed");
        }
        // Deliver again immediately: nothing changes, and the answer means the same.
        let after = self.groups[group].clone();
        let again = self.groups[group].apply(command.clone(), &facts);
        prop_assert_eq!(&self.groups[group], &after, "a repeat changed something: {:?}", &command);
        match (&answer, &again) {
            (Ok(Effect::Import { next_page, .. }), again) => {
                prop_assert_eq!(again, &Err(Refusal::Page { next_page: *next_page }));
            }
            (Ok(Effect::Raise { .. }), again) => prop_assert_eq!(again, &Ok(Effect::Done)),
            (answer, again) => prop_assert_eq!(answer, again),
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.id == id) {
            current.learn(&command, &answer);
            prop_assert!(!(current.committed && current.import_aborted), "committed and aborted: {:?}", current);
            if current.released || current.export_aborted {
                // In the shared record the move has ended; leftover data is purged before the next move.
                self.groups.iter_mut().for_each(|group| group.purge = None);
                self.current = None;
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for run in 0..RUNS {
            let slot = run * RUN;
            let serving = self.groups.iter().filter(|group| group.serves(slot)).count();
            let owning = self.groups.iter().filter(|group| group.owned.contains(slot)).count();
            prop_assert!(serving <= 1, "slot {} is served by {} groups", slot, serving);
            prop_assert!(owning >= 1, "slot {} is lost", slot);
            for (group, facts) in self.groups.iter().zip(&self.facts).filter(|(group, _)| group.serves(slot)) {
                let time = group.time_of(slot, facts.clock_ms);
                prop_assert_eq!(time, self.times[usize::from(run)], "the time of slot {}", slot);
            }
            if self.current.is_none() {
                prop_assert_eq!((serving, owning), (1, 1), "slot {} between two moves", slot);
            }
        }
        for group in &self.groups {
            let served = group.served();
            prop_assert!((0..RUNS).all(|run| served.contains(run * RUN) == group.serves(run * RUN)));
            prop_assert_eq!(&Ownership::decode(&group.encode()).unwrap(), group);
            if let Some(purge) = &group.purge {
                prop_assert!(!purge.slots.overlaps(&group.owned), "what is owned is purged");
                prop_assert!(!group.incoming.as_ref().is_some_and(|active| active.slots.overlaps(&purge.slots)));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { run: u16, to: usize },
    Send { cancel: bool },
    DeliverNew,
    DeliverAny(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..RUNS, 0..GROUPS).prop_map(|(run, to)| Step::Begin { run, to }),
        10 => prop::bool::weighted(0.07).prop_map(|cancel| Step::Send { cancel }),
        9 => Just(Step::DeliverNew),
        6 => any::<prop::sample::Index>().prop_map(Step::DeliverAny),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_slot_is_ever_served_twice_or_lost(steps in prop::collection::vec(step(), 1..300)) {
        let mut world = World::new();
        world.check()?;
        for step in steps {
            match step {
                Step::Begin { run, to } if world.current.is_none() => world.begin(run, to),
                Step::Send { cancel } => {
                    if let Some(current) = &world.current
                        && let Some((group, command)) = current.next(cancel)
                    {
                        world.sent.push((current.id, group, command));
                    }
                }
                Step::DeliverNew if !world.sent.is_empty() => world.deliver(world.sent.len() - 1)?,
                Step::DeliverAny(index) if !world.sent.is_empty() => world.deliver(index.index(world.sent.len()))?,
                _ => {}
            }
        }
    }
}

fn adopted(keep: bool) -> Ownership {
    let mut group = Ownership::default();
    group.apply(Command::Adopt { store: STORE, group: 1, keep }, &GroupFacts::default()).unwrap();
    group
}

fn apply(group: &mut Ownership, command: Command) -> Result<Effect, Refusal> {
    group.apply(command, &GroupFacts::default())
}

#[test]
fn a_move_goes_through_and_its_late_commands_find_it_over() {
    let (mut source, mut target) = (adopted(true), adopted(false));
    let slots = SlotSet::range(10, 20);
    let begin_import = Command::BeginImport { id: 5, slots: slots.clone(), version: 1 };
    let begin_export = Command::BeginExport { id: 5, slots: slots.clone(), version: 1 };
    assert_eq!(apply(&mut target, begin_import.clone()), Ok(Effect::Done));
    assert_eq!(apply(&mut source, begin_export.clone()), Ok(Effect::Done));
    assert!(source.serves(10) && !target.serves(10));
    assert_eq!(apply(&mut source, Command::Release { id: 5 }), Err(Refusal::Step("not fenced".to_owned())));
    let facts = GroupFacts { revision: 9, clock_ms: 8, ..GroupFacts::default() };
    let Ok(Effect::Fenced { at: point, times }) = source.apply(Command::Fence { id: 5 }, &facts) else { panic!() };
    assert!(times.is_empty(), "this version knows no slot time");
    assert_eq!((point.revision, point.clock_ms), (9, 8));
    assert!(!source.serves(10) && source.serves(21));
    assert_eq!(
        apply(&mut source, Command::Fence { id: 5 }),
        Ok(Effect::Fenced { at: point, times: Vec::new() }),
        "the first answer again"
    );
    let commit = |pages| Command::CommitImport { id: 5, pages, revision: 9, clock_ms: 8, times: Vec::new() };
    assert_eq!(apply(&mut target, commit(1)), Err(Refusal::Page { next_page: 0 }));
    assert_eq!(apply(&mut target, commit(0)), Ok(Effect::Raise { revision: 9, clock_ms: 8 }));
    assert_eq!(apply(&mut target, Command::AbortImport { id: 5 }), Err(Refusal::Committed));
    assert_eq!(apply(&mut source, Command::Release { id: 5 }), Ok(Effect::Done));
    assert!(target.serves(10) && source.purge.as_ref().unwrap().slots == slots);

    assert_eq!(apply(&mut target, begin_import), Err(Refusal::Committed));
    assert_eq!(apply(&mut source, begin_export), Err(Refusal::Committed));
    assert_eq!(apply(&mut source, Command::AbortExport { id: 5 }), Err(Refusal::Committed));
    assert_eq!(apply(&mut source, Command::Fence { id: 5 }), Err(Refusal::Committed));
    assert_eq!(apply(&mut source, Command::BeginImport { id: 6, slots, version: 1 }), Err(Refusal::PurgePending));
}

#[test]
fn a_beginning_that_comes_after_its_abort_finds_the_move_over() {
    let (mut source, mut target) = (adopted(true), adopted(false));
    let slots = SlotSet::range(1, 2);
    assert_eq!(apply(&mut target, Command::Fence { id: 3 }), Err(Refusal::Unknown));
    assert_eq!(apply(&mut target, Command::AbortImport { id: 3 }), Ok(Effect::Done));
    assert_eq!(apply(&mut source, Command::AbortExport { id: 3 }), Ok(Effect::Done));
    assert_eq!(
        apply(&mut target, Command::BeginImport { id: 3, slots: slots.clone(), version: 1 }),
        Err(Refusal::Aborted)
    );
    assert_eq!(
        apply(&mut source, Command::BeginExport { id: 3, slots: slots.clone(), version: 1 }),
        Err(Refusal::Aborted)
    );
    assert_eq!(target.last_import, Some(Ended { id: 3, committed: false }));
    assert_eq!(apply(&mut source, Command::BeginExport { id: 4, slots, version: 1 }), Ok(Effect::Done));
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut group = adopted(true);
    let (slots, others) = (SlotSet::range(0, 9), SlotSet::range(100, 109));
    apply(&mut group, Command::BeginExport { id: 1, slots: slots.clone(), version: 1 }).unwrap();
    let again = apply(&mut group, Command::BeginExport { id: 1, slots: others.clone(), version: 1 });
    assert!(matches!(again, Err(Refusal::Step(_))), "{again:?}");
    assert_eq!(
        apply(&mut group, Command::BeginExport { id: 2, slots: others.clone(), version: 1 }),
        Err(Refusal::Busy { id: 1 })
    );
    assert_eq!(
        apply(&mut group, Command::BeginImport { id: 2, slots: others.clone(), version: 1 }),
        Err(Refusal::Owned)
    );
    assert_eq!(apply(&mut group, Command::Disown { id: 2, slots: others.clone() }), Err(Refusal::Busy { id: 1 }));
    apply(&mut group, Command::AbortExport { id: 1 }).unwrap();
    let nothing = apply(&mut group, Command::BeginExport { id: 2, slots: SlotSet::new(), version: 1 });
    assert!(matches!(nothing, Err(Refusal::Step(_))), "{nothing:?}");

    let disown = Command::Disown { id: 3, slots: SlotSet::all() };
    assert_eq!(apply(&mut group, disown.clone()), Ok(Effect::Done));
    assert_eq!(apply(&mut group, disown), Ok(Effect::Done));
    assert!(group.owned.is_empty());
    let claim = Command::Claim { id: 4, slots: others };
    assert_eq!(apply(&mut group, claim.clone()), Err(Refusal::PurgePending));
    group.purge = None;
    assert_eq!(apply(&mut group, claim.clone()), Ok(Effect::Done));
    assert_eq!(apply(&mut group, claim), Ok(Effect::Done));
    assert_eq!(apply(&mut group, Command::Claim { id: 3, slots }), Err(Refusal::Aborted));
}

#[test]
fn adoption_is_for_ever_and_hides_no_keys() {
    let facts = GroupFacts { keys: 3, outcomes: 1, ..GroupFacts::default() };
    let adopt = |store, group, keep| Command::Adopt { store, group, keep };
    let mut group = Ownership::default();
    assert_eq!(group.apply(Command::Fence { id: 1 }, &facts), Err(Refusal::NotAdopted));
    assert_eq!(group.apply(adopt(1, 1, false), &facts), Err(Refusal::NotEmpty { keys: 3 }));
    assert!(matches!(group.apply(adopt(0, 1, true), &facts), Err(Refusal::Malformed(_))));
    assert_eq!(group, Ownership::default());
    assert_eq!(group.apply(adopt(1, 1, true), &facts), Ok(Effect::Done));
    assert_eq!(group.served(), SlotSet::all());
    assert_eq!(group.apply(adopt(1, 1, false), &facts), Ok(Effect::Done), "it is so");
    assert_eq!(group.apply(adopt(1, 2, true), &facts), Err(Refusal::OtherIdentity { store: 1, group: 1 }));
    let mut emptied = Ownership::default();
    let no_keys = GroupFacts { keys: 0, ..facts };
    assert_eq!(emptied.apply(adopt(1, 2, false), &no_keys), Ok(Effect::Done));
    assert_eq!(emptied.purge.unwrap().slots, SlotSet::all(), "kept outcomes would answer for keys that come");
}

#[test]
fn a_page_is_taken_whole_or_not_at_all() {
    let key = Bytes::from_static(b"k");
    let value = |key: Bytes, revision, create_revision| ImportRecord::Value {
        key,
        revision,
        create_revision,
        expires_at_ms: 0,
        value: Bytes::from_static(b"\xc0"),
    };
    let kept = |slot| ImportRecord::Idempotency {
        slot,
        key: key.clone(),
        fingerprint: 1,
        expires_at_ms: 1,
        outcome: Outcome::IdempotencyMismatch,
    };
    let mut group = adopted(false);
    let slot = slot_of(&key);
    apply(&mut group, Command::BeginImport { id: 1, slots: SlotSet::range(slot, slot), version: 1 }).unwrap();
    let before = group.clone();
    let sound = value(key.clone(), 2, 1);
    let bad = [
        value(Bytes::from_static(b"elsewhere"), 2, 1),
        value(key.clone(), 1, 2),
        value(key.clone(), 1, 0),
        ImportRecord::Absent { key: Bytes::new() },
        ImportRecord::Absent { key: Bytes::from_static(b"elsewhere") },
        kept(slot.wrapping_add(1)),
        kept(u16::MAX),
    ];
    let import = |page, records: Bytes| Command::Import { id: 1, page, cursor: Bytes::from_static(b"c"), records };
    for bad in bad {
        let records = ImportPage { records: vec![sound.clone(), bad.clone()] }.encode();
        let answer = apply(&mut group, import(0, records));
        assert!(matches!(answer, Err(Refusal::Malformed(_))), "{bad:?}: {answer:?}");
    }
    for bytes in [&b""[..], b"\x01", b"\x09\x91", b"\x01\xc1"] {
        let answer = apply(&mut group, import(0, Bytes::copy_from_slice(bytes)));
        assert!(matches!(answer, Err(Refusal::Malformed(_))), "{bytes:?}: {answer:?}");
    }
    assert_eq!(group, before);
    let records = ImportPage { records: vec![sound, kept(slot)] }.encode();
    assert_eq!(apply(&mut group, import(1, records.clone())), Err(Refusal::Page { next_page: 0 }));
    let Ok(Effect::Import { records, next_page: 1 }) = apply(&mut group, import(0, records)) else { panic!() };
    assert_eq!(records.len(), 2);
    assert_eq!(group.incoming.unwrap().cursor, Bytes::from_static(b"c"));
}

#[test]
fn a_system_key_changes_by_compare_and_set() {
    assert_eq!(put_key(b"k", 0, b"v", None), Ok(PutKey::Write { version: 1 }));
    assert_eq!(put_key(b"k", 1, b"v", None), Err(Refusal::Version { version: 0 }));
    assert_eq!(put_key(b"k", 1, b"v", Some((1, b"u"))), Ok(PutKey::Write { version: 2 }));
    assert_eq!(put_key(b"k", 0, b"v", Some((1, b"v"))), Ok(PutKey::Repeated { version: 1 }));
    assert_eq!(put_key(b"k", 0, b"w", Some((1, b"v"))), Err(Refusal::Version { version: 1 }));
    assert_eq!(put_key(b"k", u64::MAX, b"v", Some((1, b"u"))), Err(Refusal::Version { version: 1 }));
    let large = vec![0; raftkv_kv::MAX_SYSTEM_VALUE_BYTES + 1];
    assert!(matches!(put_key(b"k", 0, &large, None), Err(Refusal::TooLarge { .. })));
    assert!(matches!(put_key(&[b'k'; 256], 0, b"", None), Err(Refusal::TooLarge { limit: 255, .. })));
    assert!(matches!(put_key(b"", 0, b"", None), Err(Refusal::Malformed(_))));
}

#[test]
fn slots_do_not_move_to_a_group_that_would_not_understand_what_comes() {
    let slots = SlotSet::range(1, 9);
    let first = GroupFacts::default();
    let second = GroupFacts { version: 2, ..first };
    let begin_import = |version| Command::BeginImport { id: 5, slots: slots.clone(), version };
    let begin_export = |version| Command::BeginExport { id: 5, slots: slots.clone(), version };
    let refused = |version| Err(Refusal::ClusterVersion { version });

    let mut target = adopted(false);
    assert_eq!(target.apply(begin_import(2), &first), refused(1), "the source is ahead");
    assert_eq!(target.incoming, None);
    assert_eq!(target.apply(begin_import(1), &second), Ok(Effect::Done), "the target is ahead");
    assert_eq!(target.apply(begin_import(2), &first), Ok(Effect::Done), "a repeat is answered as the first was");

    let mut source = adopted(true);
    assert_eq!(source.apply(begin_export(1), &second), refused(2), "it was raised since the target was told");
    assert_eq!(source.outgoing, None);
    assert_eq!(source.apply(begin_export(2), &second), Ok(Effect::Done));
}

#[test]
fn the_cluster_version_rises_by_one_unless_it_is_held() {
    let free = UpgradePolicy::default();
    let at = |version| GroupFacts { version, ..GroupFacts::default() };
    assert_eq!(raise_version(1, 2, &at(1), free), Ok(true));
    assert_eq!(raise_version(1, 2, &at(2), free), Ok(false), "a repeat");
    assert_eq!(raise_version(1, 2, &at(3), free), Err(Refusal::ClusterVersion { version: 3 }));
    assert_eq!(raise_version(2, 3, &at(1), free), Err(Refusal::ClusterVersion { version: 1 }));
    assert_eq!(raise_version(1, 2, &at(1), UpgradePolicy { hold: true }), Err(Refusal::Held));
    for (from, to) in [(1, 1), (1, 3), (2, 1), (u32::MAX, 0)] {
        assert!(matches!(raise_version(from, to, &at(from), free), Err(Refusal::Malformed(_))), "{from} to {to}");
    }
}

#[test]
fn a_group_beyond_the_bounds_does_not_get_the_version_that_has_them() {
    let free = UpgradePolicy::default();
    let at = |version, revision, clock_ms| GroupFacts { version, revision, clock_ms, ..GroupFacts::default() };
    let (below, strict) = (STRICT_VERSION - 1, STRICT_VERSION);
    assert_eq!(raise_version(below, strict, &at(below, MAX_REVISION, MAX_CLOCK_MS), free), Ok(true));
    for (revision, clock_ms) in [(MAX_REVISION + 1, 0), (0, MAX_CLOCK_MS + 1)] {
        let refused = raise_version(below, strict, &at(below, revision, clock_ms), free);
        assert!(matches!(refused, Err(Refusal::Malformed(_))), "{refused:?}");
        assert_eq!(raise_version(1, 2, &at(1, revision, clock_ms), free), Ok(true), "as before");
    }
}

/// Bounds of the source values accepted by a target, per cluster version.
#[test]
fn revisions_and_times_have_bounds_from_the_strict_version_on() {
    let ready = || {
        let mut target = adopted(false);
        let begin = Command::BeginImport { id: 1, slots: SlotSet::range(0, 9), version: 1 };
        assert_eq!(target.apply(begin, &GroupFacts::default()), Ok(Effect::Done));
        target
    };
    let commit = |revision, clock_ms| Command::CommitImport { id: 1, pages: 0, revision, clock_ms, times: vec![] };
    let key = (0..u32::MAX).map(|n| n.to_string()).find(|key| slot_of(key.as_bytes()) < 10).expect("a key");
    let page = |revision| {
        let value = b"\xc0"[..].into();
        let record =
            ImportRecord::Value { key: key.clone().into(), revision, create_revision: 1, expires_at_ms: 0, value };
        let records = ImportPage { records: vec![record] }.encode();
        Command::Import { id: 1, page: 0, cursor: Bytes::new(), records }
    };
    let kept = |revision| {
        let outcome = Outcome::Set { revision, created: true };
        let key = Bytes::from_static(b"once");
        let record = ImportRecord::Idempotency { slot: 3, key, fingerprint: 1, expires_at_ms: 1, outcome };
        let records = ImportPage { records: vec![record] }.encode();
        Command::Import { id: 1, page: 0, cursor: Bytes::new(), records }
    };
    let bad = [commit(MAX_REVISION + 1, 0), commit(0, MAX_CLOCK_MS + 1), page(MAX_REVISION + 1), kept(u64::MAX)];
    for (version, takes_all) in [(1, true), (STRICT_VERSION - 1, true), (STRICT_VERSION, false)] {
        let facts = GroupFacts { version, ..GroupFacts::default() };
        for good in [commit(MAX_REVISION, MAX_CLOCK_MS), page(MAX_REVISION), kept(MAX_REVISION)] {
            ready().apply(good, &facts).expect("within the bounds");
        }
        for bad in &bad {
            let mut target = ready();
            let before = target.clone();
            let result = target.apply(bad.clone(), &facts);
            assert_eq!(result.is_ok(), takes_all, "{version}: {bad:?}");
            assert!(takes_all || target == before, "a refusal changes nothing: {bad:?}");
        }
    }
}
