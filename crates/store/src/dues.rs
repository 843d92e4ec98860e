//! [`Dues`]: in which slots something ends next, so that an entry need not look for it.

use std::collections::{BTreeSet, HashMap};

use fjall::Keyspace;
use raftkv_kv::{Ownership, SLOTS};

use super::generation::read_error;
use super::{StoreError, layout};

/// Of one index of deadlines by slot.
///
/// What it knows of a slot is not later than the first deadline in the index, and may be earlier: what was removed is not taken note of. So
/// it says where to look and never what is there, and two replicas of which one knows less do the same.
#[derive(Debug)]
pub(super) struct Dues {
    tag: u8,
    /// In the time of the slot.
    by_slot: HashMap<u16, u64>,
    /// When that is by the clock of the group: of the slots that are served. In the others time stands still.
    queue: BTreeSet<(u64, u16)>,
}

impl Dues {
    /// None are known.
    pub(super) fn none(tag: u8) -> Self {
        Self { tag, by_slot: HashMap::new(), queue: BTreeSet::new() }
    }

    /// Reads the first deadline of each slot.
    pub(super) fn load(tag: u8, keyspace: &Keyspace, ownership: &Ownership) -> Result<Self, StoreError> {
        let mut dues = Self::none(tag);
        let mut slot = 0;
        while slot < SLOTS {
            let from = layout::due_slot(tag, slot);
            let Some(first) = keyspace.range(from.to_vec()..vec![tag + 1]).next() else { break };
            let key = first.key().map_err(read_error)?;
            let stray = || StoreError::Corrupt(format!("stray record {} in an index", key.escape_ascii()));
            let (found, at_ms) = layout::due_of(&key).ok_or_else(stray)?;
            dues.by_slot.insert(found, at_ms);
            slot = found + 1;
        }
        dues.requeue(ownership);
        Ok(dues)
    }

    /// Slots are served now that were not, or the other way round, or have other times.
    pub(super) fn requeue(&mut self, ownership: &Ownership) {
        self.queue.clear();
        for (slot, at_ms) in &self.by_slot {
            self.queue.extend(queued(*slot, *at_ms, ownership));
        }
    }

    /// Something in the slot ends then, by the slot's time.
    pub(super) fn note(&mut self, slot: u16, at_ms: u64, ownership: &Ownership) {
        if self.by_slot.get(&slot).is_none_or(|known| at_ms < *known) {
            self.settle(slot, Some(at_ms), ownership);
        }
    }

    /// The first deadline of the slot is this; `None` = it has none.
    pub(super) fn settle(&mut self, slot: u16, first_ms: Option<u64>, ownership: &Ownership) {
        let before = match first_ms {
            Some(at_ms) => self.by_slot.insert(slot, at_ms),
            None => self.by_slot.remove(&slot),
        };
        if let Some(entry) = before.and_then(|at_ms| queued(slot, at_ms, ownership)) {
            self.queue.remove(&entry);
        }
        self.queue.extend(first_ms.and_then(|at_ms| queued(slot, at_ms, ownership)));
    }

    /// The slots in which something may have ended when the group's clock shows that, rising.
    pub(super) fn slots_at(&self, clock_ms: u64) -> Vec<u16> {
        let mut slots: Vec<u16> = self.queue.range(..=(clock_ms, u16::MAX)).map(|(_, slot)| *slot).collect();
        slots.sort_unstable();
        slots
    }

    /// The slot in which something ends first, or may, and when that is by the group's clock.
    pub(super) fn first(&self) -> Option<(u64, u16)> {
        self.queue.first().copied()
    }

    /// Which index it is of.
    pub(super) fn tag(&self) -> u8 {
        self.tag
    }
}

fn queued(slot: u16, at_ms: u64, ownership: &Ownership) -> Option<(u64, u16)> {
    ownership.serves(slot).then(|| (at_ms.saturating_add_signed(ownership.times.offset(slot).saturating_neg()), slot))
}

#[cfg(test)]
mod tests {
    use raftkv_kv::SlotSet;

    use super::*;

    #[test]
    fn slots_are_due_by_their_own_time_and_only_while_they_are_served() {
        let mut ownership = Ownership { store: 1, group: 1, owned: SlotSet::range(0, 9), ..Ownership::default() };
        ownership.times.set(&SlotSet::range(2, 2), 100);
        let mut dues = Dues::none(layout::OUTCOME_DUE);
        dues.note(1, 1_000, &ownership);
        dues.note(2, 1_000, &ownership);
        dues.note(20, 5, &ownership);
        dues.note(2, 1_500, &ownership);
        assert_eq!(dues.first(), Some((900, 2)));
        assert_eq!((dues.slots_at(899), dues.slots_at(900), dues.slots_at(1_000)), (vec![], vec![2], vec![1, 2]));
        dues.settle(2, Some(1_500), &ownership);
        assert_eq!(dues.slots_at(1_399), [1]);
        dues.settle(1, None, &ownership);
        assert_eq!(dues.first(), Some((1_400, 2)));
        ownership.owned = SlotSet::range(0, 20);
        ownership.times.set(&SlotSet::range(2, 2), 0);
        dues.requeue(&ownership);
        assert_eq!(dues.slots_at(1_400), [20]);
    }
}
