//! [`Writes`]: the operations of one request, each with its result once it has one.

use std::collections::BTreeMap;
use std::mem::discriminant;

use raftkv_backend::BackendError;
use raftkv_kv::{Op, Outcome, slot_of};

use crate::data::map::{GroupId, ShardMap};

/// An operation without a result yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its place in the request.
    pub(super) at: usize,
    pub(super) op: Op,
    pub(super) slot: u16,
    /// Where to send it, when it is known better than by the map.
    pub(super) hint: Option<GroupId>,
}

/// What became of one operation.
type OneResult = Result<Outcome, BackendError>;

/// All operations of a request. Pure: who sends them is told what to send where, and tells what came of it.
#[derive(Debug)]
pub(super) struct Writes {
    pending: Vec<Pending>,
    results: Vec<Option<OneResult>>,
}

/// Operations for one group, in the order of the request.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) group: GroupId,
    pub(super) pending: Vec<Pending>,
}

impl Part {
    /// What is sent.
    pub(super) fn ops(&self) -> Vec<Op> {
        self.pending.iter().map(|pending| pending.op.clone()).collect()
    }
}

impl Writes {
    pub(super) fn new(ops: Vec<Op>) -> Self {
        let results = ops.iter().map(|_| None).collect();
        let pending = ops.into_iter().enumerate().map(|(at, op)| {
            let slot = slot_of(op.command.key().as_bytes());
            Pending { at, op, slot, hint: None }
        });
        Self { pending: pending.collect(), results }
    }

    /// What to send to each group now, and what no group of the map has. Each is to be given back by one of the others.
    pub(super) fn split(&mut self, map: &ShardMap) -> (Vec<Part>, Vec<Pending>) {
        let mut parts: BTreeMap<GroupId, Vec<Pending>> = BTreeMap::new();
        let mut homeless = Vec::new();
        for mut pending in self.pending.drain(..) {
            match pending.hint.take().or_else(|| map.slots.get(pending.slot)) {
                Some(group) => parts.entry(group).or_default().push(pending),
                None => homeless.push(pending),
            }
        }
        (parts.into_iter().map(|(group, pending)| Part { group, pending }).collect(), homeless)
    }

    /// A group's answer to a part; what it has not applied because the slot is not its own comes back.
    pub(super) fn answered(&mut self, part: Part, answer: Result<Vec<Outcome>, BackendError>) -> Vec<Pending> {
        let mut refused = Vec::new();
        match answer {
            Ok(outcomes) if outcomes.len() == part.pending.len() => {
                for (pending, outcome) in part.pending.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::WrongGroup => refused.push(pending),
                        outcome => self.results[pending.at] = Some(Ok(outcome)),
                    }
                }
            }
            Ok(_) => {
                let reason = "a group answered with more or fewer outcomes than it was given operations";
                self.failed(part.pending, &BackendError::OutcomeUnknown(reason.to_owned()));
            }
            Err(error) => self.failed(part.pending, &error),
        }
        refused
    }

    /// These came to nothing.
    pub(super) fn failed(&mut self, pending: Vec<Pending>, error: &BackendError) {
        for pending in pending {
            self.results[pending.at] = Some(Err(error.clone()));
        }
    }

    /// These are to be sent (again).
    pub(super) fn again(&mut self, pending: impl IntoIterator<Item = Pending>) {
        self.pending.extend(pending);
        // Operations on one key are in one slot, and stay in the order of the request.
        self.pending.sort_unstable_by_key(|pending| pending.at);
    }

    /// Whatever has no result yet comes to nothing.
    pub(super) fn give_up(&mut self, error: &BackendError) {
        let pending = std::mem::take(&mut self.pending);
        self.failed(pending, error);
    }

    /// Whether nothing is to be sent any more.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// The result of the request. When the operations failed for reasons of one kind it is that error; when not all came to
    /// the same, [`BackendError::Partial`].
    pub(super) fn result(self) -> Result<Vec<Outcome>, BackendError> {
        let lost = || Err(BackendError::Internal("an operation was lost".to_owned()));
        let results: Vec<OneResult> = self.results.into_iter().map(|result| result.unwrap_or_else(lost)).collect();
        let first = results.iter().find_map(|result| result.as_ref().err()).cloned();
        let Some(first) = first else { return results.into_iter().collect() };
        let same = |result: &OneResult| result.as_ref().is_err_and(|error| discriminant(error) == discriminant(&first));
        if results.iter().all(same) { Err(first) } else { Err(BackendError::Partial(results)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use raftkv_kv::{Command, Key, SlotSet};

    use super::*;
    use crate::data::map::SlotTable;

    fn map(slots: SlotTable) -> ShardMap {
        ShardMap { store: 1, version: 1, epoch: 1, groups: BTreeMap::new(), slots, moving: None }
    }

    fn ops(keys: &[u8]) -> Vec<Op> {
        let key = |key: &u8| Key::from_stored(format!("key{key}"));
        keys.iter().map(|number| Op::from(Command::Delete { key: key(number) })).collect()
    }

    fn done(at: usize) -> Outcome {
        Outcome::Deleted { revision: at as u64, existed: true }
    }

    proptest! {
        /// Groups that refuse at random, and maps and hints that change: each operation is applied once, with its own
        /// result, and those on one key in their order.
        #[test]
        fn every_operation_is_applied_once_and_those_of_a_key_in_order(
            keys in proptest::collection::vec(0u8..6, 1..30),
            rounds in proptest::collection::vec((0u16..16_384, any::<[bool; 3]>()), 0..6),
        ) {
            let mut writes = Writes::new(ops(&keys));
            let mut applied: Vec<usize> = Vec::new();
            // The last round: all is served.
            for (edge, serves) in rounds.into_iter().chain([(0, [true; 3])]) {
                let mut slots = SlotTable::all(1);
                slots.assign(&SlotSet::range(edge, 16_383), 2);
                slots.assign(&SlotSet::range(0, edge / 2), if serves[0] { 1 } else { 0 });
                let (parts, homeless) = writes.split(&map(slots));
                let groups: BTreeSet<GroupId> = parts.iter().map(|part| part.group).collect();
                prop_assert_eq!(groups.len(), parts.len(), "one part for each group");
                let mut again = homeless;
                for part in parts {
                    // A group serves all operations on one slot of a batch or none of them.
                    let serves = serves[usize::from(part.group as u8)];
                    let outcomes: Vec<Outcome> = part.pending.iter().map(|pending| {
                        if serves { applied.push(pending.at); done(pending.at) } else { Outcome::WrongGroup }
                    }).collect();
                    again.extend(writes.answered(part, Ok(outcomes)));
                }
                again.iter_mut().for_each(|pending| pending.hint = Some(2).filter(|_| edge % 2 == 0));
                writes.again(again);
            }
            // A hint to a group may have come before the last round; by then all are served somewhere.
            let left = std::mem::take(&mut writes.pending);
            prop_assert!(left.is_empty());
            prop_assert_eq!(applied.iter().copied().collect::<BTreeSet<_>>().len(), keys.len());
            prop_assert_eq!(applied.len(), keys.len(), "each once");
            for key in 0..6 {
                let order: Vec<usize> = applied.iter().copied().filter(|at| keys[*at] == key).collect();
                prop_assert!(order.is_sorted(), "{order:?}");
            }
            let expected: Vec<Outcome> = (0..keys.len()).map(done).collect();
            prop_assert_eq!(writes.result(), Ok(expected));
        }
    }

    #[test]
    fn a_result_says_what_is_known_of_each_operation_when_they_differ() {
        let fail = |errors: &[Option<BackendError>]| {
            let mut writes = Writes::new(ops(&[1, 2]));
            let all = std::mem::take(&mut writes.pending);
            for (pending, error) in all.into_iter().zip(errors) {
                let part = Part { group: 1, pending: vec![pending] };
                writes.answered(part, error.clone().map_or_else(|| Ok(vec![done(0)]), Err));
            }
            writes.result()
        };
        let down = |why: &str| BackendError::Unavailable(why.to_owned());
        let unknown = BackendError::OutcomeUnknown("x".to_owned());
        assert_eq!(fail(&[None, None]), Ok(vec![done(0), done(0)]));
        assert_eq!(fail(&[Some(down("a")), Some(down("b"))]), Err(down("a")));
        let partial = |results: [OneResult; 2]| Err(BackendError::Partial(results.into()));
        assert_eq!(fail(&[None, Some(down("b"))]), partial([Ok(done(0)), Err(down("b"))]));
        assert_eq!(fail(&[Some(unknown.clone()), Some(down("b"))]), partial([Err(unknown), Err(down("b"))]));
    }
}
