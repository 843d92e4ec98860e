//! Snapshots: the whole state as a stream of parts, out of one store and into another.
//!
//! A stream is a header, frames, a trailer. Both directions need the memory of a few frames, whatever the state's size.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use fjall::{PersistMode, Slice};
use raftkv_proto::SPOKEN;
use raftkv_runtime::disk::{DiskPlan, Space};
use raftkv_runtime::failpoint;

use super::brake::Kept;
use super::compactor::settle;
use super::directory::sync_directory;
use super::frame::{FrameReader, FrameWriter};
use super::generation::Generation;
use super::meta::Meta;
use super::read::{Tally, View};
use super::shared::Shared;
use super::staged::Staged;
use super::{Position, StoreError, layout};

/// The block cache while a snapshot is written into a new generation: nothing is read from it.
const STAGING_CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// What a snapshot begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster version of the state, which names the format of what follows. One that this program does not speak is refused.
    pub format: u32,
    /// Which state it is.
    pub position: Position,
    /// For progress only.
    pub estimated_bytes: u64,
}

/// What a snapshot consists of, in this order: frames, one trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Some records.
    Frame(Bytes),
    /// That was all.
    Trailer {
        /// Records in all frames.
        records: u64,
        /// CRC-32C over the uncompressed frames.
        crc32c: u32,
    },
}

/// The parts of a snapshot of one moment, which is flushed for it. What is applied meanwhile does not show.
pub struct SnapshotReader {
    header: SnapshotHeader,
    records: Box<dyn Iterator<Item = Result<(Slice, Slice), StoreError>> + Send>,
    frames: FrameWriter,
    is_done: bool,
    shared: Arc<Shared>,
    generation: u64,
    // Keeps the generation's files until the stream is done.
    _view: View,
}

impl SnapshotReader {
    /// Of what was flushed of `generation`.
    pub(super) fn new(shared: Arc<Shared>, generation: &Generation, view: View) -> Self {
        let mut meta = view.meta().clone();
        // The number of batches is this node's own; without it, equal states give equal streams.
        meta.batch = 0;
        let mut frames = FrameWriter::default();
        frames.push(&layout::META_KEY, &meta.seal());
        let header = SnapshotHeader {
            format: meta.version,
            position: meta.position,
            estimated_bytes: generation.keyspace.disk_space(),
        };
        let records = Box::new(view.records());
        Self { header, records, frames, is_done: false, shared, generation: generation.number, _view: view }
    }

    /// What to send first.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    fn next_part(&mut self) -> Result<SnapshotPart, StoreError> {
        failpoint!("engine::snapshot::send_part");
        while !self.frames.is_full() {
            let Some(item) = self.records.next() else { break };
            let (key, record) = item?;
            // A damaged record must not travel.
            super::record::check(&key, &record)?;
            self.frames.push(&key, &record);
        }
        if let Some(frame) = self.frames.take() {
            return Ok(SnapshotPart::Frame(frame));
        }
        self.is_done = true;
        Ok(SnapshotPart::Trailer { records: self.frames.records, crc32c: self.frames.crc32c })
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<SnapshotPart, StoreError>;

    /// Blocks on the disk. Ends after the trailer or an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let part = self.next_part().inspect_err(|error| self.shared.noticed(self.generation, error));
        self.is_done |= part.is_err();
        Some(part)
    }
}

/// Receives a snapshot into a generation of its own and makes it durable; returns its token, which is good until another one
/// is staged, also after a restart. `next` gives the parts, `None` when the stream has ended. On any error nothing is left
/// behind.
pub(super) fn stage(
    shared: &Shared,
    header: &SnapshotHeader,
    next: impl FnMut() -> Option<SnapshotPart>,
) -> Result<u64, StoreError> {
    if !SPOKEN.contains(header.format) {
        return Err(StoreError::SnapshotRefused(format!(
            "it has the cluster version {}; this program speaks {SPOKEN}",
            header.format
        )));
    }
    let _one_at_a_time = shared.staging.lock().unwrap_or_else(PoisonError::into_inner);
    // Before one is replaced: its token must not come to mean another snapshot.
    let token = shared.directory.next_number()?;
    let mut slot = shared.staged.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(replaced) = slot.take() {
        tracing::info!(generation = replaced.token, "a staged snapshot makes room for another one");
        remove(shared, replaced.token);
    }
    // Not held while receiving: activating must not wait for a sender.
    drop(slot);
    let next_index = header.position.next_index;
    let result = receive(&shared.directory.generation(token), shared.directory.root(), header, next)
        .and_then(|()| sync_directory(shared.directory.root()))
        .and_then(|()| {
            failpoint!("engine::snapshot::before_mark");
            shared.directory.mark_staged(token, next_index)
        });
    if let Err(error) = result {
        remove(shared, token);
        return Err(error);
    }
    failpoint!("engine::snapshot::staged");
    *shared.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(Staged::received(token, next_index));
    Ok(token)
}

fn remove(shared: &Shared, token: u64) {
    if let Err(error) = shared.directory.remove(token) {
        // The next start tries again.
        tracing::warn!(generation = token, %error, "could not remove a staged generation");
    }
}

/// A part, its own checksum verified.
enum Next {
    Frame(FrameReader),
    Trailer { records: u64, crc32c: u32 },
}

/// Whether the disk of `root` has room for so many bytes, and for the state that is live to go on meanwhile.
fn check_room(root: &Path, bytes: u64) -> Result<(), StoreError> {
    // A file system that does not tell will say when it is full.
    let Ok(space) = Space::of(root) else { return Ok(()) };
    let needed_bytes = Kept::Eighth.bytes(&DiskPlan::for_disk(space.total_bytes)).saturating_add(bytes);
    if space.free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(StoreError::NoSpace { path: root.to_owned(), free_bytes: space.free_bytes, needed_bytes })
}

fn receive(
    path: &Path,
    root: &Path,
    header: &SnapshotHeader,
    mut next: impl FnMut() -> Option<SnapshotPart>,
) -> Result<(), StoreError> {
    let damaged = |what: &str| StoreError::SnapshotDamaged(what.to_owned());
    let open_frame = |part| match part {
        Some(SnapshotPart::Frame(frame)) => {
            FrameReader::open(&frame).map(Next::Frame).map_err(StoreError::SnapshotDamaged)
        }
        Some(SnapshotPart::Trailer { records, crc32c }) => Ok(Next::Trailer { records, crc32c }),
        None => Err(damaged("the stream ended before its trailer")),
    };
    // What is wrong from the start costs nothing.
    let mut part = open_frame(next())?;
    let (db, keyspace) = Generation::create_bare(path, STAGING_CACHE_BYTES)?;
    let mut ingestion = keyspace.start_ingestion().map_err(StoreError::Storage)?;
    let mut meta: Option<Meta> = None;
    let mut tally = Tally::default();
    let mut crc = 0;
    let mut last = Slice::empty();
    let (records, crc32c) = loop {
        failpoint!("engine::snapshot::receive_part");
        let mut frame = match part {
            Next::Frame(frame) => frame,
            Next::Trailer { records, crc32c } => break (records, crc32c),
        };
        check_room(root, frame.raw().len() as u64)?;
        crc = crc32c::crc32c_append(crc, frame.raw());
        while let Some((key, record)) = frame.next_record().map_err(StoreError::SnapshotDamaged)? {
            // Fjall panics on keys that do not rise.
            if key <= &*last {
                return Err(damaged("its keys are not in order"));
            }
            last = Slice::from(key);
            let record = if key == layout::META_KEY {
                let mut received = Meta::open(record).map_err(refused)?;
                // The chain of batches begins anew.
                received.batch = 0;
                meta.insert(received).seal()
            } else {
                tally.add(key, record).map_err(refused)?;
                Slice::from(record)
            };
            ingestion.write(last.clone(), record).map_err(StoreError::Storage)?;
        }
        part = open_frame(next())?;
    };
    if next().is_some() {
        return Err(damaged("the stream goes on after its trailer"));
    }
    let Some(meta) = meta else {
        return Err(damaged("it has no meta record"));
    };
    if records != tally.records + 1 || crc32c != crc {
        return Err(damaged("its trailer does not match what came before"));
    }
    if meta.version != header.format {
        return Err(damaged("its header names another cluster version than its content"));
    }
    if meta.position != header.position {
        return Err(damaged("its header names another position than its content"));
    }
    meta.check_bounds().map_err(refused)?;
    tally.compare(&meta).map_err(refused)?;
    failpoint!("engine::snapshot::before_durable");
    ingestion.finish().map_err(StoreError::Storage)?;
    settle(&keyspace)?;
    db.persist(PersistMode::SyncAll).map_err(StoreError::Storage)
}

/// Damage in what was received is not damage of what is here.
fn refused(error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(what) => StoreError::SnapshotDamaged(what),
        StoreError::Unsupported(what) => StoreError::SnapshotRefused(what),
        other => other,
    }
}
