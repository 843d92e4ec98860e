//! Which entries a log holds.

use super::WalError;
use super::record::Position;

/// Which entries a log holds: `start..next`, and the positions around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// The last position purged.
    pub purged: Option<Position>,
    /// The last entry, or the last position purged when there is no entry.
    pub last: Option<Position>,
    /// Index of the first entry.
    pub start: u64,
    /// Index after the last entry.
    pub next: u64,
}

impl Bounds {
    /// True when the log holds no entry.
    pub fn is_empty(&self) -> bool {
        self.start == self.next
    }

    /// Whether a log can have these.
    pub(super) fn is_possible(&self) -> bool {
        let is_before = |position: Option<Position>, index| position.and_then(after) == Some(index);
        self.start <= self.next
            && (self.purged.is_none() || is_before(self.purged, self.start))
            && if self.is_empty() { self.last == self.purged } else { is_before(self.last, self.next) }
    }

    /// Takes one more entry in. A log that never held anything may begin anywhere; any other has no holes.
    pub(super) fn append(&mut self, position: Position) -> Result<(), WalError> {
        if self.is_empty() && self.purged.is_none() {
            self.start = position.index;
        } else if position.index != self.next {
            return Err(WalError::NotConsecutive { expected: self.next, found: position.index });
        }
        self.next = position.index + 1;
        self.last = Some(position);
        Ok(())
    }

    /// Forgets the entries after `after`.
    pub(super) fn truncate_after(&mut self, after: Option<Position>) {
        let next = after.map_or(self.start, |position| position.index + 1);
        if next >= self.next {
            return;
        }
        if next <= self.start {
            self.next = self.start;
            self.last = self.purged;
        } else {
            self.next = next;
            self.last = after;
        }
    }

    /// Forgets the entries up to `upto`. It may lie beyond the last entry: a snapshot was installed.
    pub(super) fn purge(&mut self, upto: Position) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        self.start = upto.index + 1;
        if self.start >= self.next {
            self.next = self.start;
            self.last = Some(upto);
        }
    }
}

/// The index after a position; `None` when there is none.
fn after(position: Position) -> Option<u64> {
    position.index.checked_add(1)
}
