//! [`History`]: client operations on a single key, checked for linearizability.

use std::time::Instant;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

/// An operation on a register, with the result seen by the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read this value; `None` = not found.
    Read(Option<u64>),
    /// Wrote this value.
    Write(u64),
    /// Deleted the key.
    Delete,
    /// Wrote `to` because the value was `from`: the condition held.
    Swap {
        /// Expected and found value.
        from: Option<u64>,
        /// Written value.
        to: u64,
    },
    /// The condition of a swap failed.
    NoSwap {
        /// Expected value, not found.
        from: Option<u64>,
    },
    /// A swap without a response: may have succeeded or failed.
    MaybeSwap {
        /// Expected value.
        from: Option<u64>,
        /// Value possibly written.
        to: u64,
    },
}

#[derive(Debug, Clone)]
struct Call {
    operation: Operation,
    begin: Instant,
    /// `None`: no response, so the operation may take effect at any time after `begin`.
    end: Option<Instant>,
}

/// All operations on a single key.
#[derive(Debug, Clone, Default)]
pub struct History {
    calls: Vec<Call>,
}

struct Register;

impl Specification for Register {
    type State = Option<u64>;
    type Operation = Operation;

    fn init() -> Self::State {
        None
    }

    fn apply(operation: &Operation, state: &Self::State) -> (bool, Self::State) {
        match operation {
            Operation::Read(seen) => (seen == state, *state),
            Operation::Write(value) => (true, Some(*value)),
            Operation::Delete => (true, None),
            Operation::Swap { from, to } if from == state => (true, Some(*to)),
            Operation::Swap { .. } => (false, *state),
            Operation::NoSwap { from } => (from != state, *state),
            Operation::MaybeSwap { from, to } if from == state => (true, Some(*to)),
            Operation::MaybeSwap { .. } => (true, *state),
        }
    }
}

impl History {
    /// Adds an answered operation.
    pub fn answered(&mut self, operation: Operation, begin: Instant, end: Instant) {
        self.calls.push(Call { operation, begin, end: Some(end) });
    }

    /// Adds a change with unknown outcome. Reads without a response are left out, because such a read has no result.
    pub fn unanswered(&mut self, operation: Operation, begin: Instant) {
        self.calls.push(Call { operation, begin, end: None });
    }

    /// Adds the operations of another client.
    pub fn extend(&mut self, other: Self) {
        self.calls.extend(other.calls);
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether the history is linearizable: the operations have an order, each at a point between `begin` and `end`,
    /// consistent with a single copy of the key.
    pub fn is_linearizable(&self) -> bool {
        if self.calls.is_empty() {
            return true;
        }
        // Events in order of time. Each call is a separate process, because the times already hold each client's order.
        // An unanswered call ends last: taking effect at the very end is equivalent to never.
        let mut events: Vec<(Option<Instant>, usize, bool)> = Vec::with_capacity(self.calls.len() * 2);
        for (number, call) in self.calls.iter().enumerate() {
            events.push((Some(call.begin), number, false));
            events.push((call.end, number, true));
        }
        events.sort_by_key(|(at, number, ends)| (at.is_none(), *at, *ends, *number));
        let actions = events
            .into_iter()
            .map(|(_, number, ends)| {
                let operation = self.calls[number].operation.clone();
                (number, if ends { Action::Response(operation) } else { Action::Call(operation) })
            })
            .collect();
        WGLChecker::<Register>::is_linearizable(Actions::from_actions(actions))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn history(calls: &[(Operation, u64, Option<u64>)]) -> History {
        let start = Instant::now();
        let at = |millis: &u64| start + Duration::from_millis(*millis);
        let calls = calls
            .iter()
            .map(|(operation, begin, end)| Call {
                operation: operation.clone(),
                begin: at(begin),
                end: end.as_ref().map(at),
            })
            .collect();
        History { calls }
    }

    #[test]
    fn a_stale_read_is_found() {
        use Operation::{Read, Write};
        let fresh = [(Write(1), 0, Some(1)), (Write(2), 2, Some(3)), (Read(Some(2)), 4, Some(5))];
        assert!(history(&fresh).is_linearizable());
        let stale = [(Write(1), 0, Some(1)), (Write(2), 2, Some(3)), (Read(Some(1)), 4, Some(5))];
        assert!(!history(&stale).is_linearizable());
    }

    #[test]
    fn an_unknown_write_may_have_been_applied_or_not_but_not_be_taken_back() {
        use Operation::{Read, Write};
        let unknown = (Write(1), 0, None);
        assert!(history(&[unknown.clone(), (Read(None), 1, Some(2))]).is_linearizable());
        assert!(history(&[unknown.clone(), (Read(Some(1)), 1, Some(2))]).is_linearizable());
        let late = [unknown.clone(), (Read(None), 1, Some(2)), (Read(Some(1)), 3, Some(4))];
        assert!(history(&late).is_linearizable());
        let taken_back = [unknown, (Read(Some(1)), 1, Some(2)), (Read(None), 3, Some(4))];
        assert!(!history(&taken_back).is_linearizable());
    }

    #[test]
    fn two_swaps_from_the_same_value_cannot_both_succeed() {
        use Operation::{MaybeSwap, NoSwap, Swap};
        let swap = |to| Swap { from: None, to };
        assert!(!history(&[(swap(1), 0, Some(9)), (swap(2), 0, Some(9))]).is_linearizable());
        assert!(history(&[(swap(1), 0, Some(9)), (NoSwap { from: None }, 0, Some(9))]).is_linearizable());
        assert!(history(&[(swap(1), 0, Some(9)), (MaybeSwap { from: None, to: 2 }, 0, None)]).is_linearizable());
    }
}
