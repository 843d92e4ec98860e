//! The writer's thread: turns all that waits into one frame, one write and one fsync, over and over.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use raftkv_runtime::disk::Space;
use raftkv_runtime::{failpoint, planted};

use super::WalError;
use super::directory::LogDir;
use super::disk::Location;
use super::frame::{self, Place};
use super::janitor::Janitor;
use super::log::Shared;
use super::options::{IoStep, WalOptions};
use super::queue::{Batch, Change, Operation};
use super::record::Record;
use super::segment::{self, Segment, SegmentHeader};

/// Where the next frame goes. Only this thread writes, and it has one frame under way at a time: so a frame that is on
/// disk proves the one before it durable, which recovery relies on.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: LogDir,
    pub(super) janitor: Janitor,
    pub(super) log: u64,
    pub(super) active: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) next_sequence: u64,
    pub(super) frame: Vec<u8>,
}

/// How often a full disk is asked whether it has room for a segment.
const ROOM_POLL: Duration = Duration::from_millis(200);
/// How often it is told that it has none.
const COMPLAINT: Duration = Duration::from_secs(10);
/// A larger frame holds values, and leaves to others what they are to have.
const SMALL_FRAME_BYTES: u64 = 64 * 1024;
/// Until this has passed it leaves them more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room in a segment that is made for one frame: for its checkpoint, and for some small frames behind it.
const SMALL_SEGMENT_SLACK: u64 = 64 * 1024;
/// A frame's buffer larger than this is given back after use.
const KEEP_BUFFER: usize = 8 * 1024 * 1024;

impl Writer {
    /// Writes until the queue is closed and empty, or something fails.
    pub(super) fn run(mut self) {
        while let Some(mut batch) = self.shared.queue.take(self.shared.options.frame_bytes) {
            match self.write(&batch) {
                Ok(()) => {
                    failpoint!("sidecar::wal::before_done");
                    for operation in &mut batch.operations {
                        if let Some(done) = operation.done.take() {
                            done(Ok(()));
                        }
                    }
                }
                Err(WalError::Closed) => return self.give_up(batch.operations),
                Err(error) => return self.fail(batch.operations, error),
            }
        }
    }

    /// Nothing is tried again: after a failed write or fsync it is not known what is on disk, and the kernel may have
    /// dropped the pages, so that a second fsync would succeed without having written them.
    fn fail(&self, mut operations: Vec<Operation>, error: WalError) {
        let error = Arc::new(error);
        operations.extend(self.shared.queue.poison(&error));
        (self.shared.options.fatal)(&error);
        for done in operations.into_iter().filter_map(|operation| operation.done) {
            done(Err(WalError::Poisoned(Arc::clone(&error))));
        }
    }

    /// The log was closed while it waited for room: what waits was never begun.
    fn give_up(&self, mut operations: Vec<Operation>) {
        let closed = Arc::new(WalError::Closed);
        operations.extend(self.shared.queue.poison(&closed));
        for done in operations.into_iter().filter_map(|operation| operation.done) {
            done(Err(WalError::Closed));
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WalError> {
        self.janitor.look()?;
        let mut locations = Vec::new();
        self.fill(batch, &mut locations);
        if self.frame.len() > frame::HEADER {
            self.make_room(&mut locations)?;
            self.flush(locations.len())?;
        }
        self.publish(batch, &locations)
    }

    /// Encodes the batch into the frame's buffer. Locations are relative to the frame.
    fn fill(&mut self, batch: &Batch, locations: &mut Vec<Location>) {
        if self.frame.capacity() > KEEP_BUFFER {
            self.frame = Vec::new();
        }
        self.frame.clear();
        self.frame.resize(frame::HEADER, 0);
        for operation in &batch.operations {
            match &operation.change {
                Change::Append(entries) => {
                    for entry in entries {
                        let offset = self.frame.len() as u32;
                        let crc = entry.encode(&mut self.frame);
                        let len = self.frame.len() as u32 - offset;
                        let segment = 0;
                        locations.push(Location { segment, offset, len, crc });
                    }
                }
                Change::Vote(ballot) => Record::Vote(*ballot).encode(&mut self.frame),
                Change::Truncate(after) => Record::Truncate(*after).encode(&mut self.frame),
                Change::Purge(upto) => Record::Purge(*upto).encode(&mut self.frame),
            }
        }
        if let Some(committed) = batch.committed {
            Record::Committed(committed).encode(&mut self.frame);
        }
    }

    /// Sees to it that the frame fits the active segment, else begins the next one; makes the locations absolute.
    fn make_room(&mut self, locations: &mut [Location]) -> Result<(), WalError> {
        let size = (self.frame.len() + frame::TRAILER) as u64;
        if self.offset + size > self.active.capacity && self.offset > segment::HEADER as u64 {
            self.rotate(size)?;
        } else if self.offset > self.active.capacity / 2 {
            let options = &self.shared.options;
            self.janitor.prepare_if(|| !has_less(options, options.kept_bytes));
        }
        let mut shift = self.offset as u32;
        if self.offset == segment::HEADER as u64 {
            let mut opening = vec![0; frame::HEADER];
            Record::Checkpoint(self.shared.read().disk.checkpoint()).encode(&mut opening);
            shift += (opening.len() - frame::HEADER) as u32;
            opening.extend_from_slice(&self.frame[frame::HEADER..]);
            self.frame = opening;
            self.grow()?;
        }
        for location in locations {
            location.offset += shift;
            location.segment = self.active.ordinal;
        }
        Ok(())
    }

    /// Makes a segment that is smaller than its first frame large enough, before a byte of the frame is written: a disk without
    /// room for it is waited for as in [`next_file`](Self::next_file).
    fn grow(&self) -> Result<(), WalError> {
        let needed = self.offset + (self.frame.len() + frame::TRAILER) as u64;
        if needed <= self.active.capacity {
            return Ok(());
        }
        let mut told = None;
        loop {
            match segment::allocate(&self.active.file, 0, needed) {
                Ok(()) => break,
                Err(error) => {
                    self.wait_for_room(&mut told, WalError::io("allocate space for", &self.active.path, error))?;
                }
            }
        }
        self.has_room(told.is_some());
        Ok(())
    }

    /// Begins the next segment, for a frame of `size` bytes. It is durable, header and name, before a frame goes into it.
    fn rotate(&mut self, size: u64) -> Result<(), WalError> {
        failpoint!("sidecar::wal::before_rotate");
        let (file, capacity) = self.next_file(size)?;
        let header = SegmentHeader { log: self.log, first_sequence: self.next_sequence };
        let path = segment::publish(&self.dir, &file, header)?;
        failpoint!("sidecar::wal::after_rotate");
        let segment = Arc::new(Segment::new(
            self.active.ordinal + 1,
            self.next_sequence,
            path,
            file,
            capacity,
            segment::HEADER as u64,
        ));
        self.shared.write().segments.insert(segment.ordinal, Arc::clone(&segment));
        self.active = segment;
        self.offset = segment::HEADER as u64;
        Ok(())
    }

    /// The file of the next segment, with the space that it has. A disk that is full is waited for: nothing was begun, so nothing is
    /// in doubt, and a process that ended would find the same disk at its next start. So is a shortage of file descriptors, which ends when
    /// connections do. What is said in the queue behind this frame, a
    /// purge above all, has to get through: where there is no room for a segment there may be some for this frame.
    ///
    /// A large frame leaves the last of the room to the store: it needs some to give back more, and the log can be purged of what it has
    /// flushed. Until its patience ends, a frame counts with what it takes itself, which is more than a segment where it holds many values.
    fn next_file(&mut self, size: u64) -> Result<(File, u64), WalError> {
        let begin = Instant::now();
        let mut told = None;
        loop {
            let options = &self.shared.options;
            let needed_bytes = needed_bytes(options, size, self.janitor.is_ready(), begin.elapsed() < PATIENCE);
            let result = if has_less(options, needed_bytes) {
                Err(WalError::io(
                    "leave room to the store beside",
                    &options.dir,
                    std::io::ErrorKind::StorageFull.into(),
                ))
            } else {
                self.allocated(size)
            };
            match result {
                Err(error) => {
                    self.wait_for_room(&mut told, error)?;
                    self.purge_ahead()?;
                }
                result => {
                    self.has_room(told.is_some());
                    return result;
                }
            }
        }
    }

    /// A segment, or where there is no room for one a file that is large enough for a frame of `size` bytes.
    fn allocated(&mut self, size: u64) -> Result<(File, u64), WalError> {
        let options = &self.shared.options;
        options.fault(IoStep::Rotate).map_err(|error| WalError::io("create a segment in", &options.dir, error))?;
        let segment_bytes = options.segment_bytes;
        match self.janitor.prepared() {
            Err(error) if error.is_shortage() => {
                let small = size + segment::HEADER as u64 + SMALL_SEGMENT_SLACK;
                Ok((segment::prepare(self.dir.path(), small, || false)?, small))
            }
            result => Ok((result?, segment_bytes)),
        }
    }

    /// Makes a purge durable that waits behind the frame which waits for room, for it gives some. Its record is written again in its
    /// turn, where it changes nothing: all that it names is durable, so no record between the two can add to that or take from it.
    fn purge_ahead(&mut self) -> Result<(), WalError> {
        let (purged, durable) = {
            let state = self.shared.read();
            (state.bounds.purged, state.disk.bounds)
        };
        let Some(upto) = purged.filter(|upto| (durable.start..durable.next).contains(&upto.index)) else {
            return Ok(());
        };
        let mut frame = vec![0; frame::HEADER];
        Record::Purge(upto).encode(&mut frame);
        let has_room = self.offset + (frame.len() + frame::TRAILER) as u64 <= self.active.capacity;
        // The first frame of a segment opens with a checkpoint.
        if !has_room || self.offset == segment::HEADER as u64 {
            return Ok(());
        }
        let waiting = std::mem::replace(&mut self.frame, frame);
        self.flush(0)?;
        self.frame = waiting;
        let purge = Operation { number: 0, change: Change::Purge(upto), done: None, bytes: 0 };
        self.publish(&Batch { operations: vec![purge], committed: None }, &[])
    }

    /// Pauses after `error`, if that says that the disk is full or that there is no file descriptor; else gives it back. Ends when the log is closed.
    fn wait_for_room(&self, told: &mut Option<Instant>, error: WalError) -> Result<(), WalError> {
        if !error.is_shortage() {
            return Err(error);
        }
        if self.shared.queue.refused().is_some() {
            return Err(WalError::Closed);
        }
        let lacks_descriptor = error.is_descriptor_shortage();
        if told.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            *told = Some(Instant::now());
            let lacks = if lacks_descriptor { "there is a file descriptor to spare" } else { "the disk has room" };
            tracing::warn!("nothing is written to the log until {lacks}: {error}");
        }
        self.shared.lacks_descriptor.store(lacks_descriptor, Ordering::Relaxed);
        self.shared.waits_for_room.store(true, Ordering::Relaxed);
        metrics::gauge!("raftkv_wal_waits_for_room").set(1.0);
        std::thread::sleep(ROOM_POLL);
        Ok(())
    }

    fn has_room(&self, was_waited_for: bool) {
        if was_waited_for {
            tracing::info!("there is room again: the log is written");
            self.shared.waits_for_room.store(false, Ordering::Relaxed);
            metrics::gauge!("raftkv_wal_waits_for_room").set(0.0);
        }
    }

    /// Writes the frame and makes it durable. A frame larger than its segment makes the file grow.
    fn flush(&mut self, entries: usize) -> Result<(), WalError> {
        let place = Place {
            log: self.log,
            segment: self.active.first_sequence,
            sequence: self.next_sequence,
            offset: self.offset as usize,
        };
        frame::seal(place, &mut self.frame);
        let path = &self.active.path;
        let options = &self.shared.options;
        failpoint!("sidecar::wal::before_write", |why: String| WalError::io("write", path, std::io::Error::other(why)));
        options
            .fault(IoStep::Write)
            .and_then(|()| if planted!(AckBeforeFsync) { self.active.file.sync_data() } else { Ok(()) })
            .and_then(|()| self.active.file.write_all_at(&self.frame, self.offset))
            .map_err(|error| WalError::io("write", path, error))?;
        failpoint!("sidecar::wal::after_write");
        let started = Instant::now();
        failpoint!("sidecar::wal::before_fsync", |why: String| WalError::io("fsync", path, std::io::Error::other(why)));
        options
            .fault(IoStep::Sync)
            .and_then(|()| if planted!(AckBeforeFsync) { Ok(()) } else { self.active.file.sync_data() })
            .map_err(|error| WalError::io("fsync", path, error))?;
        failpoint!("sidecar::wal::after_fsync");
        let metrics = &self.shared.metrics;
        metrics.fsync.record(started.elapsed());
        metrics.frames.increment(1);
        metrics.bytes.increment(self.frame.len() as u64);
        metrics.frame_entries.record(entries as f64);
        self.offset += self.frame.len() as u64;
        self.next_sequence += 1;
        Ok(())
    }

    /// Tells everyone what is durable now.
    fn publish(&mut self, batch: &Batch, locations: &[Location]) -> Result<(), WalError> {
        let mut guard = self.shared.write();
        let state = &mut *guard;
        let mut locations = locations.iter();
        let mut purged = false;
        for operation in &batch.operations {
            match &operation.change {
                Change::Append(entries) => {
                    for (entry, location) in entries.iter().zip(locations.by_ref()) {
                        state.disk.append(entry.position, *location)?;
                    }
                }
                Change::Vote(ballot) => state.disk.apply(Record::Vote(*ballot)),
                Change::Truncate(after) => state.disk.apply(Record::Truncate(*after)),
                Change::Purge(upto) => {
                    purged = true;
                    state.disk.apply(Record::Purge(*upto));
                }
            }
            state.durable = state.durable.max(operation.number);
        }
        if let Some(committed) = batch.committed {
            state.disk.apply(Record::Committed(committed));
        }
        self.active.set_used(self.offset);
        state.cache.evict(self.shared.options.cache_bytes, state.durable);
        let unneeded = if purged { state.take_unneeded() } else { Vec::new() };
        let bytes = state.log_bytes();
        self.shared.tell_durable(state);
        drop(guard);
        self.shared.metrics.log_bytes.set(bytes as f64);
        self.janitor.remove(unneeded);
        Ok(())
    }
}

/// What has to be free before a frame of `size` bytes begins a segment, which may be allocated already.
fn needed_bytes(options: &WalOptions, size: u64, is_allocated: bool, is_patient: bool) -> u64 {
    let allocated_bytes = if is_allocated { options.segment_bytes } else { 0 };
    let takes_bytes = size.max(options.segment_bytes) - allocated_bytes;
    if size <= SMALL_FRAME_BYTES || takes_bytes == 0 || options.kept_bytes == 0 {
        return 0;
    }
    match (is_patient, is_allocated) {
        (true, _) => options.kept_bytes.saturating_add(takes_bytes),
        (false, true) => 0,
        (false, false) => options.least_bytes,
    }
}

/// Whether less than this is free.
fn has_less(options: &WalOptions, bytes: u64) -> bool {
    bytes > 0 && Space::of(&options.dir).is_ok_and(|space| space.free_bytes < bytes)
}

impl Shared {
    pub(super) fn read(&self) -> std::sync::RwLockReadGuard<'_, super::state::State> {
        // A panic ends the process; were it caught, the state behind the lock would still be whole between operations.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> std::sync::RwLockWriteGuard<'_, super::state::State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_leaves_to_the_store_what_is_kept_beside_what_it_takes_itself() {
        const KIB: u64 = 1024;
        let kept = WalOptions {
            segment_bytes: 1_000 * KIB,
            kept_bytes: 8_000 * KIB,
            least_bytes: 4_000 * KIB,
            ..WalOptions::new("wal")
        };
        let needed_kib = |kib, is_allocated, is_patient| needed_bytes(&kept, kib * KIB, is_allocated, is_patient) / KIB;
        assert_eq!(
            [needed_kib(900, false, true), needed_kib(900, true, true)],
            [9_000, 0],
            "a segment, and one that is there"
        );
        assert_eq!(
            [needed_kib(5_000, false, true), needed_kib(5_000, true, true)],
            [13_000, 12_000],
            "more than a segment"
        );
        assert_eq!(
            [needed_kib(5_000, false, false), needed_kib(5_000, true, false)],
            [4_000, 0],
            "what waited long enough"
        );
        assert_eq!(needed_kib(64, false, true), 0, "a small frame");
        let all = WalOptions { kept_bytes: 0, ..kept };
        assert_eq!(needed_bytes(&all, 5_000 * KIB, false, true), 0, "nothing is kept");
    }
}
