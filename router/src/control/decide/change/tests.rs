//! Random transitions keep what always holds.

use proptest::prelude::*;
use raftkv_kv::{MAX_SYSTEM_VALUE_BYTES, SLOTS, SlotSet};

use super::*;
use crate::control::document::plan;
use crate::control::document::records::{GroupState, MemberRecord, MoveStep, OperationKind, OperationState};
use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::state::{
    ClusterState, FORMAT, MAX_PAST_MOVES, MAX_PAST_OPERATIONS, META_GROUP, StateError,
};

/// What somebody may do to the document. Ids are chosen among few, so that they often exist.
#[derive(Debug, Clone)]
enum Change {
    Add {
        name: u8,
    },
    See {
        group: u32,
        cluster: u8,
    },
    Activate {
        group: u32,
    },
    Weigh {
        group: u32,
        weight: u32,
    },
    Remove {
        group: u32,
        confirm: bool,
    },
    Retire {
        group: u32,
    },
    Revive {
        group: u32,
    },
    Rebalance,
    MoveTo {
        first: u16,
        len: u16,
        to: u32,
    },
    Start,
    /// The next move of the running operation, as the coordinator would begin it.
    Begin {
        most: usize,
    },
    BeginAny {
        from: Option<u32>,
        to: Option<u32>,
        first: u16,
        len: u16,
    },
    Fence,
    Flip,
    Release,
    Claimed,
    Disowned,
    Abort {
        failure: bool,
    },
    Finish,
    Stall,
    Cancel {
        back: u64,
    },
    End {
        back: u64,
        done: bool,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let group = || 1u32..7;
    let maybe = || proptest::option::of(1u32..7);
    prop_oneof![
        2 => (0u8..8).prop_map(|name| Change::Add { name }),
        2 => (group(), 0u8..8).prop_map(|(group, cluster)| Change::See { group, cluster }),
        3 => group().prop_map(|group| Change::Activate { group }),
        1 => (group(), 0u32..4).prop_map(|(group, weight)| Change::Weigh { group, weight }),
        1 => (group(), any::<bool>()).prop_map(|(group, confirm)| Change::Remove { group, confirm }),
        2 => group().prop_map(|group| Change::Retire { group }),
        1 => group().prop_map(|group| Change::Revive { group }),
        1 => Just(Change::Rebalance),
        1 => (0..SLOTS, 0u16..3_000, group()).prop_map(|(first, len, to)| Change::MoveTo { first, len, to }),
        4 => Just(Change::Start),
        8 => (1usize..2_048).prop_map(|most| Change::Begin { most }),
        1 => (maybe(), maybe(), 0..SLOTS, 0u16..3_000)
            .prop_map(|(from, to, first, len)| Change::BeginAny { from, to, first, len }),
        5 => Just(Change::Fence),
        6 => Just(Change::Flip),
        5 => Just(Change::Release),
        3 => Just(Change::Claimed),
        3 => Just(Change::Disowned),
        1 => any::<bool>().prop_map(|failure| Change::Abort { failure }),
        6 => Just(Change::Finish),
        1 => Just(Change::Stall),
        1 => (0u64..3).prop_map(|back| Change::Cancel { back }),
        2 => (0u64..3, any::<bool>()).prop_map(|(back, done)| Change::End { back, done }),
    ]
}

fn make(state: &mut ClusterState, change: &Change) -> Result<(), Rejected> {
    let moving = state.moving.as_ref().map_or(0, |moving| moving.id);
    let now = 1_700_000_000_000;
    match change.clone() {
        Change::Add { name } => {
            let new = NewGroup {
                name: (name < 4).then(|| format!("name-{name}")),
                addresses: vec![format!("host-{}:50053", state.next_group)],
                weight: 1,
                cluster_id: String::new(),
            };
            state.add_group(new, now).map(drop)
        }
        Change::See { group, cluster } => {
            let member = MemberRecord {
                name: format!("node-{cluster}"),
                voter: true,
                management_address: format!("node-{cluster}:6000"),
                group_address: format!("node-{cluster}:50053"),
            };
            state.see_group(group, &format!("cluster-{group}"), vec![member], now).map(drop)
        }
        Change::Activate { group } => state.activate_group(group),
        Change::Weigh { group, weight } => state.set_weight(group, weight),
        Change::Remove { group, confirm } => state.remove_group(group, confirm, now).map(drop),
        Change::Retire { group } => state.retire_group(group),
        Change::Revive { group } => state.revive_group(group, vec![format!("host-{group}:50053")], now).map(drop),
        Change::Rebalance => state.enqueue(OperationKind::Rebalance {}, None, now).map(drop),
        Change::MoveTo { first, len, to } => {
            let slots = SlotSet::range(first, first.saturating_add(len));
            state.enqueue(OperationKind::MoveSlots { slots, to }, None, now).map(drop)
        }
        Change::Start => {
            let next = state.next_runnable();
            next.map_or(Ok(()), |next| state.start_operation(next, now))
        }
        Change::Begin { most } => {
            let Some(running) = state.running().map(|operation| operation.id) else { return Ok(()) };
            let plan = plan::balance(&state.shares());
            match plan.first() {
                Some(first) => {
                    let slots = first.slots.first(most);
                    state.begin_move(running, Some(first.from), Some(first.to), slots, now).map(drop)
                }
                None => {
                    let owner = state.owner(0).map(|group| group.id);
                    let to = owner.is_none().then(|| state.shares().last().map_or(1, |share| share.group));
                    state.begin_move(running, owner, to, SlotSet::all(), now).map(drop)
                }
            }
        }
        Change::BeginAny { from, to, first, len } => {
            let running = state.running().map_or(1, |operation| operation.id);
            state.begin_move(running, from, to, SlotSet::range(first, first.saturating_add(len)), now).map(drop)
        }
        Change::Fence => state.fence_move(moving, now),
        Change::Flip => state.flip_move(moving, 5),
        Change::Release => state.release_move(moving),
        Change::Claimed => state.claimed(moving, now),
        Change::Disowned => state.disowned(moving),
        Change::Abort { failure } => state.abort_move(moving, failure.then_some("it cannot be")),
        Change::Finish => state.finish_move(moving, now),
        Change::Stall => {
            let reason = "é".repeat(400);
            let running = state.running().map_or(0, |operation| operation.id);
            state.note_stalled(running, Some(&reason)).map(drop)
        }
        Change::Cancel { back } => state.cancel_operation(state.next_operation.saturating_sub(1 + back), now),
        Change::End { back, done } => {
            let end = if done { OperationState::Done } else { OperationState::Failed };
            state.end_operation(state.next_operation.saturating_sub(1 + back), end, None, now)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_transitions_keep_what_always_holds(changes in proptest::collection::vec(change(), 1..200)) {
        let mut state = ClusterState::init(7, vec!["host-1:50053".to_owned()], 3);
        for change in changes {
            let mut after = state.clone();
            if make(&mut after, &change).is_err() {
                continue;
            }
            after.check().map_err(|problem| TestCaseError::fail(format!("{change:?}: {problem}\n{state:#?}")))?;
            prop_assert!(after.next_group >= state.next_group, "ids are never given out again");
            prop_assert!(after.next_move >= state.next_move && after.next_operation >= state.next_operation);
            let slots = |state: &ClusterState| state.map(1).slots;
            let groups = |state: &ClusterState| -> Vec<_> {
                state.groups.values().map(|group| (group.id, group.state, group.weight, group.reachable_at())).collect()
            };
            if slots(&state) != slots(&after) || groups(&state) != groups(&after) {
                prop_assert!(after.epoch > state.epoch, "{change:?} without a new epoch");
            }
            prop_assert!(after.epoch >= state.epoch);
            if let (Some(before), Some(now)) = (&state.moving, &after.moving) {
                prop_assert_eq!(before.id, now.id, "one move at a time");
            }
            prop_assert!(after.past_moves.len() <= MAX_PAST_MOVES);
            prop_assert!(after.operations.values().filter(|o| o.state.is_over()).count() <= MAX_PAST_OPERATIONS);
            let running = after.operations.values()
                .filter(|o| matches!(o.state, OperationState::Running | OperationState::Cancelling));
            prop_assert!(running.count() <= 1, "one operation at a time");
            prop_assert_eq!(&ClusterState::decode(&after.encode()).unwrap(), &after);
            state = after;
        }
    }
}

/// A store with groups 1 and 2, both active.
fn two_groups() -> ClusterState {
    let mut state = ClusterState::init(7, vec!["a:50053".to_owned()], 3);
    let new = NewGroup { name: None, addresses: vec!["b:50053".to_owned()], weight: 1, cluster_id: String::new() };
    state.add_group(new, 1).unwrap();
    state.activate_group(2).unwrap();
    state
}

type Step = fn(&mut ClusterState, u64) -> Result<(), Rejected>;

#[test]
fn a_move_goes_through_its_steps_in_order_only() {
    let mut state = two_groups();
    state.start_operation(1, 2).unwrap();
    let id = state.begin_move(1, Some(1), Some(2), SlotSet::range(0, 99), 3).unwrap();
    let wrong: [Step; 4] = [
        |state, id| state.release_move(id),
        |state, id| state.finish_move(id, 4),
        |state, id| state.claimed(id, 4),
        |state, id| state.fence_move(id + 1, 4),
    ];
    for step in wrong {
        assert_eq!(step(&mut state.clone(), id).unwrap_err().code, RejectedCode::Outdated);
    }
    let epoch = state.epoch;
    state.fence_move(id, 4).unwrap();
    assert_eq!(state.owner(50).unwrap().id, 1);
    assert_eq!(state.map(9).moving.unwrap().to, 2, "routers may try the target");
    state.flip_move(id, 12).unwrap();
    assert_eq!((state.owner(50).unwrap().id, state.epoch), (2, epoch + 1));
    state.release_move(id).unwrap();
    state.finish_move(id, 9).unwrap();
    let operation = &state.operations[&1];
    assert_eq!((operation.slots_done, operation.longest_pause_ms), (100, 12));
    assert!(state.moving.is_none() && state.past_moves[0].committed);
}

#[test]
fn cancelling_undoes_the_move_under_way_unless_it_is_too_late() {
    let mut state = two_groups();
    state.start_operation(1, 2).unwrap();
    let id = state.begin_move(1, Some(1), Some(2), SlotSet::range(0, 99), 3).unwrap();
    state.fence_move(id, 4).unwrap();
    state.cancel_operation(1, 5).unwrap();
    state.cancel_operation(1, 5).unwrap();
    assert_eq!(state.moving.as_ref().unwrap().step, MoveStep::Aborting);
    let mut too_late = state.clone();
    too_late.flip_move(id, 7).unwrap();
    assert_eq!(too_late.owner(0).unwrap().id, 2, "the target had committed");
    assert_eq!(too_late.operations[&1].state, OperationState::Cancelling, "no other move is begun");

    state.finish_move(id, 6).unwrap();
    assert_eq!(state.owner(0).unwrap().id, 1);
    assert!(!state.past_moves[0].committed);
    state.end_operation(1, OperationState::Cancelled, None, 6).unwrap();
    assert_eq!(state.cancel_operation(1, 7).unwrap_err().code, RejectedCode::Conflict);
}

#[test]
fn a_move_that_cannot_be_done_fails_its_operation() {
    let mut state = two_groups();
    state.start_operation(1, 2).unwrap();
    let id = state.begin_move(1, Some(1), Some(2), SlotSet::range(0, 99), 3).unwrap();
    state.abort_move(id, Some("the target refuses")).unwrap();
    state.finish_move(id, 6).unwrap();
    let operation = &state.operations[&1];
    assert_eq!((operation.state, operation.error.as_deref()), (OperationState::Failed, Some("the target refuses")));
}

#[test]
fn the_last_group_needs_a_confirmation_and_the_first_stays_as_long_as_others() {
    let mut state = two_groups();
    assert_eq!(state.remove_group(META_GROUP, true, 1).unwrap_err().code, RejectedCode::Conflict);
    assert_eq!(state.remove_group(9, true, 1).unwrap_err().code, RejectedCode::UnknownGroup);
    let asked = state.remove_group(2, false, 1).unwrap();
    assert_eq!(state.remove_group(2, false, 1).unwrap(), asked, "asked again");

    let mut alone = ClusterState::init(7, vec!["a:50053".to_owned()], 3);
    assert_eq!(alone.remove_group(1, false, 1).unwrap_err().code, RejectedCode::ConfirmationRequired);
    let operation = alone.remove_group(1, true, 1).unwrap();
    alone.start_operation(operation, 2).unwrap();
    let id = alone.begin_move(operation, Some(1), None, SlotSet::all(), 3).unwrap();
    assert_eq!(alone.cancel_operation(operation, 3).unwrap_err().code, RejectedCode::Conflict, "it may have happened");
    alone.disowned(id).unwrap();
    alone.finish_move(id, 4).unwrap();
    alone.retire_group(1).unwrap();
    alone.end_operation(operation, OperationState::Done, None, 5).unwrap();
    assert_eq!(alone.unowned(), SlotSet::all());
    alone.check().unwrap();

    let operation = alone.revive_group(1, vec!["a:50053".to_owned()], 6).unwrap();
    alone.activate_group(1).unwrap();
    alone.start_operation(operation, 7).unwrap();
    let id = alone.begin_move(operation, None, Some(1), SlotSet::all(), 8).unwrap();
    alone.claimed(id, 9).unwrap();
    assert_eq!(alone.owner(0).unwrap().id, 1);
    alone.check().unwrap();
}

#[test]
fn an_operation_whose_group_is_not_ready_lets_others_go_first() {
    let mut state = two_groups();
    let new = NewGroup { name: None, addresses: vec!["c:50053".to_owned()], weight: 1, cluster_id: String::new() };
    let (group, waiting) = state.add_group(new, 1).unwrap();
    state.end_operation(1, OperationState::Done, None, 1).unwrap();
    let rebalance = state.enqueue(OperationKind::Rebalance {}, None, 1).unwrap();
    assert_eq!(state.next_runnable(), Some(rebalance));
    state.activate_group(group).unwrap();
    assert_eq!(state.next_runnable(), Some(waiting));
}

#[test]
fn what_is_asked_badly_is_refused() {
    let mut state = two_groups();
    let all = |to| OperationKind::MoveSlots { slots: SlotSet::all(), to };
    let scattered = OperationKind::MoveSlots { slots: (0..SLOTS).step_by(2).collect(), to: 1 };
    let none = OperationKind::MoveSlots { slots: SlotSet::new(), to: 1 };
    for (task, code) in
        [(all(9), RejectedCode::UnknownGroup), (scattered, RejectedCode::Invalid), (none, RejectedCode::Invalid)]
    {
        assert_eq!(state.clone().enqueue(task, None, 1).unwrap_err().code, code);
    }
    assert_eq!(state.clone().enqueue(all(1), Some(0), 1).unwrap_err().code, RejectedCode::Invalid);
    assert_eq!(state.set_weight(1, 1_001).unwrap_err().code, RejectedCode::Invalid);
    state.set_weight(1, 0).unwrap();
    assert_eq!(state.set_weight(2, 0).unwrap_err().code, RejectedCode::Conflict, "some group must own the slots");
    for address in ["", "b", "b:", ":1", "b:x", "b:0", "b:70000", "a b:1", "http://b:1/"] {
        let new = NewGroup { name: None, addresses: vec![address.to_owned()], weight: 1, cluster_id: String::new() };
        assert_eq!(state.clone().add_group(new, 1).unwrap_err().code, RejectedCode::Invalid, "{address:?}");
    }
    let taken = NewGroup { name: None, addresses: vec!["b:50053".to_owned()], weight: 1, cluster_id: String::new() };
    assert_eq!(state.add_group(taken, 1).unwrap_err().code, RejectedCode::Conflict);
}

#[test]
fn a_document_of_another_format_or_that_contradicts_itself_is_refused() {
    let mut state = two_groups();
    let text = String::from_utf8(state.encode()).unwrap();
    let other = text.replace(r#""format":1"#, r#""format":2"#);
    assert!(matches!(ClusterState::decode(other.as_bytes()), Err(StateError::UnknownFormat { found: 2 })));
    assert_eq!(FORMAT, 1, "a new format needs a fixture of the old one");
    let unknown = text.replacen('{', r#"{"surprise":1,"#, 1);
    assert!(matches!(ClusterState::decode(unknown.as_bytes()), Err(StateError::Malformed(_))));
    state.groups.get_mut(&2).unwrap().slots = SlotSet::range(0, 0);
    assert!(matches!(ClusterState::decode(&state.encode()), Err(StateError::Contradiction(_))));
}

/// The worst that the bounds allow fits what a group stores under a system key.
#[test]
fn the_largest_document_fits_a_system_key() {
    use crate::control::document::state::{MAX_GROUPS, MAX_MEMBERS, MAX_NODES, MAX_OPEN_OPERATIONS};
    let long = |text: &str, at: usize| format!("{}{text}{at:05}", "x".repeat(240));
    let mut state = ClusterState::init(u64::MAX, vec![long("a", 0) + ":50053"], 3);
    for at in 1..MAX_GROUPS {
        let addresses = (0..MAX_MEMBERS).map(|n| long("g", 10 * at + n) + ":50053").collect();
        let new = NewGroup { name: Some(format!("{at:063}")), addresses, weight: 1_000, cluster_id: String::new() };
        let (id, operation) = state.add_group(new, u64::MAX / 2).unwrap();
        let member = |n: usize| MemberRecord {
            name: format!("{n:063}"),
            voter: true,
            management_address: long("m", n) + ":6000",
            group_address: long("g", 10 * at + n) + ":50053",
        };
        state.see_group(id, &"c".repeat(36), (0..MAX_MEMBERS).map(member).collect(), u64::MAX / 2).unwrap();
        state.cancel_operation(operation, 1).unwrap();
        state.activate_group(id).unwrap();
    }
    let owned =
        |id: u32| -> SlotSet { (0..SLOTS).filter(|slot| u32::from(*slot) % MAX_GROUPS as u32 + 1 == id).collect() };
    for group in state.groups.values_mut() {
        group.slots = owned(group.id);
    }
    for _ in 0..MAX_OPEN_OPERATIONS {
        let slots = (0..SLOTS).step_by(64).collect();
        let id = state.enqueue(OperationKind::MoveSlots { slots, to: 2 }, Some(u64::MAX), u64::MAX / 2).unwrap();
        state.note_stalled(id, Some(&"s".repeat(1_000))).unwrap();
    }
    for at in 0..MAX_NODES {
        let node = crate::control::document::records::NodeRecord {
            group: 1,
            bootstrap: false,
            raft_address: long("r", at) + ":8088",
            management_address: long("m", at) + ":6000",
            group_address: long("g", at) + ":50053",
        };
        state.nodes.insert(format!("{at:063}"), node);
    }
    state.check().unwrap();
    assert_eq!(state.groups[&2].state, GroupState::Active);
    let bytes = state.encode().len();
    assert!(bytes < MAX_SYSTEM_VALUE_BYTES, "{bytes} bytes");
}
