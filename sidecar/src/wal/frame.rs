//! A frame: the unit of one write and one fsync.
//!
//! ```text
//! magic u32 | version u8 | 0 u8 u16 | payload length u32 | zero sectors u32 | segment u64 | sequence u64
//!   | offset in the file u32 | payload crc32c u32 | header crc32c u32 | payload | trailer, 8 bytes
//! ```
//!
//! The header's checksum is seeded with the log's random id and covers the frame's place, so that no value a client
//! stores, and no frame of another log, can be taken for a frame of this one. The bytes of magic and trailer have two bits or
//! more each: where a crash or zeros cut one short, it is more than one flipped bit away from what it was.
//!
//! `zero sectors` counts the 512-byte sectors of the payload that are zero as written: a sector that a crash kept from
//! the disk reads as zeros, and must be told apart from zeros that belong there.

use std::ops::Range;

/// The frame format's version.
pub(super) const VERSION: u8 = 1;
/// Bytes before the payload.
pub(super) const HEADER: usize = 44;
/// Bytes after the payload.
pub(super) const TRAILER: usize = TRAILER_MAGIC.len();

const MAGIC: [u8; 4] = *b"RKfr";
const TRAILER_MAGIC: [u8; 8] = *b"RKf-end.";
const SECTOR: usize = 512;

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The log's random id.
    pub(super) log: u64,
    /// The segment: the sequence number of its first frame.
    pub(super) segment: u64,
    /// The frame's sequence number.
    pub(super) sequence: u64,
    /// Its offset in the segment's file.
    pub(super) offset: usize,
}

/// What was found where a frame should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole frame: where its payload is, and where the next frame begins.
    Whole { payload: Range<usize>, end: usize },
    /// Nothing but zeros up to the end of the file.
    Nothing,
    /// A frame that may have been cut short by a crash, unless a later one proves that it was durable.
    Torn(&'static str),
    /// A frame that was durable and is not what was written.
    Damaged(&'static str),
    /// A frame of another format.
    Version(u8),
}

/// Turns `frame`, which holds [`HEADER`] bytes of room and then the payload, into a frame for `place`.
pub(super) fn seal(place: Place, frame: &mut Vec<u8>) {
    let payload = &frame[HEADER..];
    let header = Header {
        version: VERSION,
        // The caller keeps frames and segments within the format's 32 bits.
        payload_len: payload.len() as u32,
        zero_sectors: zero_sectors(payload, place.offset + HEADER) as u32,
        segment: place.segment,
        sequence: place.sequence,
        offset: place.offset as u32,
        payload_crc: crc32c::crc32c(payload),
    };
    let header = header.encode(place.log);
    frame[..HEADER].copy_from_slice(&header);
    frame.extend_from_slice(&TRAILER_MAGIC);
}

/// Says what is in `file` at `place`, the decision table of [recovery](super) but for later frames.
pub(super) fn inspect(file: &[u8], place: Place) -> Found {
    let rest = file.get(place.offset..).unwrap_or_default();
    if is_zero(rest) {
        return Found::Nothing;
    }
    let Some(header_bytes) = rest.first_chunk::<HEADER>() else {
        return Found::Torn("the file ends inside a frame's header");
    };
    let Some(header) = Header::decode(header_bytes, place.log) else {
        return match repaired(header_bytes, place) {
            // One fault is enough: the rest of the frame has to be as it was.
            Some(header) if header.is_whole(rest) => Found::Damaged("one bit of a frame's header is flipped"),
            _ => Found::Torn("no frame begins here"),
        };
    };
    if header.version != VERSION {
        return Found::Version(header.version);
    }
    if !header.belongs(place) {
        return Found::Damaged("a frame is not where it was written");
    }
    let Some((payload, trailer)) = header.parts(rest) else {
        return Found::Torn("the file ends inside a frame");
    };
    let intact_payload = crc32c::crc32c(payload) == header.payload_crc;
    match distance(trailer, &TRAILER_MAGIC) {
        0 if intact_payload => {
            let start = place.offset + HEADER;
            let payload = start..start + header.payload_len as usize;
            let end = payload.end + TRAILER;
            Found::Whole { payload, end }
        }
        0 if is_single_flip(payload, header.payload_crc) => Found::Damaged("one bit of a frame is flipped"),
        0 if zero_sectors(payload, place.offset + HEADER) > header.zero_sectors as usize => {
            Found::Torn("a sector of a frame was never written")
        }
        0 => Found::Damaged("a frame's checksum does not match"),
        1 if intact_payload => Found::Damaged("one bit of a frame's trailer is flipped"),
        _ => Found::Torn("a frame has no end"),
    }
}

/// Looks in `file` from byte `from` on for a frame of `place`'s segment that comes after it. Finding one proves that
/// the frame at `place` was durable: no frame is written before the one before it is.
pub(super) fn find_later(file: &[u8], from: usize, place: Place) -> Option<usize> {
    let mut at = from;
    while let Some(found) = file.get(at..).and_then(|rest| rest.windows(MAGIC.len()).position(|window| window == MAGIC))
    {
        let offset = at + found;
        if let Some(header) = file[offset..].first_chunk::<HEADER>().and_then(|bytes| Header::decode(bytes, place.log))
            && header.segment == place.segment
            && header.offset as usize == offset
            && header.sequence > place.sequence
        {
            return Some(offset);
        }
        at = offset + 1;
    }
    None
}

#[derive(Debug, Clone, Copy)]
struct Header {
    version: u8,
    payload_len: u32,
    zero_sectors: u32,
    segment: u64,
    sequence: u64,
    offset: u32,
    payload_crc: u32,
}

impl Header {
    fn encode(self, log: u64) -> [u8; HEADER] {
        let mut bytes = [0_u8; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version;
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.zero_sectors.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.segment.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.offset.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = header_crc(&bytes, log);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header whose magic and checksum are right.
    fn decode(bytes: &[u8; HEADER], log: u64) -> Option<Self> {
        if bytes[..4] != MAGIC || header_crc(bytes, log) != u32_at(bytes, 40) {
            return None;
        }
        Some(Self {
            version: bytes[4],
            payload_len: u32_at(bytes, 8),
            zero_sectors: u32_at(bytes, 12),
            segment: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            offset: u32_at(bytes, 32),
            payload_crc: u32_at(bytes, 36),
        })
    }

    fn belongs(&self, place: Place) -> bool {
        self.segment == place.segment && self.sequence == place.sequence && self.offset as usize == place.offset
    }

    /// Payload and trailer in `rest`, which begins with this header; `None` when `rest` ends before they do.
    fn parts<'a>(&self, rest: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let end = HEADER + self.payload_len as usize;
        Some((rest.get(HEADER..end)?, rest.get(end..end + TRAILER)?))
    }

    fn is_whole(&self, rest: &[u8]) -> bool {
        self.parts(rest)
            .is_some_and(|(payload, trailer)| trailer == TRAILER_MAGIC && crc32c::crc32c(payload) == self.payload_crc)
    }
}

/// The header one flipped bit away from `bytes` that belongs at `place`, if there is one.
fn repaired(bytes: &[u8; HEADER], place: Place) -> Option<Header> {
    (0..HEADER * 8).find_map(|bit| {
        let mut flipped = *bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        Header::decode(&flipped, place.log).filter(|header| header.version == VERSION && header.belongs(place))
    })
}

fn header_crc(bytes: &[u8; HEADER], log: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&log.to_le_bytes()), &bytes[..40])
}

/// Whether flipping one bit of `payload` would give it the checksum `crc`.
///
/// A checksum is linear: what a flipped bit changes in it depends only on how many bits follow, so all positions are
/// tried in one pass of shifts, without the bytes. (The CRC-32C of payloads below 256 MiB tells all of them apart.)
fn is_single_flip(payload: &[u8], crc: u32) -> bool {
    const REFLECTED_POLYNOMIAL: u32 = 0x82F6_3B78;
    let difference = crc32c::crc32c(payload) ^ crc;
    // What flipping the last bit sent (the highest of the last byte) changes, and then the ones before it.
    let mut effect = REFLECTED_POLYNOMIAL;
    for _ in 0..payload.len() * 8 {
        if effect == difference {
            return true;
        }
        effect = (effect >> 1) ^ if effect & 1 == 1 { REFLECTED_POLYNOMIAL } else { 0 };
    }
    false
}

/// How many of the file's sectors that lie wholly inside `payload` are zero. `at` is the payload's offset in the file.
fn zero_sectors(payload: &[u8], at: usize) -> usize {
    let skip = at.next_multiple_of(SECTOR) - at;
    payload.get(skip..).unwrap_or_default().chunks_exact(SECTOR).filter(|sector| is_zero(sector)).count()
}

/// Whether `bytes` are all zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // In chunks, so that most of what is not zero is told by its first bytes and the rest is compared in wide words.
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

fn distance(left: &[u8], right: &[u8]) -> u32 {
    left.iter().zip(right).map(|(a, b)| (a ^ b).count_ones()).sum()
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { log: 0x1234_5678_9abc_def0, segment: 5, sequence: 7, offset: 100 };

    fn file_with(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER];
        frame.extend_from_slice(payload);
        seal(PLACE, &mut frame);
        let mut file = vec![0; PLACE.offset];
        file.extend(frame);
        file.extend(vec![0; 700]);
        file
    }

    #[test]
    fn every_flipped_bit_is_damage_even_between_zeros() {
        let mut payload = vec![0; 1700];
        payload[3] = 1;
        payload[900] = 0x40;
        let mut file = file_with(&payload);
        let frame = PLACE.offset..PLACE.offset + HEADER + payload.len() + TRAILER;
        assert!(matches!(inspect(&file, PLACE), Found::Whole { end, .. } if end == frame.end));
        for bit in frame.start * 8..frame.end * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(inspect(&file, PLACE), Found::Damaged(_)), "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn unwritten_sectors_and_cuts_are_torn() {
        let payload: Vec<u8> = (0..3000_u32).map(|i| (i % 251 + 1) as u8).collect();
        let file = file_with(&payload);
        let end = PLACE.offset + HEADER + payload.len() + TRAILER;
        for sector in (PLACE.offset / SECTOR..end.div_ceil(SECTOR)).map(|n| n * SECTOR) {
            let mut torn = file.clone();
            let range = sector.max(PLACE.offset)..(sector + SECTOR).min(end);
            torn[range].fill(0);
            assert!(matches!(inspect(&torn, PLACE), Found::Torn(_)), "sector at {sector}");
        }
        for cut in PLACE.offset + 1..end {
            assert!(matches!(inspect(&file[..cut], PLACE), Found::Torn(_)), "cut at {cut}");
            let mut zeroed = file.clone();
            zeroed[cut..].fill(0);
            assert!(matches!(inspect(&zeroed, PLACE), Found::Torn(_)), "zeros from {cut}");
        }
        assert_eq!(inspect(&file[..PLACE.offset], PLACE), Found::Nothing);
    }

    #[test]
    fn more_than_a_bit_wrong_in_a_whole_frame_is_damage() {
        let mut file = file_with(&[7; 600]);
        file[PLACE.offset + HEADER + 10] ^= 0x55;
        assert!(matches!(inspect(&file, PLACE), Found::Damaged(_)));
    }

    #[test]
    fn a_later_frame_is_found_and_a_copy_of_one_is_not() {
        let mut later = vec![0; HEADER];
        later.extend_from_slice(b"payload");
        let place = Place { sequence: 8, offset: 400, ..PLACE };
        seal(place, &mut later);
        let mut file = vec![0xAA; 400];
        file.extend(&later);
        assert_eq!(find_later(&file, 101, PLACE), Some(400));
        file.insert(0, 0);
        assert_eq!(find_later(&file, 101, PLACE), None);
    }

    #[test]
    fn another_version_is_told() {
        let mut file = file_with(b"x");
        let header = file[PLACE.offset..].first_chunk::<HEADER>().copied().unwrap_or([0; HEADER]);
        let mut header = header;
        header[4] = 9;
        let crc = header_crc(&header, PLACE.log);
        header[40..].copy_from_slice(&crc.to_le_bytes());
        file[PLACE.offset..PLACE.offset + HEADER].copy_from_slice(&header);
        assert_eq!(inspect(&file, PLACE), Found::Version(9));
    }
}
