//! Moves between two groups as their logs decide, driven by two coordinators that are behind, crash, and send late.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raftkv_kv::{Effect, GroupFacts, ImportPage, ImportRecord, SlotSet, SystemCommand as Command, slot_of};

use super::*;
use crate::control::decide::change::NewGroup;
use crate::control::document::records::{MoveRecord, OperationState};
use crate::control::document::state::ClusterState;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A group: its ownership by the real rules, and just enough of a store around it.
#[derive(Debug)]
struct Group {
    version: ClusterVersion,
    ownership: Ownership,
    /// As a node that is behind may show it.
    before: Vec<Ownership>,
    values: BTreeMap<String, u64>,
    changed: Vec<String>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            version: FIRST_VERSION,
            ownership: Ownership::default(),
            before: Vec::new(),
            values: BTreeMap::new(),
            changed: Vec::new(),
        }
    }
}

impl Group {
    /// Its cluster version rises, but not while it exports.
    fn raise(&mut self) {
        if self.ownership.outgoing.is_none() {
            self.version = SLOT_TIME_VERSION;
        }
    }

    fn execute(&mut self, command: Command) -> SystemAnswer {
        self.before.push(self.ownership.clone());
        match self
            .ownership
            .apply(command, &GroupFacts { version: self.version, revision: 1, clock_ms: 1, ..GroupFacts::default() })
        {
            Err(refusal) => SystemAnswer::Refused(refusal),
            Ok(Effect::Fenced { at, times }) => {
                SystemAnswer::Fenced { changes: at.changes, revision: at.revision, clock_ms: at.clock_ms, times }
            }
            Ok(Effect::Import { records, next_page }) => {
                for record in records {
                    match record {
                        ImportRecord::Value { key, revision, .. } => {
                            self.values.insert(text(&key), revision);
                        }
                        ImportRecord::Absent { key } => {
                            self.values.remove(&text(&key));
                        }
                        ImportRecord::Idempotency { .. } => panic!("none were made"),
                    }
                }
                SystemAnswer::Imported { next_page }
            }
            Ok(Effect::RaiseVersion { .. }) => panic!("no move asks for it"),
            Ok(Effect::Purge { limit }) => self.purge(limit),
            Ok(Effect::Done | Effect::Raise { .. } | Effect::PutKey { .. }) => SystemAnswer::Done,
        }
    }

    fn purge(&mut self, limit: u32) -> SystemAnswer {
        let mut removed = 0;
        if let Some(purge) = self.ownership.purge.clone() {
            let gone = |key: &&String| purge.slots.contains(slot_of(key.as_bytes()));
            let keys: Vec<String> = self.values.keys().filter(gone).take(limit as usize).cloned().collect();
            removed = keys.len() as u64;
            self.values.retain(|key, _| !keys.contains(key));
            if keys.len() < limit as usize {
                self.ownership.purge = None;
            }
        }
        if self.ownership.outgoing.is_none() {
            self.changed.clear();
        }
        SystemAnswer::Purged { removed, done: self.ownership.purge.is_none() }
    }

    /// A client's write, if the group serves the key.
    fn write(&mut self, key: &str, revision: u64) -> bool {
        let slot = slot_of(key.as_bytes());
        if !self.ownership.serves(slot) {
            return false;
        }
        self.values.insert(key.to_owned(), revision);
        if self.ownership.exports(slot) {
            self.changed.push(key.to_owned());
            self.ownership.outgoing.as_mut().unwrap().changes += 1;
        }
        true
    }

    /// The record at a cursor: first the keys as they are, then those that changed.
    fn export(&self, id: MoveId, cursor: &[u8]) -> Option<(Vec<ImportRecord>, String, Option<u64>)> {
        let out = self.ownership.outgoing.as_ref().filter(|out| out.id == id)?;
        let at: usize = text(cursor).parse().unwrap_or(0);
        let total = KEYS.len() + self.changed.len();
        if at >= total {
            return Some((Vec::new(), at.to_string(), Some((at - KEYS.len()) as u64)));
        }
        let key = KEYS.get(at).map_or_else(|| self.changed[at - KEYS.len()].clone(), |key| (*key).to_owned());
        let record = out.slots.contains(slot_of(key.as_bytes())).then(|| match self.values.get(&key) {
            Some(&revision) => ImportRecord::Value {
                key: key.into(),
                revision,
                create_revision: 1,
                expires_at_ms: 0,
                value: Bytes::from_static(&[0xc0]),
            },
            None => ImportRecord::Absent { key: key.into() },
        });
        let done = (at + 1).checked_sub(KEYS.len()).map(|done| done as u64);
        Some((record.into_iter().collect(), (at + 1).to_string(), done))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

struct World {
    groups: BTreeMap<u32, Group>,
    state: ClusterState,
    /// Commands that are still on their way.
    late: Vec<(u32, Command)>,
    truth: BTreeMap<String, u64>,
    revision: u64,
}

#[derive(Default)]
struct Coordinator {
    moving: Option<MoveRecord>,
    views: Views,
    versions: Versions,
}

/// How one turn of a coordinator goes.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// How many changes the node that describes a group is behind; `None` = nobody is asked.
    behind: Option<usize>,
    /// The answer is lost.
    lost: bool,
    /// The command arrives a second time, later.
    twice: bool,
    fence: bool,
}

const FRESH: Turn = Turn { behind: Some(0), lost: false, twice: false, fence: true };

#[derive(Debug, Clone)]
enum Event {
    Turn(usize, Turn),
    Crash(usize),
    /// A coordinator reads the document anew.
    Read(usize),
    Late(usize),
    Write(usize),
    Raise(u32),
    Cancel,
}

fn event() -> impl Strategy<Value = Event> {
    let turn = (proptest::option::of(0usize..4), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(behind, lost, twice, fence)| Turn { behind, lost, twice, fence });
    prop_oneof![
        20 => (0usize..2, turn).prop_map(|(who, turn)| Event::Turn(who, turn)),
        1 => (0usize..2).prop_map(Event::Crash),
        4 => (0usize..2).prop_map(Event::Read),
        4 => (0usize..20).prop_map(Event::Late),
        6 => (0..KEYS.len()).prop_map(Event::Write),
        1 => (1u32..=2).prop_map(Event::Raise),
    ]
}

impl World {
    fn new() -> Self {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        let new = NewGroup { name: None, addresses: vec!["b:1".to_owned()], weight: 1, cluster_id: String::new() };
        state.add_group(new, 1).unwrap();
        state.activate_group(2).unwrap();
        let mut groups = BTreeMap::from([(1, Group::default()), (2, Group::default())]);
        for (id, group) in &mut groups {
            group.execute(Command::Adopt { store: 7, group: *id, keep: *id == 1 });
        }
        let mut world = Self { groups, state, late: Vec::new(), truth: BTreeMap::new(), revision: 0 };
        (0..KEYS.len()).for_each(|key| world.write(key));
        world.state.start_operation(1, 1).unwrap();
        // The slots of some of the keys, not of all.
        let slots: SlotSet = KEYS[..4].iter().map(|key| slot_of(key.as_bytes())).collect();
        world.state.begin_move(1, Some(1), Some(2), slots, 1).unwrap();
        world
    }

    fn write(&mut self, key: usize) {
        self.revision += 1;
        let (key, revision) = (KEYS[key], self.revision);
        let served: usize = self.groups.values_mut().map(|group| usize::from(group.write(key, revision))).sum();
        assert!(served <= 1, "two groups served one slot");
        if served == 1 {
            self.truth.insert(key.to_owned(), revision);
        }
    }

    /// Whatever is served is what was last written.
    fn check(&self) {
        for key in KEYS {
            let slot = slot_of(key.as_bytes());
            let serving: Vec<_> = self.groups.values().filter(|group| group.ownership.serves(slot)).collect();
            assert!(serving.len() <= 1, "two groups serve slot {slot}");
            for group in serving {
                assert_eq!(group.values.get(key), self.truth.get(key), "an old value of {key} is served");
            }
        }
        let [source, target] = [&self.groups[&1], &self.groups[&2]];
        assert!(
            source.ownership.outgoing.is_none() || target.version >= source.version,
            "it gets what it does not know"
        );
        self.state.check().unwrap();
    }

    fn describe(&self, group: u32, behind: usize) -> Ownership {
        let group = &self.groups[&group];
        match behind {
            0 => group.ownership.clone(),
            _ => group.before.iter().rev().nth(behind - 1).unwrap_or(&group.ownership).clone(),
        }
    }

    fn execute(&mut self, group: u32, command: Command) -> SystemAnswer {
        let answer = self.groups.get_mut(&group).unwrap().execute(command);
        self.check();
        answer
    }

    /// Returns whether what the coordinator knew fitted together.
    fn turn(&mut self, coordinator: &mut Coordinator, turn: Turn) -> bool {
        let Some(moving) = coordinator.moving.clone() else { return true };
        let (id, from, to) = (moving.id, moving.from.unwrap(), moving.to.unwrap());
        if let Some(behind) = turn.behind {
            // A node that is behind knows of no rise.
            let version = |group| if behind == 0 { self.groups[&group].version } else { FIRST_VERSION };
            coordinator.versions.see_source(version(from));
            coordinator.versions.see_target(version(to));
            let source = SourceView::of(&self.describe(from, behind), coordinator.versions.source(), id);
            coordinator.views.source.advance(source);
            coordinator.views.target.advance(TargetView::of(&self.describe(to, behind), id));
        }
        coordinator.views.copy.fence_now = turn.fence;
        let action = next_step(moving.step, &coordinator.views);
        if matches!(action, Action::BeginImport | Action::BeginExport) && coordinator.versions.gap().is_some() {
            return true;
        }
        let (slots, version) = (moving.slots.clone(), coordinator.versions.source());
        let (group, command) = match &action {
            Action::BeginImport => (to, Command::BeginImport { id, slots, version }),
            Action::BeginExport => (from, Command::BeginExport { id, slots, version }),
            Action::Fence => (from, Command::Fence { id }),
            Action::Commit { pages, revision, clock_ms, times } => {
                let (pages, revision, clock_ms, times) = (*pages, *revision, *clock_ms, times.clone());
                (to, Command::CommitImport { id, pages, revision, clock_ms, times })
            }
            Action::Release => (from, Command::Release { id }),
            Action::AbortImport => (to, Command::AbortImport { id }),
            Action::AbortExport => (from, Command::AbortExport { id }),
            Action::PurgeSource => (from, Command::Purge { limit: 2 }),
            Action::PurgeTarget => (to, Command::Purge { limit: 2 }),
            Action::CopyPage { page, cursor } => {
                let Some((records, next, done)) = self.groups[&from].export(id, cursor) else { return true };
                let copy = CopyView { fence_now: turn.fence, at_page: *page, changes_done: done };
                if records.is_empty() && next.as_bytes() == cursor {
                    coordinator.views.copy = copy;
                    return true;
                }
                let records = ImportPage { records }.encode();
                let command = Command::Import { id, page: *page, cursor: next.clone().into(), records };
                if turn.twice {
                    self.late.push((to, command.clone()));
                }
                let answer = self.execute(to, command);
                if turn.lost {
                    return true;
                }
                if let SystemAnswer::Imported { next_page } = answer {
                    coordinator.views.imported(next_page, next.into());
                    coordinator.views.copy = CopyView { at_page: next_page, ..copy };
                }
                coordinator.views.learn(&action, &answer);
                return true;
            }
            Action::Impossible(_) => {
                coordinator.moving = self.state.moving.clone();
                return false;
            }
            record => {
                let mut after = self.state.clone();
                let recorded = match record {
                    Action::RecordFencing => after.fence_move(id, 1),
                    Action::RecordCommitted => after.flip_move(id, 1),
                    Action::RecordReleased => after.release_move(id),
                    Action::RecordAborted => after.abort_move(id, Some("aborted")),
                    Action::RecordFinished => after.finish_move(id, 1),
                    other => panic!("{other:?} of {moving:?} with {:?}", coordinator.views),
                };
                if recorded.is_ok() {
                    self.state = after;
                    self.check();
                }
                coordinator.moving = self.state.moving.clone();
                return true;
            }
        };
        if turn.twice {
            self.late.push((group, command.clone()));
        }
        let answer = self.execute(group, command);
        if turn.lost {
            return true;
        }
        let learned = coordinator.views.learn(&action, &answer);
        match learned {
            Learned::Hopeless(why) => panic!("{action:?}: {why}"),
            Learned::Unpurged => drop(self.execute(to, Command::Purge { limit: 2 })),
            Learned::Went | Learned::Behind | Learned::Risen => {}
        }
        true
    }

    /// Lets one coordinator bring the move to its end, with everybody at hand.
    fn finish(&mut self, coordinator: &mut Coordinator) {
        for turns in 0.. {
            assert!(turns < 200, "the move does not end: {:?}", self.state.moving);
            coordinator.moving = self.state.moving.clone();
            if coordinator.moving.is_none() {
                return;
            }
            assert!(self.turn(coordinator, FRESH), "{:?} of {:?}", coordinator.views, self.state.moving);
        }
    }

    fn check_end(&mut self) {
        let committed = self.state.past_moves.last().unwrap().committed;
        let owner = if committed { 2 } else { 1 };
        assert_eq!(self.state.owner(slot_of(KEYS[0].as_bytes())).unwrap().id, owner);
        // What is still on its way finds the move over.
        for (group, command) in std::mem::take(&mut self.late) {
            self.execute(group, command);
        }
        self.check();
        for key in KEYS {
            let slot = slot_of(key.as_bytes());
            let serving: Vec<_> = self.groups.iter().filter(|(_, group)| group.ownership.serves(slot)).collect();
            assert_eq!(serving.len(), 1, "one group serves {key}");
            assert_eq!(*serving[0].0, self.state.owner(slot).unwrap().id, "the one that the document says");
        }
        let keys: usize = self.groups.values().map(|group| group.values.len()).sum();
        assert_eq!(keys, KEYS.len(), "no leftovers, nothing lost");
    }
}

fn story(events: Vec<Event>) -> World {
    let mut world = World::new();
    let mut coordinators = [Coordinator::default(), Coordinator::default()];
    for coordinator in &mut coordinators {
        coordinator.moving = world.state.moving.clone();
    }
    for event in events {
        match event {
            Event::Turn(who, turn) => drop(world.turn(&mut coordinators[who], turn)),
            Event::Crash(who) => {
                coordinators[who] = Coordinator { moving: world.state.moving.clone(), ..Coordinator::default() };
            }
            Event::Read(who) => coordinators[who].moving.clone_from(&world.state.moving),
            Event::Late(at) => {
                if at < world.late.len() {
                    let (group, command) = world.late.swap_remove(at);
                    world.execute(group, command);
                }
            }
            Event::Write(key) => world.write(key),
            Event::Raise(group) => world.groups.get_mut(&group).unwrap().raise(),
            Event::Cancel => {
                let mut after = world.state.clone();
                if after.cancel_operation(1, 1).is_ok() {
                    world.state = after;
                }
            }
        }
    }
    // Versions rise group by group, and in the end everywhere.
    world.groups.values_mut().for_each(Group::raise);
    world.finish(&mut coordinators[0]);
    world.check_end();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_move_ends_with_nothing_lost_whatever_happens_on_the_way(
        mut events in proptest::collection::vec(event(), 0..120),
        cancel_at in proptest::option::of(0usize..120),
    ) {
        if let Some(at) = cancel_at {
            events.insert(at.min(events.len()), Event::Cancel);
        }
        let world = story(events);
        if cancel_at.is_none() {
            prop_assert!(world.state.past_moves[0].committed, "nobody cancelled it");
        }
    }
}

#[test]
fn a_move_that_nothing_disturbs_is_committed() {
    let world = story(Vec::new());
    assert!(world.state.past_moves[0].committed);
    assert_eq!(world.state.operations[&1].state, OperationState::Running, "its operation goes on");
    assert_eq!(world.groups[&2].values.len(), 4);
}

#[test]
fn a_move_whose_source_rises_in_between_goes_on() {
    let begun = [Event::Turn(0, FRESH), Event::Raise(1), Event::Raise(2)];
    let world = story(begun.to_vec());
    assert!(world.state.past_moves[0].committed);
    // The target is behind for a while: nothing is exported to it meanwhile.
    let world = story([&begun[..2], &[Event::Turn(0, FRESH), Event::Turn(0, FRESH), Event::Raise(2)]].concat());
    assert!(world.state.past_moves[0].committed);
}

#[test]
fn a_move_that_is_cancelled_at_once_never_happens() {
    let world = story(vec![Event::Cancel]);
    assert!(!world.state.past_moves[0].committed);
    assert_eq!(world.groups[&1].values.len(), 5);
}
