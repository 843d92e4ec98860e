//! Deleting what is not owned any more, a piece at a time.
//!
//! It goes through kept outcomes, then values, from a cursor in the ownership record, which is the first key not looked
//! at yet; then through changes recorded for moves that are over. All of it depends on the state alone.

use bytes::Bytes;
use fjall::Slice;
use raftkv_kv::SystemAnswer;

use crate::machine::{Machine, remove_outcome, remove_value};
use crate::record::Trace;
use crate::txn::Txn;
use crate::{StoreError, layout};

/// Most records looked at by one command, whatever it asks for: tens of milliseconds in which nothing else is applied.
const MAX_LOOKED_AT: usize = 10_000;

impl Machine {
    /// Looks at `limit` records and deletes those that have no place here.
    pub(super) fn purge(&mut self, txn: &mut Txn<'_>, limit: u32) -> Result<SystemAnswer, StoreError> {
        let mut budget = (limit as usize).clamp(1, MAX_LOOKED_AT);
        let mut removed = self.purge_slots(txn, &mut budget)?;
        let mut done = self.shards.ownership().purge.is_none();
        if done {
            let (changes, all) = self.purge_changes(txn, budget)?;
            removed += changes;
            done = all;
        }
        Ok(SystemAnswer::Purged { removed, done })
    }

    fn purge_slots(&mut self, txn: &mut Txn<'_>, budget: &mut usize) -> Result<u64, StoreError> {
        let Some(state) = self.shards.ownership().purge.clone() else { return Ok(0) };
        let mut removed = 0;
        let mut at = Slice::from(&*state.cursor);
        for tag in [layout::IDEMPOTENCY, layout::DATA] {
            let start = at.clone().max(Slice::from([tag]));
            let keys = txn.keys(start, Slice::from([tag + 1]), *budget)?;
            let is_cut = keys.len() == *budget;
            *budget -= keys.len();
            if let Some(last) = keys.last().filter(|_| is_cut) {
                at = Slice::from(layout::after(last));
            }
            for key in keys {
                if !layout::slot_of_record(&key).is_some_and(|slot| state.slots.contains(slot)) {
                    continue;
                }
                removed += 1;
                if tag == layout::DATA {
                    let stored = txn.value(&key)?.ok_or_else(|| gone(&key))?;
                    remove_value(txn, key, stored)?;
                } else {
                    let record = txn.get(&key)?.ok_or_else(|| gone(&key))?;
                    remove_outcome(txn, key, &record)?;
                }
            }
            if is_cut {
                let cursor = Bytes::copy_from_slice(&at);
                self.shards.change(|ownership| {
                    if let Some(purge) = &mut ownership.purge {
                        purge.cursor = cursor;
                    }
                });
                return Ok(removed);
            }
        }
        self.shards.change(|ownership| ownership.purge = None);
        Ok(removed)
    }

    /// Deletes changes recorded for other moves than the one under way; says whether that was all.
    fn purge_changes(&mut self, txn: &mut Txn<'_>, budget: usize) -> Result<(u64, bool), StoreError> {
        let first = Slice::from([layout::CHANGE]);
        let end = Slice::from([layout::CHANGE + 1]);
        let mut ranges = vec![(first.clone(), end.clone())];
        if let Some(active) = self.shards.ownership().outgoing.as_ref().map(|out| out.id) {
            ranges = vec![(first, Slice::from(layout::numbered(layout::CHANGE, active)))];
            if let Some(next) = active.checked_add(1) {
                ranges.push((Slice::from(layout::numbered(layout::CHANGE, next)), end));
            }
        }
        let mut left = budget;
        let mut removed = 0;
        for (start, end) in ranges {
            let keys = txn.keys(start, end, left)?;
            left -= keys.len();
            for key in keys {
                let record = txn.get(&key)?.ok_or_else(|| gone(&key))?;
                txn.remove(key, Trace::of(&record));
                removed += 1;
            }
        }
        // With nothing left to look with, nobody knows: the next one says.
        Ok((removed, left > 0))
    }
}

fn gone(key: &[u8]) -> StoreError {
    StoreError::Inconsistent(format!("record {} is listed and cannot be read", key.escape_ascii()))
}
