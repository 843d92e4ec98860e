//! [`Space`]: how much room a file system has; [`DiskPlan`]: how a node divides it.
//!
//! Both processes of a node read the same file system and make the same plan of it, so the room that one keeps free covers the
//! work of the other.

use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// On a smaller file system a node works, and little of it is left for values: the smallest plan takes more than half.
pub const SMALLEST_DISK_BYTES: u64 = 128 * MIB;

/// A memtable is this part of the file system, and at most [`LARGEST_MEMTABLE`]. Everything that the store writes at once is a
/// multiple of it, so the part decides how much of a small disk has to stay free: about a sixth.
const MEMTABLE_DIVISOR: u64 = 256;
/// Larger ones gain little and cost memory.
const LARGEST_MEMTABLE: u64 = 32 * MIB;
/// Smaller ones would hold a single large value.
const SMALLEST_MEMTABLE: u64 = 2 * MIB;
/// A table of the tree, in memtables.
const TABLE_MEMTABLES: u64 = 2;

/// Flushed tables are compacted once there are so many. Each time, the level below is written anew as far as it overlaps, so
/// fewer would write more; more would make a compaction of a large store so long that flushes have to wait for it.
pub const FLUSHED_TABLES: u8 = 8;

/// A segment of the log is this part of the file system, and at most [`LARGEST_SEGMENT`].
const SEGMENT_DIVISOR: u64 = 256;
/// Large enough that a rotation (two more fsyncs) is rare, small enough that purging gives space back soon and that reading one
/// into memory at a start costs little.
const LARGEST_SEGMENT: u64 = 16 * MIB;
/// Smaller ones would be rotated by every large value.
const SMALLEST_SEGMENT: u64 = MIB;
/// The log that is kept for members that come back, and the log after which state is made durable, are this part of the file
/// system each, and at most [`LARGEST_LOG`].
const LOG_DIVISOR: u64 = 32;
/// Minutes of writes for a member that was away; beyond it a snapshot is cheaper. And a restart replays at most about this much.
const LARGEST_LOG: u64 = 64 * MIB;
/// Less would ask for a flush with every few values.
const SMALLEST_LOG: u64 = 8 * MIB;

/// The reserve is this part of the file system, and at most [`LARGEST_RESERVE`]: room for what is in memory, for what other nodes
/// propose, for the log while values are removed, and for compactions in small steps.
const RESERVE_DIVISOR: u64 = 20;
/// Sixteen of the largest memtables. A compaction that needs more waits, or is done in small steps.
const LARGEST_RESERVE: u64 = 512 * MIB;
/// Below this the values that are on their way when the first is refused would take it all,
const SMALLEST_RESERVE: u64 = 64 * MIB;
/// but the reserve is never more than this part.
const SMALL_RESERVE_DIVISOR: u64 = 8;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that processes without privileges may still write.
    pub free_bytes: u64,
    /// Bytes it has in all.
    pub total_bytes: u64,
}

impl Space {
    /// Of the file system that `dir` is on. One system call, which may take its time on a network file system.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn of(dir: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Self {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

/// How a node divides a file system: small disks get small memtables, tables and segments, because the room that has to stay
/// free is a multiple of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPlan {
    /// Bytes of changes gathered in memory before they become a table.
    pub memtable_bytes: u64,
    /// Size of a table that a compaction writes.
    pub table_bytes: u64,
    /// Size that a segment of the log is allocated with.
    pub segment_bytes: u64,
    /// Log kept behind its end, where no setting says otherwise.
    pub log_retain: u64,
    /// Log after which state is made durable, where no setting says otherwise.
    pub snapshot_after: u64,
    /// Free bytes below which values are refused, where no setting says otherwise.
    pub reserve: u64,
}

impl DiskPlan {
    /// For a file system of so many bytes.
    pub fn for_disk(total_bytes: u64) -> Self {
        let memtable_bytes = (total_bytes / MEMTABLE_DIVISOR).clamp(SMALLEST_MEMTABLE, LARGEST_MEMTABLE);
        let segment_bytes = (total_bytes / SEGMENT_DIVISOR).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT);
        let log = (total_bytes / LOG_DIVISOR).clamp(SMALLEST_LOG, LARGEST_LOG);
        Self {
            memtable_bytes,
            table_bytes: TABLE_MEMTABLES * memtable_bytes,
            segment_bytes,
            log_retain: log,
            snapshot_after: log,
            reserve: (total_bytes / RESERVE_DIVISOR)
                .min(LARGEST_RESERVE)
                .max(SMALLEST_RESERVE.min(total_bytes / SMALL_RESERVE_DIVISOR)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_is_divided_as_before_there_was_a_plan() {
        let plan = DiskPlan::for_disk(1024 * 1024 * MIB);
        assert_eq!((plan.memtable_bytes, plan.table_bytes), (32 * MIB, 64 * MIB));
        assert_eq!((plan.segment_bytes, plan.log_retain, plan.snapshot_after), (16 * MIB, 64 * MIB, 64 * MIB));
        assert_eq!(plan.reserve, 512 * MIB);
    }

    #[test]
    fn no_disk_that_is_not_small_keeps_more_than_a_twentieth_free() {
        let reserve = |mib| DiskPlan::for_disk(mib * MIB).reserve;
        for mib in [1_280, 2_000, 4_000, 10_240, 1 << 20] {
            assert_eq!(reserve(mib), (mib * MIB / 20).min(512 * MIB), "{mib} MiB");
        }
        assert_eq!([64, 128, 512, 1_000].map(reserve), [8 * MIB, 16 * MIB, 64 * MIB, 64 * MIB]);
    }

    #[test]
    fn there_is_room_beside_the_reserve_and_the_log() {
        for mib in [128, 200, 300, 500, 1_000, 4_000, 8_192, 1 << 20] {
            let plan = DiskPlan::for_disk(mib * MIB);
            let log = plan.log_retain + plan.snapshot_after + 2 * plan.segment_bytes;
            assert!(plan.reserve + log < mib * MIB / 2, "{mib} MiB: {plan:?}");
            // What is in memory at most, and the small steps of a compaction.
            assert!(plan.reserve >= 8 * plan.memtable_bytes, "{mib} MiB: {plan:?}");
        }
    }

    #[test]
    fn a_file_system_says_what_it_has() {
        let dir = tempfile::tempdir().expect("directory");
        let space = Space::of(dir.path()).expect("told");
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
        assert!(Space::of(&dir.path().join("missing")).is_err());
    }
}
