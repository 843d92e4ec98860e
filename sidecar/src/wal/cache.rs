//! The newest entries, in memory.

use std::collections::VecDeque;

use super::record::Entry;

/// What an entry costs beside its bytes.
const OVERHEAD: usize = 96;

/// The newest entries, those not yet durable always among them: until its fsync an entry is nowhere else.
#[derive(Debug, Default)]
pub(super) struct Cache {
    start: u64,
    entries: VecDeque<Cached>,
    bytes: usize,
}

#[derive(Debug)]
struct Cached {
    entry: Entry,
    /// The operation that appended it.
    operation: u64,
}

impl Cache {
    /// Takes in an entry that follows the newest one.
    pub(super) fn push(&mut self, entry: Entry, operation: u64) {
        if self.entries.is_empty() {
            self.start = entry.position.index;
        }
        self.bytes += cost(&entry);
        self.entries.push_back(Cached { entry, operation });
    }

    /// The entry at `index`.
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let slot = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.entries.get(slot).map(|cached| &cached.entry)
    }

    /// Forgets the entries from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.start + self.entries.len() as u64 > next
            && let Some(cached) = self.entries.pop_back()
        {
            self.bytes -= cost(&cached.entry);
        }
    }

    /// Forgets the entries below `start`.
    pub(super) fn purge(&mut self, start: u64) {
        while self.start < start && self.pop_front() {}
    }

    /// Forgets the oldest entries above `limit` bytes, but none that operation `durable` or an earlier one did not append.
    pub(super) fn evict(&mut self, limit: usize, durable: u64) {
        while self.bytes > limit && self.entries.front().is_some_and(|front| front.operation <= durable) {
            self.pop_front();
        }
    }

    /// Index of the first entry that an operation after `durable` appended.
    pub(super) fn first_after(&self, durable: u64) -> Option<u64> {
        let slot = self.entries.partition_point(|cached| cached.operation <= durable);
        (slot < self.entries.len()).then_some(self.start + slot as u64)
    }

    fn pop_front(&mut self) -> bool {
        let Some(cached) = self.entries.pop_front() else {
            return false;
        };
        self.bytes -= cost(&cached.entry);
        self.start += 1;
        true
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::record::{Leader, Position};
    use super::*;

    #[test]
    fn only_durable_entries_are_evicted() {
        let mut cache = Cache::default();
        for index in 3..9 {
            let position = Position { leader: Leader::default(), index };
            let data = Bytes::from(vec![0; 100]);
            let (kind, stamp) = (0, 0);
            cache.push(Entry { position, kind, stamp, second_stamp: None, data }, index * 10);
        }
        assert_eq!(cache.first_after(50), Some(6));
        cache.evict(0, 50);
        assert!(cache.get(5).is_none() && cache.get(6).is_some());
        cache.truncate(8);
        assert!(cache.get(7).is_some() && cache.get(8).is_none());
        cache.purge(7);
        assert!(cache.get(6).is_none() && cache.get(7).is_some());
        assert_eq!(cache.first_after(80), None);
        cache.truncate(0);
        assert_eq!(cache.bytes, 0);
    }
}
