//! What is durable: the log as a restart would find it, and where its entries are.

use std::collections::VecDeque;

use super::WalError;
use super::bounds::Bounds;
use super::record::{Ballot, Checkpoint, Position, Record};

/// Where an entry's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// The segment's ordinal.
    pub(super) segment: u32,
    /// The record's offset in it.
    pub(super) offset: u32,
    /// The record's length.
    pub(super) len: u32,
    /// The record's checksum.
    pub(super) crc: u32,
}

/// The log as replaying its durable records gives it. Recovery and the writer change it by the same code, in the order
/// of the records.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    pub(super) ballot: Option<Ballot>,
    pub(super) committed: Option<Position>,
    pub(super) bounds: Bounds,
    /// Index of the first location. Above `bounds.start` only while recovery has not come to the purge that explains it.
    base: u64,
    locations: VecDeque<Location>,
}

impl DiskState {
    /// The state at the start of the oldest segment, of whose past nothing else is left.
    pub(super) fn starting_at(checkpoint: Checkpoint) -> Self {
        Self {
            ballot: checkpoint.ballot,
            committed: checkpoint.committed,
            bounds: checkpoint.bounds,
            base: checkpoint.bounds.next,
            locations: VecDeque::new(),
        }
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { ballot: self.ballot, committed: self.committed, bounds: self.bounds }
    }

    /// Applies a record other than an entry. A checkpoint changes nothing: it repeats what is known.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Vote(ballot) => self.ballot = Some(ballot),
            Record::Committed(position) => self.committed = position,
            Record::Truncate(after) => {
                self.bounds.truncate_after(after);
                self.locations.truncate(self.bounds.next.saturating_sub(self.base) as usize);
                self.base = self.base.min(self.bounds.next);
            }
            Record::Purge(upto) => {
                self.bounds.purge(upto);
                while self.base < self.bounds.start && self.locations.pop_front().is_some() {
                    self.base += 1;
                }
                if self.locations.is_empty() && self.bounds.is_empty() {
                    self.base = self.bounds.next;
                }
            }
            Record::Entry { .. } | Record::Checkpoint(_) => {}
        }
    }

    /// Takes in an entry that is durable at `location`.
    pub(super) fn append(&mut self, position: Position, location: Location) -> Result<(), WalError> {
        self.bounds.append(position)?;
        if self.locations.is_empty() {
            self.base = position.index;
        }
        self.locations.push_back(location);
        Ok(())
    }

    /// Where entry `index` is.
    pub(super) fn location(&self, index: u64) -> Option<Location> {
        let slot = index.checked_sub(self.base)?;
        self.locations.get(usize::try_from(slot).ok()?).copied()
    }

    /// The first segment that still holds an entry; `None` when there is no entry.
    pub(super) fn oldest_segment(&self) -> Option<u32> {
        self.locations.front().map(|location| location.segment)
    }

    /// The entries that should be there and are in none of the segments read.
    pub(super) fn missing(&self) -> Option<std::ops::Range<u64>> {
        (self.bounds.start < self.base && !self.bounds.is_empty()).then_some(self.bounds.start..self.base)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::record::Leader;
    use super::*;

    fn position(index: u64) -> Position {
        Position { leader: Leader { term: 1, node: 1 }, index }
    }

    fn location(offset: u32) -> Location {
        Location { segment: 0, offset, len: 1, crc: 0 }
    }

    #[test]
    fn locations_follow_truncation_and_purge() {
        let mut state = DiskState::default();
        for index in 5..10 {
            state.append(position(index), location(index as u32)).unwrap();
        }
        assert!(state.append(position(11), location(0)).is_err());
        state.apply(Record::Truncate(Some(position(7))));
        state.append(position(8), location(80)).unwrap();
        state.apply(Record::Purge(position(6)));
        assert_eq!(state.location(6), None);
        assert_eq!(state.location(7).unwrap().offset, 7);
        assert_eq!(state.location(8).unwrap().offset, 80);
        assert_eq!(state.location(9), None);
        state.apply(Record::Purge(position(100)));
        assert_eq!((state.bounds.start, state.bounds.next), (101, 101));
        state.append(position(101), location(1)).unwrap();
        assert_eq!(state.missing(), None);
    }

    #[test]
    fn entries_of_a_lost_segment_are_missed_unless_purged() {
        let mut bounds = Bounds::default();
        bounds.append(position(0)).unwrap();
        bounds.append(position(1)).unwrap();
        let checkpoint = Checkpoint { bounds, ..Checkpoint::default() };
        let mut state = DiskState::starting_at(checkpoint);
        assert_eq!(state.missing(), Some(0..2));
        state.append(position(2), location(0)).unwrap();
        assert_eq!(state.missing(), Some(0..2));
        state.apply(Record::Purge(position(1)));
        assert_eq!(state.missing(), None);
        assert!(state.location(2).is_some());
    }
}
