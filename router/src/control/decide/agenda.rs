//! What an operation needs next. Pure: decided anew after each of its moves, from the document alone.

use raftkv_kv::SlotSet;

use crate::control::document::plan::{self, PlannedMove};
use crate::control::document::records::{GroupId, GroupState, Operation, OperationKind};
use crate::control::document::state::{ClusterState, MAX_SLOTS_PER_MOVE};

/// What an operation needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A move.
    Move {
        /// The owner.
        from: Option<GroupId>,
        /// The owner to be.
        to: Option<GroupId>,
        /// No more than one move takes.
        slots: SlotSet,
        /// Slots that the operation has to move in all from now on.
        remaining: usize,
    },
    /// The group has given all away.
    Retire(GroupId),
    /// Nothing: it is done.
    Done,
    /// It cannot be done.
    Fail(String),
}

/// What `operation` needs next.
pub fn next(state: &ClusterState, operation: &Operation) -> Next {
    match &operation.task {
        OperationKind::AddGroup { group } => match state.groups.get(group).map(|group| group.state) {
            Some(GroupState::Active) if !state.unowned().is_empty() => claim(state, *group),
            Some(GroupState::Active) => first_of(plan::balance(&state.shares())),
            Some(GroupState::Forming) => Next::Fail(format!("group {group} is not active")),
            Some(GroupState::Draining | GroupState::Removed) | None => {
                Next::Fail(format!("group {group} was removed meanwhile"))
            }
        },
        OperationKind::Rebalance {} => first_of(plan::balance(&state.shares())),
        OperationKind::RemoveGroup { group, delete_all_keys } => remove(state, *group, *delete_all_keys),
        OperationKind::MoveSlots { slots, to } => match state.groups.get(to).map(|group| group.state) {
            Some(GroupState::Active) => first_of(plan::explicit(&state.shares(), slots, *to)),
            _ => Next::Fail(format!("group {to} was removed meanwhile")),
        },
    }
}

fn claim(state: &ClusterState, group: GroupId) -> Next {
    let slots = state.unowned();
    let remaining = slots.len();
    Next::Move { from: None, to: Some(group), slots, remaining }
}

fn remove(state: &ClusterState, group: GroupId, delete_all_keys: bool) -> Next {
    let Some(record) = state.groups.get(&group) else { return Next::Done };
    if record.slots.is_empty() {
        return Next::Retire(group);
    }
    let mut plan = plan::balance(&state.shares());
    plan.retain(|planned| planned.from == group);
    let has_others = state.groups.values().any(|other| other.is_live() && other.id != group);
    if !plan.is_empty() {
        first_of(plan)
    } else if has_others {
        Next::Fail(format!("no other group is active and has a weight to take the slots of group {group}"))
    } else if delete_all_keys {
        let slots = record.slots.clone();
        let remaining = slots.len();
        Next::Move { from: Some(group), to: None, slots, remaining }
    } else {
        Next::Fail(format!("group {group} has become the last one: removing it deletes all keys and must be confirmed"))
    }
}

fn first_of(plan: Vec<PlannedMove>) -> Next {
    let remaining = plan.iter().map(|planned| planned.slots.len()).sum();
    match plan.into_iter().next() {
        None => Next::Done,
        Some(PlannedMove { from, to, slots }) => {
            let slots = if slots.len() > MAX_SLOTS_PER_MOVE { slots.first(MAX_SLOTS_PER_MOVE) } else { slots };
            Next::Move { from: Some(from), to: Some(to), slots, remaining }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::NewGroup;
    use super::*;
    use crate::control::document::records::OperationState;

    /// Does every operation to its end, as if moves always worked; returns how many slots moved.
    fn run(state: &mut ClusterState) -> usize {
        let mut moved = 0;
        while let Some(id) = state.next_runnable() {
            state.start_operation(id, 1).unwrap();
            loop {
                let (end, error) = match next(state, &state.operations[&id].clone()) {
                    Next::Move { from, to, slots, remaining } => {
                        moved += slots.len();
                        state.note_remaining(id, remaining).unwrap();
                        let moving = state.begin_move(id, from, to, slots, 1).unwrap();
                        match (from, to) {
                            (None, _) => state.claimed(moving, 1).unwrap(),
                            (_, None) => {
                                state.disowned(moving).unwrap();
                                state.finish_move(moving, 1).unwrap();
                            }
                            _ => {
                                state.fence_move(moving, 1).unwrap();
                                state.flip_move(moving, 1).unwrap();
                                state.release_move(moving).unwrap();
                                state.finish_move(moving, 1).unwrap();
                            }
                        }
                        state.check().unwrap();
                        continue;
                    }
                    Next::Retire(group) => {
                        state.retire_group(group).unwrap();
                        (OperationState::Done, None)
                    }
                    Next::Done => (OperationState::Done, None),
                    Next::Fail(why) => (OperationState::Failed, Some(why)),
                };
                state.end_operation(id, end, error.as_deref(), 1).unwrap();
                break;
            }
        }
        moved
    }

    fn add(state: &mut ClusterState, address: &str) -> GroupId {
        let new = NewGroup { name: None, addresses: vec![address.to_owned()], weight: 1, cluster_id: String::new() };
        let (group, _) = state.add_group(new, 1).unwrap();
        state.activate_group(group).unwrap();
        group
    }

    #[test]
    fn groups_are_added_and_removed_down_to_nothing_and_back() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        add(&mut state, "b:1");
        assert_eq!(run(&mut state), 8_192);
        add(&mut state, "c:1");
        assert_eq!(run(&mut state), 5_461);
        assert_eq!(run(&mut state), 0, "a balanced store stays as it is");

        state.remove_group(2, false, 1).unwrap();
        let owned = state.groups[&2].slots.len();
        assert_eq!(run(&mut state), owned, "only its own slots move");
        assert_eq!(state.groups[&2].state, GroupState::Removed);

        state.remove_group(3, false, 1).unwrap();
        run(&mut state);
        let last = state.remove_group(1, true, 1).unwrap();
        run(&mut state);
        assert_eq!(state.operations[&last].state, OperationState::Done);
        assert_eq!(state.unowned(), SlotSet::all());

        let back = add(&mut state, "d:1");
        run(&mut state);
        assert_eq!(state.groups[&back].slots, SlotSet::all());
    }

    #[test]
    fn two_groups_that_come_at_once_are_served_by_one_plan() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        add(&mut state, "b:1");
        add(&mut state, "c:1");
        assert_eq!(run(&mut state), 10_922, "what both get, and no slot twice");
        assert!(state.operations.values().all(|operation| operation.state == OperationState::Done));
    }

    #[test]
    fn the_last_group_is_not_emptied_by_a_removal_that_was_not_confirmed() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        add(&mut state, "b:1");
        run(&mut state);
        state.set_weight(1, 0).unwrap();
        let refused = state.remove_group(2, true, 1).unwrap();
        run(&mut state);
        assert_eq!(state.operations[&refused].state, OperationState::Failed);
        assert_eq!(state.groups[&2].state, GroupState::Active, "it serves on");
    }

    #[test]
    fn explicit_moves_go_where_they_were_told() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        add(&mut state, "b:1");
        run(&mut state);
        let slots = SlotSet::range(0, 5_000);
        state.enqueue(OperationKind::MoveSlots { slots: slots.clone(), to: 2 }, None, 1).unwrap();
        run(&mut state);
        assert!(state.groups[&2].slots.contains_all(&slots));
    }
}
