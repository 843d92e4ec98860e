//! The log in memory: what callers see, and what is durable of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bounds::Bounds;
use super::cache::Cache;
use super::disk::DiskState;
use super::record::{Ballot, Position};
use super::segment::Segment;

/// The log in memory. Callers' changes take effect here at once, and in `disk` when they are durable.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ballot: Option<Ballot>,
    pub(super) committed: Option<Position>,
    pub(super) bounds: Bounds,
    pub(super) cache: Cache,
    pub(super) disk: DiskState,
    /// By ordinal; the last one is being written.
    pub(super) segments: BTreeMap<u32, Arc<Segment>>,
    /// Number of the last operation made.
    pub(super) operations: u64,
    /// Number of the last operation that is durable.
    pub(super) durable: u64,
}

impl State {
    /// The state right after recovery: what callers see is what is durable.
    pub(super) fn new(disk: DiskState, segments: Vec<Arc<Segment>>) -> Self {
        Self {
            ballot: disk.ballot,
            committed: disk.committed,
            bounds: disk.bounds,
            cache: Cache::default(),
            disk,
            segments: segments.into_iter().map(|segment| (segment.ordinal, segment)).collect(),
            operations: 0,
            durable: 0,
        }
    }

    /// Index after the last entry that is durable together with all before it.
    pub(super) fn durable_next(&self) -> u64 {
        self.cache.first_after(self.durable).unwrap_or(self.bounds.next)
    }

    /// Bytes of the durable frames.
    pub(super) fn log_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.used()).sum()
    }

    /// Takes out the segments that hold no entry any more, oldest first, never the one being written.
    ///
    /// Right only once the purge is durable: `disk` says so.
    pub(super) fn take_unneeded(&mut self) -> Vec<Arc<Segment>> {
        let Some(active) = self.segments.keys().next_back().copied() else {
            return Vec::new();
        };
        let keep = self.disk.oldest_segment().map_or(active, |oldest| oldest.min(active));
        let kept = self.segments.split_off(&keep);
        std::mem::replace(&mut self.segments, kept).into_values().collect()
    }
}
