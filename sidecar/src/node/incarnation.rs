//! [`Life`]: this run of the process, told apart from every other.

use raftkv_proto::Expiry;
use raftkv_runtime::clock::boottime_ns;

/// Incarnations fit into the integers that every JSON reader can hold.
const INCARNATION_BITS: u32 = 53;

/// One run of this process. Kept in memory only: two processes that use copies of one data directory have the same raft id
/// and different incarnations.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    incarnation: u64,
    began_ns: u64,
}

impl Life {
    /// Begins now.
    pub fn begin() -> Self {
        let incarnation = rand::random::<u64>() % ((1 << INCARNATION_BITS) - 1) + 1;
        Self { incarnation, began_ns: boottime_ns() }
    }

    /// Random, never 0.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Milliseconds since it began. Counts the time for which the process or the machine was suspended.
    pub fn age_ms(&self) -> u64 {
        boottime_ns().saturating_sub(self.began_ns) / 1_000_000
    }

    /// What is left of a deadline that was given in terms of this life; `None` = it is over, or was meant for an earlier life.
    pub fn left_of(&self, expiry: &Expiry) -> Option<std::time::Duration> {
        expiry.left(self.incarnation, self.age_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_is_another() {
        let (one, other) = (Life::begin(), Life::begin());
        assert!(one.incarnation() > 0 && one.incarnation() < 1 << INCARNATION_BITS);
        assert_ne!(one.incarnation(), other.incarnation());
        let minute = std::time::Duration::from_secs(60);
        let expiry = Expiry::after(one.incarnation(), one.age_ms(), minute);
        assert!(one.left_of(&expiry).is_some_and(|left| left <= minute));
        assert_eq!(other.left_of(&expiry), None);
    }
}
