//! [`History`]: what clients saw of one key, and whether one copy of it could have shown them that.

use std::time::Instant;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

/// One operation on a register, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read this; `None` = no such key.
    Read(Option<u64>),
    /// Wrote this.
    Write(u64),
    /// Removed it.
    Delete,
    /// Wrote `to` where `from` was found: the condition held.
    Swap {
        /// What was expected and found.
        from: Option<u64>,
        /// What was written.
        to: u64,
    },
    /// The condition of a swap did not hold.
    NoSwap {
        /// What was expected and not found.
        from: Option<u64>,
    },
    /// A swap with no answer: it did one or the other.
    MaybeSwap {
        /// What was expected.
        from: Option<u64>,
        /// What may have been written.
        to: u64,
    },
}

#[derive(Debug, Clone)]
struct Call {
    operation: Operation,
    begin: Instant,
    /// `None`: no answer came, so it may take effect at any time after it began.
    end: Option<Instant>,
}

/// The operations on one key.
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
    /// Adds an operation that was answered.
    pub fn answered(&mut self, operation: Operation, begin: Instant, end: Instant) {
        self.calls.push(Call { operation, begin, end: Some(end) });
    }

    /// Adds a change of unknown outcome. Only changes: a read with no answer saw nothing.
    pub fn unanswered(&mut self, operation: Operation, begin: Instant) {
        self.calls.push(Call { operation, begin, end: None });
    }

    /// Takes in what another client saw.
    pub fn extend(&mut self, other: Self) {
        self.calls.extend(other.calls);
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether there is an order of the operations, each at one moment between its begin and its end, in which one copy
    /// of the key would have answered as was seen.
    pub fn is_linearizable(&self) -> bool {
        if self.calls.is_empty() {
            return true;
        }
        // Events in the order of time. Each call is a process of its own: the clients' order is in the times already. One
        // without an answer ends after all others: taking effect last of all is as good as never.
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
