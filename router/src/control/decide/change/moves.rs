//! Moves: begun, recorded step by step, over.

use raftkv_kv::{MoveId, SlotSet};

use crate::control::decide::change::cut;
use crate::control::document::records::{
    FinishedMove, GroupId, GroupState, MoveRecord, MoveStep, OperationId, OperationState,
};
use crate::control::document::rejected::Rejected;
use crate::control::document::state::{ClusterState, MAX_PAST_MOVES, MAX_SLOTS_PER_MOVE};

/// Longest text of the slots of a move that is over; what is longer is cut.
const MAX_SLOTS_TEXT: usize = 100;

/// How much of a move has been copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
    /// About how many keys there are in all.
    pub keys_estimate: u64,
}

impl ClusterState {
    /// Begins a move, as a part of the running operation. Nothing else moves.
    pub fn begin_move(
        &mut self,
        operation: OperationId,
        from: Option<GroupId>,
        to: Option<GroupId>,
        slots: SlotSet,
        now_ms: u64,
    ) -> Result<MoveId, Rejected> {
        if let Some(moving) = &self.moving {
            return Err(Rejected::outdated(format!("move {} is under way", moving.id)));
        }
        if self.operation_mut(operation)?.state != OperationState::Running {
            return Err(Rejected::outdated(format!("operation {operation} does not run")));
        }
        if slots.is_empty() || from == to {
            return Err(Rejected::invalid("there is nothing to move"));
        }
        let step = match (from, to) {
            (Some(_), Some(_)) if slots.len() > MAX_SLOTS_PER_MOVE => {
                return Err(Rejected::invalid(format!("a move has up to {MAX_SLOTS_PER_MOVE} slots")));
            }
            (Some(_), Some(_)) => MoveStep::Copying,
            (None, _) if slots != SlotSet::all() || self.unowned() != slots => {
                return Err(Rejected::outdated("slots that have an owner cannot be claimed"));
            }
            (None, _) => MoveStep::Claiming,
            (Some(_), None) if slots != SlotSet::all() => {
                return Err(Rejected::invalid("slots can be given up only all at once, by the last group"));
            }
            (Some(_), None) => MoveStep::Disowning,
        };
        if let Some(from) = from
            && !self.group_mut(from)?.slots.contains_all(&slots)
        {
            return Err(Rejected::outdated(format!("group {from} does not own all of these slots")));
        }
        if let Some(to) = to
            && self.group_mut(to)?.state != GroupState::Active
        {
            return Err(Rejected::outdated(format!("group {to} is not active")));
        }
        let id = self.next_move;
        self.next_move += 1;
        self.moving = Some(MoveRecord {
            id,
            operation,
            from,
            to,
            slots,
            step,
            started_ms: now_ms,
            fencing_ms: 0,
            keys: 0,
            bytes: 0,
            keys_estimate: 0,
            pause_ms: 0,
            failure: None,
        });
        Ok(id)
    }

    /// The source is about to be fenced.
    pub fn fence_move(&mut self, id: MoveId, now_ms: u64) -> Result<(), Rejected> {
        let moving = self.moving_mut(id, &[MoveStep::Copying])?;
        moving.step = MoveStep::Fencing;
        moving.fencing_ms = now_ms;
        Ok(())
    }

    /// The target has committed: it owns the slots. Also what becomes of a move that was to be aborted too late.
    pub fn flip_move(&mut self, id: MoveId, pause_ms: u64) -> Result<(), Rejected> {
        let moving = self.moving_mut(id, &[MoveStep::Copying, MoveStep::Fencing, MoveStep::Aborting])?;
        moving.step = MoveStep::Releasing;
        moving.pause_ms = pause_ms;
        moving.failure = None;
        self.hand_over(id)
    }

    /// The source has given the slots up.
    pub fn release_move(&mut self, id: MoveId) -> Result<(), Rejected> {
        self.moving_mut(id, &[MoveStep::Releasing])?.step = MoveStep::Purging;
        Ok(())
    }

    /// A group has claimed what nobody owned.
    pub fn claimed(&mut self, id: MoveId, now_ms: u64) -> Result<(), Rejected> {
        self.moving_mut(id, &[MoveStep::Claiming])?;
        self.hand_over(id)?;
        self.end_move(id, true, now_ms)
    }

    /// The last group has given everything up.
    pub fn disowned(&mut self, id: MoveId) -> Result<(), Rejected> {
        self.moving_mut(id, &[MoveStep::Disowning])?.step = MoveStep::Purging;
        self.hand_over(id)
    }

    /// The move is to be undone: it was cancelled, or it cannot be done.
    pub fn abort_move(&mut self, id: MoveId, failure: Option<&str>) -> Result<(), Rejected> {
        let moving = self.moving_mut(id, &[MoveStep::Copying, MoveStep::Fencing])?;
        moving.step = MoveStep::Aborting;
        moving.failure = failure.map(cut);
        Ok(())
    }

    /// Nothing is left to do for the move.
    pub fn finish_move(&mut self, id: MoveId, now_ms: u64) -> Result<(), Rejected> {
        let step = self.moving_mut(id, &[MoveStep::Purging, MoveStep::Aborting])?.step;
        self.end_move(id, step == MoveStep::Purging, now_ms)
    }

    /// A claim that its group refuses for good.
    pub fn fail_claim(&mut self, id: MoveId, failure: &str, now_ms: u64) -> Result<(), Rejected> {
        self.moving_mut(id, &[MoveStep::Claiming, MoveStep::Disowning])?.failure = Some(cut(failure));
        self.end_move(id, false, now_ms)
    }

    /// How much was copied. Says whether that is news.
    pub fn note_progress(&mut self, id: MoveId, progress: Progress) -> Result<bool, Rejected> {
        let every = [MoveStep::Copying, MoveStep::Fencing, MoveStep::Releasing, MoveStep::Purging, MoveStep::Aborting];
        let moving = self.moving_mut(id, &every)?;
        let before = (moving.keys, moving.bytes, moving.keys_estimate);
        // A coordinator that took over counts from what it found.
        moving.keys = moving.keys.max(progress.keys);
        moving.bytes = moving.bytes.max(progress.bytes);
        moving.keys_estimate = progress.keys_estimate;
        Ok(before != (moving.keys, moving.bytes, moving.keys_estimate))
    }

    fn hand_over(&mut self, id: MoveId) -> Result<(), Rejected> {
        let Some(moving) = self.moving.as_ref().filter(|moving| moving.id == id) else {
            return Err(Rejected::outdated(format!("move {id} is not under way")));
        };
        let (from, to, slots) = (moving.from, moving.to, moving.slots.clone());
        if let Some(from) = from {
            let group = self.group_mut(from)?;
            group.slots = group.slots.difference(&slots);
        }
        if let Some(to) = to {
            let group = self.group_mut(to)?;
            group.slots = group.slots.union(&slots);
        }
        self.epoch += 1;
        Ok(())
    }

    fn end_move(&mut self, id: MoveId, committed: bool, now_ms: u64) -> Result<(), Rejected> {
        let Some(moving) = self.moving.take_if(|moving| moving.id == id) else {
            return Err(Rejected::outdated(format!("move {id} is not under way")));
        };
        let operation = self.operation_mut(moving.operation)?;
        operation.stalled = None;
        operation.keys += moving.keys;
        operation.bytes += moving.bytes;
        operation.longest_pause_ms = operation.longest_pause_ms.max(moving.pause_ms);
        if committed {
            operation.slots_done += moving.slots.len();
            operation.slots_total = operation.slots_total.max(operation.slots_done);
        }
        let mut text = moving.slots.to_string();
        if text.len() > MAX_SLOTS_TEXT {
            text.truncate(MAX_SLOTS_TEXT);
            text.push('…');
        }
        self.past_moves.push(FinishedMove {
            id,
            operation: moving.operation,
            from: moving.from,
            to: moving.to,
            slots: text,
            count: moving.slots.len(),
            committed,
            keys: moving.keys,
            bytes: moving.bytes,
            pause_ms: moving.pause_ms,
            started_ms: moving.started_ms,
            ended_ms: now_ms,
        });
        let surplus = self.past_moves.len().saturating_sub(MAX_PAST_MOVES);
        self.past_moves.drain(..surplus);
        // What a move could not do its operation cannot either.
        match moving.failure {
            Some(failure) if !committed => {
                self.end_operation(moving.operation, OperationState::Failed, Some(&failure), now_ms)
            }
            _ => Ok(()),
        }
    }

    fn moving_mut(&mut self, id: MoveId, steps: &[MoveStep]) -> Result<&mut MoveRecord, Rejected> {
        let Some(moving) = &mut self.moving else {
            return Err(Rejected::outdated(format!("move {id} is not under way")));
        };
        if moving.id != id || !steps.contains(&moving.step) {
            let (id, step) = (moving.id, moving.step.as_str());
            return Err(Rejected::outdated(format!("move {id} is at the step {step}: this does not fit")));
        }
        Ok(moving)
    }
}
