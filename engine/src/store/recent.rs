//! [`Recent`]: what the apply thread remembers of the values it wrote last.

use std::collections::HashMap;

use fjall::Slice;

use super::record::{DataRecord, Trace};

/// Longer keys are not remembered: it bounds the memory.
const LONGEST_KEY: usize = 128;

/// What an operation must know of the value it replaces; not the value itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    pub(super) expires_at_ms: u64,
    /// Of the stored record.
    pub(super) trace: Trace,
}

impl Stored {
    /// Whether it is there for a reader whose clock shows `clock_ms`.
    pub(super) fn is_live(&self, clock_ms: u64) -> bool {
        self.expires_at_ms == 0 || self.expires_at_ms > clock_ms
    }
}

impl From<&DataRecord> for Stored {
    fn from(record: &DataRecord) -> Self {
        Self {
            revision: record.revision,
            create_revision: record.create_revision,
            expires_at_ms: record.expires_at_ms,
            trace: record.trace(),
        }
    }
}

/// A bounded cache of the records of values, so that writing a key again need not read it.
///
/// Belongs to one generation and to the one thread that changes it: every change goes through a
/// [`Txn`](super::txn::Txn), which keeps this exact. What is not here is in the store, so what is forgotten, and when,
/// never shows in the state.
#[derive(Debug)]
pub(super) struct Recent {
    half: usize,
    /// Written or used last. When full it becomes `old`, and what was there is forgotten.
    young: HashMap<Slice, Stored>,
    old: HashMap<Slice, Stored>,
}

impl Recent {
    /// Remembers so many values at most.
    pub(super) fn new(most: usize) -> Self {
        Self { half: most / 2, young: HashMap::new(), old: HashMap::new() }
    }

    /// Another generation begins.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.half * 2);
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Option<Stored> {
        if let Some(found) = self.young.get(key) {
            return Some(*found);
        }
        let (key, stored) = self.old.remove_entry(key)?;
        self.insert(key, stored);
        Some(stored)
    }

    /// Remembers what was stored under a key, or forgets what was there before.
    pub(super) fn put(&mut self, key: &Slice, stored: Stored) {
        if key.len() > LONGEST_KEY || self.half == 0 {
            return;
        }
        match self.young.get_mut(key) {
            Some(known) => *known = stored,
            None => {
                // Never in both: a value that is forgotten in one half must not come back out of the other.
                self.old.remove(key);
                self.insert(key.clone(), stored);
            }
        }
    }

    /// The key has no record any more.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn insert(&mut self, key: Slice, stored: Stored) {
        if self.young.len() >= self.half {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(revision: u64) -> Stored {
        Stored { revision, create_revision: 1, expires_at_ms: 0, trace: Trace(revision) }
    }

    #[test]
    fn the_last_write_is_what_is_remembered() {
        let mut recent = Recent::new(4);
        let keys: Vec<_> = (0..5u8).map(|n| Slice::from([n])).collect();
        for (revision, key) in keys.iter().enumerate() {
            recent.put(key, stored(revision as u64));
        }
        assert_eq!(recent.get(&keys[0]), None, "bounded");
        assert_eq!(recent.get(&keys[4]), Some(stored(4)));
        // One that is in the older half by now.
        assert_eq!(recent.get(&keys[3]), Some(stored(3)));
        recent.put(&keys[2], stored(7));
        recent.put(&keys[3], stored(8));
        assert_eq!(recent.get(&keys[3]), Some(stored(8)));
        recent.remove(&keys[3]);
        assert_eq!(recent.get(&keys[3]), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_never_outdated() {
        let mut recent = Recent::new(6);
        for revision in 0..1_000u64 {
            let key = Slice::from([(revision * 7 % 11) as u8]);
            recent.put(&key, stored(revision));
            assert_eq!(recent.get(&key), Some(stored(revision)));
            assert!(recent.young.len() <= 3 && recent.old.len() <= 3);
            let other = Slice::from([(revision * 5 % 11) as u8]);
            if let Some(found) = recent.get(&other) {
                assert_eq!(found.revision * 7 % 11, revision * 5 % 11);
                assert!(found.revision + 11 > revision, "an outdated one of {}", found.revision);
            }
        }
        let long = Slice::from(vec![1; LONGEST_KEY + 1]);
        recent.put(&long, stored(1));
        assert_eq!(recent.get(&long), None);
    }
}
