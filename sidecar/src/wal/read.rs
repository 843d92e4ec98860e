//! Reading entries: decided under the lock, done without it.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::WalError;
use super::disk::Location;
use super::record::Entry;
use super::segment::Segment;
use super::state::State;

/// Neighbours this near are read with one system call; frames' headers and small other records lie between them.
const GAP: u32 = 4096;
/// And at most this much at once.
const SPAN: u32 = 1024 * 1024;

/// How much a read may return.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// At most so many entries.
    pub entries: usize,
    /// At most so many bytes, but always one entry.
    pub bytes: usize,
}

impl ReadLimit {
    /// No limit.
    pub const NONE: Self = Self { entries: usize::MAX, bytes: usize::MAX };
}

/// Entries to read, as the log was when this was made: what is truncated or purged later does not change it.
#[derive(Debug)]
pub struct ReadPlan {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Cached(Entry),
    Missing(u64),
    Stored { index: u64, location: Location, segment: Arc<Segment> },
}

impl ReadPlan {
    pub(super) fn new(state: &State, range: Range<u64>, limit: ReadLimit) -> Self {
        let range = range.start.max(state.bounds.start)..range.end.min(state.bounds.next);
        let mut steps = Vec::new();
        let mut bytes = 0_usize;
        for index in range {
            let (step, size) = if let Some(entry) = state.cache.get(index) {
                (Step::Cached(entry.clone()), entry.data.len())
            } else if let Some(location) = state.disk.location(index)
                && let Some(segment) = state.segments.get(&location.segment)
            {
                let segment = Arc::clone(segment);
                let step = Step::Stored { index, location, segment };
                (step, location.len as usize)
            } else {
                // Every entry within the bounds is in memory or durable. A hole must never pass for the log's end.
                (Step::Missing(index), 0)
            };
            bytes = bytes.saturating_add(size);
            if !steps.is_empty() && (bytes > limit.bytes || steps.len() >= limit.entries) {
                break;
            }
            steps.push(step);
        }
        Self { steps }
    }

    /// Whether [`load`](Self::load) needs no disk, and so does not block.
    pub fn is_cached(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Cached(_)))
    }

    /// How many entries it will give.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Reads the entries. Blocks for those on disk.
    ///
    /// # Errors
    ///
    /// When an entry on disk is not what was written; it is never returned.
    pub fn load(self) -> Result<Vec<Entry>, WalError> {
        let mut entries = Vec::with_capacity(self.steps.len());
        let mut run = Vec::new();
        for step in self.steps {
            match step {
                Step::Cached(entry) => {
                    load_run(&mut run, &mut entries)?;
                    entries.push(entry);
                }
                Step::Missing(index) => return Err(WalError::Missing { index }),
                Step::Stored { index, location, segment } => {
                    if run.first().is_some_and(|first: &Stored| !first.is_near(&run, &segment, location)) {
                        load_run(&mut run, &mut entries)?;
                    }
                    run.push(Stored { index, location, segment });
                }
            }
        }
        load_run(&mut run, &mut entries)?;
        Ok(entries)
    }
}

struct Stored {
    index: u64,
    location: Location,
    segment: Arc<Segment>,
}

impl Stored {
    fn end(&self) -> u32 {
        self.location.offset + self.location.len
    }

    fn is_near(&self, run: &[Self], segment: &Arc<Segment>, location: Location) -> bool {
        Arc::ptr_eq(&self.segment, segment)
            && run.last().is_some_and(|last| {
                location.offset >= last.end()
                    && location.offset - last.end() <= GAP
                    && location.offset + location.len - self.location.offset <= SPAN
            })
    }
}

/// Reads `run`, which lies close together in one segment.
fn load_run(run: &mut Vec<Stored>, entries: &mut Vec<Entry>) -> Result<(), WalError> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else {
        return Ok(());
    };
    let start = first.location.offset;
    let mut span = vec![0; (last.end() - start) as usize];
    first
        .segment
        .file
        .read_exact_at(&mut span, start.into())
        .map_err(|error| WalError::io("read", &first.segment.path, error))?;
    let span = Bytes::from(span);
    for stored in run.drain(..) {
        let at = (stored.location.offset - start) as usize;
        let record = span.slice(at..at + stored.location.len as usize);
        let damaged =
            |what: &str| WalError::damaged(&stored.segment.path, stored.location.offset.into(), what.to_owned());
        let entry = Entry::decode(&record, stored.location.crc).map_err(damaged)?;
        if entry.position.index != stored.index {
            return Err(damaged("another entry is where this one should be"));
        }
        entries.push(entry);
    }
    Ok(())
}
