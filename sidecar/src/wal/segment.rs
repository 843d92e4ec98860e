//! A segment: one preallocated file of the log.
//!
//! ```text
//! magic, 8 bytes | version u32 | 0 u32 | log id u64 | first frame's sequence u64 | crc32c u32 | end mark, 4 bytes
//! ```
//!
//! The header is durable before the file gets its name, so a named file without one is damaged, never "just made".

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use raftkv_runtime::failpoint;
use rustix::fs::{FallocateFlags, fallocate};

use super::WalError;
use super::directory::LogDir;
use super::frame;

/// The segment format's version.
pub(super) const VERSION: u32 = 1;
/// Bytes before the first frame.
pub(super) const HEADER: usize = 40;
/// The name a segment has until its header is durable.
pub(super) const PREPARED: &str = "prepared.tmp";

const MAGIC: [u8; 8] = *b"RaftKVWL";
const END_MARK: [u8; 4] = *b"seg.";

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number in this process, counted up from the oldest at the start: a short name for the index.
    pub(super) ordinal: u32,
    /// The sequence number of its first frame; names the file.
    pub(super) first_sequence: u64,
    /// Its path.
    pub(super) path: PathBuf,
    /// Open for reading and writing. A reader may still hold it after the file was removed.
    pub(super) file: File,
    /// Bytes it is preallocated with.
    pub(super) capacity: u64,
    used: AtomicU64,
}

impl Segment {
    pub(super) fn new(ordinal: u32, first_sequence: u64, path: PathBuf, file: File, capacity: u64, used: u64) -> Self {
        let used = AtomicU64::new(used);
        Self { ordinal, first_sequence, path, file, capacity, used }
    }

    /// Bytes used by frames that are durable, with the header.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn set_used(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The log's random id.
    pub(super) log: u64,
    /// The sequence number of the first frame.
    pub(super) first_sequence: u64,
}

/// What was found where a segment's header should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundHeader {
    Valid(SegmentHeader),
    /// Cut short, or zero from somewhere inside the header to the end of the file.
    CutShort,
    Version(u32),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0_u8; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes[36..].copy_from_slice(&END_MARK);
        bytes
    }

    pub(super) fn inspect(file: &[u8]) -> FoundHeader {
        let Some(bytes) = file.first_chunk::<HEADER>() else {
            return FoundHeader::CutShort;
        };
        if frame::is_zero(&file[HEADER - 1..]) {
            return FoundHeader::CutShort;
        }
        let crc = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        if bytes[..8] != MAGIC || bytes[36..] != END_MARK || crc32c::crc32c(&bytes[..32]) != crc {
            return FoundHeader::Damaged;
        }
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if version != VERSION {
            return FoundHeader::Version(version);
        }
        let mut log = [0; 8];
        log.copy_from_slice(&bytes[16..24]);
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[24..32]);
        FoundHeader::Valid(Self { log: u64::from_le_bytes(log), first_sequence: u64::from_le_bytes(first) })
    }
}

/// The file name of the segment whose first frame is `first_sequence`. Names sort as the segments do.
pub(super) fn file_name(first_sequence: u64) -> String {
    format!("log-{first_sequence:020}.wal")
}

/// The sequence number in a segment's file name; `None` for any other file.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".wal")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Zeros are written and made durable in such steps, for a frame's fsync may have to wait for one.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Makes a file of `capacity` zeros under the temporary name. Its space is allocated and durable, so that an fsync of
/// a frame need not change the file's size.
///
/// The zeros are written as long as `goes_on` says so, from the start of the file. An fsync of a frame over them has nothing to do
/// but the frame, where over space that is only allocated it changes the file system's notes of what was written, too: a quarter
/// to a third shorter (measured on ext4, with and without other writers). It costs as many bytes again on the disk, ahead of time,
/// and on a file system that never overwrites in place (btrfs, ZFS) it gains nothing.
///
/// On an error nothing is left of it: a full disk may have given a part of the space.
pub(super) fn prepare(dir: &Path, capacity: u64, goes_on: impl Fn() -> bool) -> Result<File, WalError> {
    let path = dir.join(PREPARED);
    fill(&path, capacity, goes_on).inspect_err(|_| {
        // The error that is told is the first.
        let _ = std::fs::remove_file(&path);
    })
}

fn fill(path: &Path, capacity: u64, goes_on: impl Fn() -> bool) -> Result<File, WalError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|error| WalError::io("create", path, error))?;
    allocate(&file, 0, capacity).map_err(|error| WalError::io("allocate space for", path, error))?;
    let mut written = 0;
    while written < capacity && goes_on() {
        let zeros = &ZEROS[..(capacity - written).min(ZEROS.len() as u64) as usize];
        file.write_all_at(zeros, written)
            .and_then(|()| file.sync_data())
            .map_err(|error| WalError::io("write zeros to", path, error))?;
        written += zeros.len() as u64;
    }
    file.sync_all().map_err(|error| WalError::io("fsync", path, error))?;
    Ok(file)
}

/// Gives a prepared file its header and its name, both durable.
pub(super) fn publish(dir: &LogDir, file: &File, header: SegmentHeader) -> Result<PathBuf, WalError> {
    let prepared = dir.path().join(PREPARED);
    let path = dir.path().join(file_name(header.first_sequence));
    file.write_all_at(&header.encode(), 0).map_err(|error| WalError::io("write", &prepared, error))?;
    file.sync_data().map_err(|error| WalError::io("fsync", &prepared, error))?;
    failpoint!("sidecar::wal::before_segment_named");
    std::fs::rename(&prepared, &path).map_err(|error| WalError::io("rename", &prepared, error))?;
    dir.sync()?;
    Ok(path)
}

/// Makes the file at least `from + len` bytes long, the new ones zero and allocated.
pub(super) fn allocate(file: &File, from: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, len) {
        Ok(()) => Ok(()),
        // Some file systems cannot allocate ahead: correct all the same, only slower.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let size = file.metadata()?.len();
            if size < from + len { file.set_len(from + len) } else { Ok(()) }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_flipped_bits_are_damage() {
        let header = SegmentHeader { log: 77, first_sequence: 12 };
        let mut file = header.encode().to_vec();
        file.extend_from_slice(&[0; 100]);
        assert_eq!(SegmentHeader::inspect(&file), FoundHeader::Valid(header));
        for bit in 0..HEADER * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::inspect(&file), FoundHeader::Damaged, "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..HEADER {
            assert_eq!(SegmentHeader::inspect(&file[..cut]), FoundHeader::CutShort, "cut at {cut}");
            let mut zeroed = file.clone();
            zeroed[cut..].fill(0);
            assert_eq!(SegmentHeader::inspect(&zeroed), FoundHeader::CutShort, "zeros from {cut}");
        }
    }

    #[test]
    fn names_are_parsed_back() {
        assert_eq!(parse_file_name(&file_name(42)), Some(42));
        assert_eq!(parse_file_name("log-42.wal"), None);
        assert_eq!(parse_file_name("prepared.tmp"), None);
    }

    #[test]
    fn zeros_are_left_out_once_the_file_is_wanted_and_its_space_is_there_all_the_same() {
        let dir = tempfile::tempdir().expect("directory");
        let capacity = 8 * ZEROS.len() as u64 + 10;
        for wanted_after in [0, 3, usize::MAX] {
            let steps = std::cell::Cell::new(0);
            let file =
                prepare(dir.path(), capacity, || steps.replace(steps.get() + 1) < wanted_after).expect("prepared");
            // One question for each step, and one that is answered with no, or else as many as there are zeros.
            assert_eq!(steps.get(), wanted_after.saturating_add(1).min(9));
            let bytes = std::fs::read(dir.path().join(PREPARED)).expect("read");
            assert!(bytes.len() as u64 == capacity && frame::is_zero(&bytes));
            assert_eq!(file.metadata().expect("metadata").len(), capacity);
        }
    }
}
