//! The log as a start reads it: segments, frames, records.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;

#[path = "../../sidecar/src/wal/bounds.rs"]
mod bounds;
#[path = "../../sidecar/src/wal/directory.rs"]
mod directory;
#[path = "../../sidecar/src/wal/disk.rs"]
mod disk;
#[path = "../../sidecar/src/wal/error.rs"]
mod error;
#[path = "../../sidecar/src/wal/frame.rs"]
mod frame;
#[path = "../../sidecar/src/wal/record.rs"]
mod record;
#[path = "../../sidecar/src/wal/recovery.rs"]
mod recovery;
#[path = "../../sidecar/src/wal/segment.rs"]
mod segment;

use disk::DiskState;
use error::WalError;
use record::{Checkpoint, Entry};
use recovery::Recovered;

/// Most segments of an input.
const SEGMENTS: usize = 4;
/// The id of a log that was mended.
const LOG: u64 = 0x1234_5678_9abc_def0;
/// The smallest that the log allows: repairing allocates it.
const SEGMENT_BYTES: u64 = 512;
/// Bytes before and after a frame's payload, and before a record's body, by the description of the format.
const FRAME_HEADER: usize = 44;
const FRAME_TRAILER: &[u8; 8] = b"RKf-end.";
const RECORD_HEADER: usize = 12;
const SECTOR: usize = 512;

/// A directory of this process. In memory, where the machine has such a place.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let base = std::env::var_os("RAFTKV_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    base.join(format!("raftkv-fuzz-{}", std::process::id()))
});

/// The segments of an input: each has its length before it, two bytes, the lowest first.
pub fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    while segments.len() < SEGMENTS
        && let Some((len, rest)) = bytes.split_first_chunk::<2>()
    {
        let (segment, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        segments.push(segment.to_vec());
        bytes = rest;
    }
    segments
}

/// Gives segments the numbers and checksums that make one log of them, written by the description of the format and not by
/// the code under test. What the records say stays as it is.
pub fn mend(segments: &mut [Vec<u8>]) {
    let mut sequence = match segments.first() {
        Some(first) if first.len() >= segment::HEADER => u64_at(first, 24) % 1000,
        _ => return,
    };
    for file in segments.iter_mut().filter(|file| file.len() >= segment::HEADER) {
        let first = sequence;
        file[..8].copy_from_slice(b"RaftKVWL");
        file[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        file[16..24].copy_from_slice(&LOG.to_le_bytes());
        file[24..32].copy_from_slice(&first.to_le_bytes());
        let crc = crc32c::crc32c(&file[..32]);
        file[32..36].copy_from_slice(&crc.to_le_bytes());
        file[36..40].copy_from_slice(b"seg.");
        let mut at = segment::HEADER;
        while file.len() >= at + FRAME_HEADER + FRAME_TRAILER.len() && file[at..at + 4] != [0; 4] {
            // A length that does not fit becomes one that does: the frame ends with the file.
            let room = file.len() - at - FRAME_HEADER - FRAME_TRAILER.len();
            let len = (u32_at(file, at + 8) as usize).min(room);
            mend_records(&mut file[at + FRAME_HEADER..at + FRAME_HEADER + len]);
            mend_frame(file, at, len, first, sequence);
            sequence += 1;
            at += FRAME_HEADER + len + FRAME_TRAILER.len();
        }
    }
}

fn mend_records(payload: &mut [u8]) {
    let mut at = 0;
    while payload.len() >= at + RECORD_HEADER {
        let len = (u32_at(payload, at + 4) as usize).min(payload.len() - at - RECORD_HEADER);
        payload[at + 4..at + 8].copy_from_slice(&(len as u32).to_le_bytes());
        let body = at + RECORD_HEADER..at + RECORD_HEADER + len;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&payload[at..at + 8]), &payload[body.clone()]);
        payload[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        at = body.end;
    }
}

fn mend_frame(file: &mut [u8], at: usize, len: usize, segment: u64, sequence: u64) {
    let payload = at + FRAME_HEADER..at + FRAME_HEADER + len;
    let sectors = payload.start.div_ceil(SECTOR)..payload.end / SECTOR;
    let zero_sectors = sectors.filter(|n| file[n * SECTOR..(n + 1) * SECTOR].iter().all(|&byte| byte == 0)).count();
    let payload_crc = crc32c::crc32c(&file[payload.clone()]);
    let mut header = [0; FRAME_HEADER];
    header[..8].copy_from_slice(b"RKfr\x01\0\0\0");
    header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(zero_sectors as u32).to_le_bytes());
    header[16..24].copy_from_slice(&segment.to_le_bytes());
    header[24..32].copy_from_slice(&sequence.to_le_bytes());
    header[32..36].copy_from_slice(&(at as u32).to_le_bytes());
    header[36..40].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&LOG.to_le_bytes()), &header[..40]);
    header[40..].copy_from_slice(&crc.to_le_bytes());
    file[at..at + FRAME_HEADER].copy_from_slice(&header);
    file[payload.end..payload.end + FRAME_TRAILER.len()].copy_from_slice(FRAME_TRAILER);
}

/// Recovers a log of these segments, and says whether it was found good. Reading changes nothing; every entry that is
/// promised is there; a repaired log is the same log, and whole.
pub fn recover(segments: &[Vec<u8>]) -> bool {
    let dir = &*DIRECTORY;
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).expect("make the directory");
    for file in segments {
        let first = if file.len() >= 32 { u64_at(file, 24) } else { u64::MAX };
        std::fs::write(dir.join(segment::file_name(first)), file).expect("write a segment");
    }
    let before = contents(dir);
    let found = recovery::read(dir, None);
    assert!(contents(dir) == before, "reading changed the log");
    let Ok(Some(mut recovered)) = found else { return false };

    entries_are_there(&recovered);
    let (log, state, sequence) = facts(&recovered);
    let opened = directory::LogDir::open(dir).expect("the directory is there");
    recovered.repair(&opened, SEGMENT_BYTES).expect("a log that was read is repaired");
    drop(recovered);
    let again = recovery::read(dir, Some(log)).expect("a repaired log is read").expect("a repaired log is there");
    assert_eq!(again.report.torn, None, "a repaired log is whole");
    assert_eq!(facts(&again), (log, state, sequence), "a repaired log is another log");
    entries_are_there(&again);
    true
}

fn facts(recovered: &Recovered) -> (u64, Checkpoint, u64) {
    (recovered.log, recovered.state.checkpoint(), recovered.next_sequence)
}

fn entries_are_there(recovered: &Recovered) {
    let state: &DiskState = &recovered.state;
    let bytes: u64 = recovered.segments.iter().map(|segment| segment.capacity).sum();
    assert!(state.bounds.start <= state.bounds.next, "the log ends before it begins");
    assert!(
        state.bounds.next - state.bounds.start <= bytes / RECORD_HEADER as u64,
        "more entries than there is room for"
    );
    for index in state.bounds.start..state.bounds.next {
        let location = state.location(index).expect("an entry of the log has a place");
        let segment = &recovered.segments[location.segment as usize];
        let file = std::fs::read(&segment.path).expect("read a segment");
        let record = &file[location.offset as usize..(location.offset + location.len) as usize];
        let entry = Entry::decode(&Bytes::copy_from_slice(record), location.crc).expect("an entry is what was written");
        assert_eq!(entry.position.index, index, "another entry is where this one should be");
        let mut encoded = Vec::new();
        entry.encode(&mut encoded);
        // Two bytes of a record's header mean nothing yet, and are written as zeros.
        assert!(encoded == record || record[2..4] != [0, 0], "an entry is written in another way than it was read");
    }
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("list the directory")
        .map(|item| item.expect("list the directory").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("read a segment")))
        .collect();
    files.sort();
    files
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
