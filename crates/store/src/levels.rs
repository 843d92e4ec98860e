//! [`Levels`]: how large the levels of the tree are, and what a compaction of them may write.
//!
//! Fjall writes the result of a compaction before it removes what it read. Which tables it will take is its own choice; these are
//! estimates of that. One that turns out too low costs an attempt that finds the disk full.

use raftkv_runtime::disk::FLUSHED_TABLES;

/// The least number of parts into which flushed tables are divided, so that each meets a small part of the level below.
const LEAST_PARTS: u64 = 256;
/// The largest number of parts: each is a file.
const MOST_PARTS: u64 = 1_024;
/// No part is smaller than a block.
const LEAST_PART_BYTES: u64 = 4 * 1024;
/// Flushed tables of less than this are not worth a step: they have what a flush writes beside the values.
const NOTHING_BYTES: u64 = 32 * 1024;
/// Each level may be this multiple of the one above.
const LEVEL_RATIO: u64 = 10;

/// The levels, of which the flushed tables are the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Levels(Vec<Level>);

/// One level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) tables: u64,
    pub(super) bytes: u64,
    /// Records, with those that say that something was removed.
    pub(super) records: u64,
    /// Of these, those that say so.
    pub(super) removals: u64,
}

impl Level {
    fn is_empty(self) -> bool {
        self.tables == 0
    }

    fn bytes_per_table(self) -> u64 {
        self.bytes.checked_div(self.tables).unwrap_or(0)
    }
}

/// A compaction towards the last level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// What it may write.
    pub(super) bytes: u64,
    /// In tables of this size.
    pub(super) table_bytes: u64,
}

impl Levels {
    pub(super) fn new(levels: impl Iterator<Item = Level>) -> Self {
        Self(levels.collect())
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|level| level.bytes).sum()
    }

    /// The number of flushed tables that no compaction has taken.
    pub(super) fn flushed_tables(&self) -> usize {
        self.0.first().map_or(0, |level| level.tables as usize)
    }

    /// What the largest compaction that is due now may write.
    pub(super) fn compaction_bytes(&self, table_bytes: u64) -> u64 {
        let Some((flushed, below)) = self.0.split_first() else { return 0 };
        let levels = || below.iter().copied().skip_while(|level| level.is_empty());
        let targets = || {
            let base = table_bytes.saturating_mul(u64::from(FLUSHED_TABLES));
            std::iter::successors(Some(base), |target| Some(target.saturating_mul(LEVEL_RATIO)))
        };
        let mut most = 0;
        let mut all_too_large = below.first().is_none_or(|level| level.is_empty());
        for ((level, next), target) in levels().zip(levels().skip(1).chain([Level::default()])).zip(targets()) {
            let too_large = level.bytes > target;
            all_too_large &= too_large || level.is_empty();
            if too_large {
                most = most.max(merge_bytes(level, next));
            }
        }
        if flushed.tables >= u64::from(FLUSHED_TABLES) {
            // Where all levels are too large a new one is begun above them.
            let overlapped = if all_too_large { 0 } else { levels().next().map_or(0, |level| level.bytes) };
            most = most.max(flushed.bytes.saturating_add(overlapped));
        }
        most
    }

    /// Whether tables above the last level remove values. Each flush removes the link of the one before, which makes no room.
    pub(super) fn has_removals(&self) -> bool {
        let Some((_, upper)) = self.0.split_last() else { return false };
        upper.iter().any(|level| level.removals > level.tables)
    }

    /// What is left when all is compacted at once, if each removal removes something.
    pub(super) fn whole_bytes(&self) -> u64 {
        let sum = |of: fn(&Level) -> u64| self.0.iter().map(of).sum::<u64>();
        // Each flush removes the link of the one before: that makes no room.
        let removals = sum(|level| level.removals).saturating_sub(self.flushed_tables() as u64);
        left(self.bytes(), sum(|level| level.records).saturating_sub(removals), removals)
    }

    /// The next of the small steps that bring everything into the last level; `None` where it is there.
    pub(super) fn next_step(&self, table_bytes: u64) -> Option<Step> {
        let (last, upper) = self.0.split_last()?;
        let (flushed, between) = upper.split_first()?;
        if let Some(deepest) = between.iter().rposition(|level| !level.is_empty()) {
            let next = between.get(deepest + 1).unwrap_or(last);
            return Some(Step { bytes: merge_bytes(between[deepest], *next), table_bytes });
        }
        if flushed.bytes < NOTHING_BYTES {
            return None;
        }
        // Into a level of their own, in parts narrow enough to meet one or two tables of the last one.
        let parts = last.tables.saturating_mul(2).clamp(LEAST_PARTS, MOST_PARTS);
        let part_bytes = (flushed.bytes / parts).max(LEAST_PART_BYTES).min(table_bytes);
        Some(Step { bytes: flushed.bytes, table_bytes: part_bytes })
    }
}

/// Of the smallest merge of a part of a level into the next: one of its tables, and what is left of what that overlaps.
fn merge_bytes(level: Level, next: Level) -> u64 {
    if next.is_empty() {
        // It is moved as it is.
        return 0;
    }
    let tables = level.tables.max(1);
    let overlapped = (next.bytes / tables + 2 * next.bytes_per_table()).min(next.bytes);
    let records = (u128::from(next.records) * u128::from(overlapped) / u128::from(next.bytes.max(1))) as u64;
    level.bytes_per_table().saturating_add(left(overlapped, records, level.removals / tables))
}

/// What is left of so many bytes of records when so many of them are removed.
fn left(bytes: u64, records: u64, removals: u64) -> u64 {
    (u128::from(bytes) * u128::from(records.saturating_sub(removals)) / u128::from(records.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TABLE: u64 = 4 * MIB;

    fn level((tables, mib): (u64, u64)) -> Level {
        // A record has a kilobyte.
        Level { tables, bytes: mib * MIB, records: mib * 1024, removals: 0 }
    }

    fn levels(mib: [(u64, u64); 7]) -> Levels {
        Levels::new(mib.into_iter().map(level))
    }

    fn due(mib: [(u64, u64); 7]) -> u64 {
        levels(mib).compaction_bytes(TABLE) / MIB
    }

    #[test]
    fn flushed_tables_are_compacted_with_the_level_below_or_into_a_new_one() {
        let none = (0, 0);
        assert_eq!(due([(7, 14), none, none, none, none, none, (5, 20)]), 0, "nothing is due");
        assert_eq!(due([(8, 16), none, none, none, none, none, none]), 16);
        assert_eq!(due([(8, 16), none, none, none, none, none, (5, 20)]), 36);
        assert_eq!(due([(8, 16), none, none, none, none, none, (50, 200)]), 16, "a level is begun above it");
        assert_eq!(due([(8, 16), none, none, none, none, (5, 20), (50, 200)]), 36);
    }

    #[test]
    fn a_level_that_is_too_large_is_merged_table_by_table() {
        let none = (0, 0);
        // One of ten tables with a tenth of the next level, and two tables at its edges.
        assert_eq!(due([none, none, none, none, none, (10, 40), (50, 200)]), 4 + 20 + 8);
        assert_eq!(due([none, none, none, none, (10, 40), none, none]), 0, "it is moved");
    }

    #[test]
    fn steps_divide_the_flushed_tables_and_bring_everything_into_the_last_level() {
        let none = (0, 0);
        let step = |mib| levels(mib).next_step(TABLE);
        assert_eq!(step([none, none, none, none, none, none, (50, 200)]), None);
        let divided = Step { bytes: 16 * MIB, table_bytes: 16 * MIB / LEAST_PARTS };
        assert_eq!(step([(8, 16), none, none, none, none, none, (50, 200)]), Some(divided));
        let merged = step([(1, 2), none, none, none, none, (100, 16), (50, 200)]).expect("there is something to do");
        assert_eq!((merged.bytes, merged.table_bytes), (16 * MIB / 100 + 2 * MIB + 8 * MIB, TABLE));
        let marker = Level { tables: 1, bytes: 4_000, records: 3, removals: 1 };
        let last = [(0, 0), none, none, none, none, (50, 200)].map(level);
        assert_eq!(Levels::new([marker].into_iter().chain(last)).next_step(TABLE), None);
    }

    #[test]
    fn what_is_removed_needs_no_room() {
        let removing = Level { tables: 2, bytes: MIB, records: 1_000, removals: 1_000 };
        let values = Level { tables: 50, bytes: 200 * MIB, records: 1_000, removals: 0 };
        assert_eq!(merge_bytes(removing, values), MIB / 2 + 108 * MIB * 40 / 540, "500 of 540 values go");
        let all = [Level::default(), removing, values];
        assert_eq!(Levels::new(all.into_iter()).whole_bytes(), 0);
        assert_eq!(Levels::new([Level::default(), values].into_iter()).whole_bytes(), 200 * MIB);
    }
}
