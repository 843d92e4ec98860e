//! [`Space`]: how much room a file system has; [`DiskPlan`]: how a node divides it.
//!
//! Both processes of a node read the same file system and make the same plan of it, so the room that one keeps free covers the
//! work of the other.

use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// The smallest file system that a node starts on: the reserve and the log take more than half of it.
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
/// A compaction writes its result before it removes what it read. The largest one reads the flushed tables and the level below
/// them, which may hold as much as its target of [`FLUSHED_TABLES`] full tables and what the compaction before this one has added.
const COMPACTION_MEMTABLES: u64 = FLUSHED_TABLES as u64 * (1 + TABLE_MEMTABLES + 1);
/// One more flush, and one more compaction of a deeper level beside it: each reads one table and what it overlaps.
const BESIDE_MEMTABLES: u64 = FLUSHED_TABLES as u64;

/// A segment of the log is this part of the file system, and at most [`LARGEST_SEGMENT`].
const SEGMENT_DIVISOR: u64 = 256;
/// Large enough that a rotation (two more fsyncs) is rare, small enough that purging gives space back soon and that reading one
/// into memory at a start costs little.
const LARGEST_SEGMENT: u64 = 16 * MIB;
/// Smaller ones would be rotated by every large value.
const SMALLEST_SEGMENT: u64 = MIB;
/// What the log may grow by while values are refused, in segments: the one being written, the one made ahead, and deletes until
/// the log is purged.
const RESERVED_SEGMENTS: u64 = 4;

/// The log that is kept for members that come back, and the log after which state is made durable, are this part of the file
/// system each, and at most [`LARGEST_LOG`].
const LOG_DIVISOR: u64 = 32;
/// Minutes of writes for a member that was away; beyond it a snapshot is cheaper. And a restart replays at most about this much.
const LARGEST_LOG: u64 = 64 * MIB;
/// Less would ask for a flush with every few values.
const SMALLEST_LOG: u64 = 8 * MIB;

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
    /// Free bytes below which values are refused, where no setting says otherwise. What is in memory and not yet written is not
    /// in it: that is counted as it is.
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
            reserve: (COMPACTION_MEMTABLES + BESIDE_MEMTABLES) * memtable_bytes + RESERVED_SEGMENTS * segment_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_keeps_what_the_largest_compaction_and_the_log_may_need() {
        let plan = DiskPlan::for_disk(1024 * 1024 * MIB);
        assert_eq!((plan.memtable_bytes, plan.table_bytes), (32 * MIB, 64 * MIB));
        assert_eq!((plan.segment_bytes, plan.log_retain, plan.snapshot_after), (16 * MIB, 64 * MIB, 64 * MIB));
        // The flushed tables, the level below them when it is as large as it gets, a deeper compaction beside it, four segments.
        assert_eq!(plan.reserve, (8 * 32 + 8 * 64 + 8 * 32 + 8 * 32 + 4 * 16) * MIB);
    }

    #[test]
    fn on_every_disk_that_is_taken_there_is_room_beside_the_reserve_and_the_log() {
        for mib in [128, 200, 300, 500, 1_000, 4_000, 8_192, 1 << 20] {
            let plan = DiskPlan::for_disk(mib * MIB);
            let log = plan.log_retain + plan.snapshot_after + 2 * plan.segment_bytes;
            assert!(plan.reserve + log < mib * MIB * 9 / 10, "{mib} MiB: {plan:?}");
            assert!(mib < 300 || plan.reserve + log < mib * MIB / 2, "{mib} MiB: {plan:?}");
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
