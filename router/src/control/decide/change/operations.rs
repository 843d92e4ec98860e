//! Operations: asked for, begun, stalled, cancelled, over.

use crate::control::decide::change::cut;
use crate::control::document::records::{GroupState, MoveStep, Operation, OperationId, OperationKind, OperationState};
use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::state::{ClusterState, MAX_ASKED_RANGES, MAX_OPEN_OPERATIONS, MAX_PAST_OPERATIONS};

impl ClusterState {
    /// Puts an operation at the end of the queue.
    pub fn enqueue(
        &mut self,
        task: OperationKind,
        rate_bytes_per_second: Option<u64>,
        now_ms: u64,
    ) -> Result<OperationId, Rejected> {
        if let OperationKind::MoveSlots { slots, to } = &task {
            self.check_asked_move(slots, *to)?;
        }
        if rate_bytes_per_second == Some(0) {
            return Err(Rejected::invalid("a rate of 0 bytes a second would never end; cancel the operation instead"));
        }
        if self.operations.values().filter(|operation| !operation.state.is_over()).count() >= MAX_OPEN_OPERATIONS {
            let message = format!("{MAX_OPEN_OPERATIONS} operations are waiting already; wait, or cancel some");
            return Err(Rejected::new(RejectedCode::TooMany, message));
        }
        let id = self.next_operation;
        self.next_operation += 1;
        let operation = Operation {
            id,
            task,
            state: OperationState::Pending,
            stalled: None,
            error: None,
            rate_bytes_per_second,
            slots_done: 0,
            slots_total: 0,
            keys: 0,
            bytes: 0,
            longest_pause_ms: 0,
            created_ms: now_ms,
            started_ms: 0,
            ended_ms: 0,
        };
        self.operations.insert(id, operation);
        Ok(id)
    }

    fn check_asked_move(&self, slots: &raftkv_kv::SlotSet, to: u32) -> Result<(), Rejected> {
        let group = self.groups.get(&to).ok_or_else(|| Rejected::unknown_group(to))?;
        if group.state != GroupState::Active {
            return Err(Rejected::conflict(format!("group {to} is not active: it cannot own slots")));
        }
        if slots.is_empty() {
            return Err(Rejected::invalid("no slots are named"));
        }
        if slots.ranges().len() > MAX_ASKED_RANGES {
            return Err(Rejected::invalid(format!(
                "these are {} ranges of slots; one operation takes up to {MAX_ASKED_RANGES}",
                slots.ranges().len()
            )));
        }
        if self.unowned().overlaps(slots) {
            return Err(Rejected::conflict("nobody owns these slots; add a group first"));
        }
        Ok(())
    }

    /// The first operation that can run now, if none does. One whose group is still forming lets others go first.
    pub fn next_runnable(&self) -> Option<OperationId> {
        if self.running().is_some() {
            return None;
        }
        let is_ready = |operation: &&Operation| {
            operation.state == OperationState::Pending
                && match &operation.task {
                    OperationKind::AddGroup { group } => {
                        self.groups.get(group).is_none_or(|group| group.state != GroupState::Forming)
                    }
                    _ => true,
                }
        };
        self.operations.values().find(is_ready).map(|operation| operation.id)
    }

    /// An operation's turn has come.
    pub fn start_operation(&mut self, id: OperationId, now_ms: u64) -> Result<(), Rejected> {
        if self.next_runnable() != Some(id) {
            return Err(Rejected::outdated(format!("it is not the turn of operation {id}")));
        }
        let operation = self.operation_mut(id)?;
        operation.state = OperationState::Running;
        operation.started_ms = now_ms;
        operation.stalled = None;
        match operation.task {
            OperationKind::RemoveGroup { group, .. } => self.drain_group(group),
            _ => Ok(()),
        }
    }

    /// How many slots an operation has still to move.
    pub fn note_remaining(&mut self, id: OperationId, slots: usize) -> Result<(), Rejected> {
        let operation = self.operation_mut(id)?;
        operation.slots_total = operation.slots_done + slots;
        Ok(())
    }

    /// An operation does not get on, or does again. Says whether that is news.
    pub fn note_stalled(&mut self, id: OperationId, reason: Option<&str>) -> Result<bool, Rejected> {
        let operation = self.operation_mut(id)?;
        let reason = reason.map(cut);
        if operation.state.is_over() || operation.stalled == reason {
            return Ok(false);
        }
        operation.stalled = reason;
        Ok(true)
    }

    /// Asks an operation to end without doing the rest. Its move under way is undone, unless that has passed the point of
    /// no return. Asked again, nothing changes.
    pub fn cancel_operation(&mut self, id: OperationId, now_ms: u64) -> Result<(), Rejected> {
        let moving = self.moving.as_ref().filter(|moving| moving.operation == id);
        let moving = moving.map(|moving| (moving.id, moving.step));
        if matches!(moving, Some((_, MoveStep::Disowning))) {
            return Err(Rejected::conflict("all keys are being deleted: that cannot be cancelled"));
        }
        let operation = self.operation_mut(id)?;
        match operation.state {
            OperationState::Cancelling => return Ok(()),
            OperationState::Done | OperationState::Failed | OperationState::Cancelled => {
                return Err(Rejected::conflict(format!("operation {id} is over")));
            }
            OperationState::Pending => return self.end_operation(id, OperationState::Cancelled, None, now_ms),
            OperationState::Running => operation.state = OperationState::Cancelling,
        }
        match moving {
            // It may be past the point of no return already: the target's log decides.
            Some((id, MoveStep::Copying | MoveStep::Fencing)) => self.abort_move(id, None),
            _ => Ok(()),
        }
    }

    /// An operation is over; its moves are, too.
    pub fn end_operation(
        &mut self,
        id: OperationId,
        state: OperationState,
        error: Option<&str>,
        now_ms: u64,
    ) -> Result<(), Rejected> {
        if self.moving.as_ref().is_some_and(|moving| moving.operation == id) {
            return Err(Rejected::conflict(format!("a move of operation {id} is under way")));
        }
        let operation = self.operation_mut(id)?;
        if !state.is_over() || operation.state.is_over() {
            return Err(Rejected::outdated(format!("operation {id} is over")));
        }
        operation.state = state;
        operation.stalled = None;
        operation.error = error.map(cut);
        operation.ended_ms = now_ms;
        if state == OperationState::Done {
            operation.slots_total = operation.slots_done;
        }
        let task = operation.task.clone();
        if let (OperationKind::RemoveGroup { group, .. }, false) = (task, state == OperationState::Done) {
            self.undrain_group(group)?;
        }
        let over = self.operations.values().filter(|operation| operation.state.is_over());
        let over: Vec<OperationId> = over.map(|operation| operation.id).collect();
        for id in over.iter().take(over.len().saturating_sub(MAX_PAST_OPERATIONS)) {
            self.operations.remove(id);
        }
        Ok(())
    }

    pub(super) fn operation_mut(&mut self, id: OperationId) -> Result<&mut Operation, Rejected> {
        self.operations.get_mut(&id).ok_or_else(|| Rejected::unknown_operation(id))
    }
}
