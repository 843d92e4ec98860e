//! [`KeyLog`]: client observations of a single key, with revisions.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::ensure;

use crate::linearizability::{History, Operation};

/// Observations of a single key by all clients.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyLog {
    history: History,
    seen: Vec<Seen>,
}

/// A value with revision.
#[derive(Debug, Clone, Copy)]
struct Seen {
    value: u64,
    revision: u64,
    begin: Instant,
    end: Instant,
    /// Written by this request, not read.
    is_new: bool,
}

impl KeyLog {
    /// Adds a read with its result.
    pub(super) fn read(&mut self, found: Option<(u64, u64)>, begin: Instant, end: Instant) {
        if let Some((value, revision)) = found {
            self.seen.push(Seen { value, revision, begin, end, is_new: false });
        }
        self.history.answered(Operation::Read(found.map(|(value, _)| value)), begin, end);
    }

    /// Adds a successful write or swap.
    pub(super) fn wrote(&mut self, operation: Operation, value: u64, revision: u64, begin: Instant, end: Instant) {
        self.seen.push(Seen { value, revision, begin, end, is_new: true });
        self.history.answered(operation, begin, end);
    }

    /// Adds a successful delete, or a failed condition.
    pub(super) fn answered(&mut self, operation: Operation, begin: Instant, end: Instant) {
        self.history.answered(operation, begin, end);
    }

    /// Adds a change with unknown outcome.
    pub(super) fn unknown(&mut self, operation: Operation, begin: Instant) {
        self.history.unanswered(operation, begin);
    }

    /// Adds the observations of another client.
    pub(super) fn extend(&mut self, other: Self) {
        self.history.extend(other.history);
        self.seen.extend(other.seen);
    }

    /// Number of operations.
    pub(super) fn len(&self) -> usize {
        self.history.len()
    }

    /// Fails unless the history is linearizable, each value has a single revision, and revisions increase.
    pub(super) fn check(mut self) -> Result<(), (String, Self)> {
        if let Err(error) = self.check_revisions() {
            return Err((format!("{error:#}"), self));
        }
        match self.history.is_linearizable() {
            true => Ok(()),
            false => Err((format!("{} operations are not linearizable", self.history.len()), self)),
        }
    }

    fn check_revisions(&mut self) -> anyhow::Result<()> {
        let mut revisions = HashMap::new();
        for Seen { value, revision, .. } in &self.seen {
            let first = *revisions.entry(*value).or_insert(*revision);
            ensure!(first == *revision, "the value {value} was written at revision {first} and again at {revision}");
        }
        // A request that begins after a revision was seen must not see a lower revision, and must write a higher revision.
        self.seen.sort_by_key(|seen| seen.begin);
        let mut by_end: Vec<_> = self.seen.iter().map(|seen| (seen.end, seen.revision)).collect();
        by_end.sort();
        let (mut ended, mut highest) = (by_end.into_iter().peekable(), 0);
        for Seen { value, revision, begin, is_new, .. } in &self.seen {
            while let Some((_, before)) = ended.next_if(|(end, _)| end < begin) {
                highest = highest.max(before);
            }
            ensure!(
                *revision > highest || (*revision == highest && !is_new),
                "{value} has revision {revision} after revision {highest} was seen"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn revisions_that_fall_are_found() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut log = KeyLog::default();
        log.wrote(Operation::Write(1), 1, 7, at(0), at(1));
        log.wrote(Operation::Write(2), 2, 8, at(2), at(3));
        log.read(Some((2, 8)), at(4), at(5));
        assert!(log.clone().check().is_ok());
        let mut fallen = log.clone();
        fallen.wrote(Operation::Write(3), 3, 8, at(6), at(7));
        assert!(fallen.check().is_err(), "a write at a revision that was there");
        let mut twice = log.clone();
        twice.read(Some((2, 9)), at(6), at(7));
        assert!(twice.check().is_err(), "a value with two revisions: it was applied twice");
        log.read(Some((1, 7)), at(6), at(7));
        assert!(log.check().is_err(), "an old value");
    }
}
