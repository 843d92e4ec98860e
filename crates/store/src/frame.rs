//! The frames of a snapshot, as of cluster versions 1 and 2.
//!
//! A frame is a header and an LZ4 block. The block holds records, each as the lengths of its key and of its record
//! (two little-endian u32), the key, the record. Header, all little-endian u32:
//!
//! | bytes | what                                                      |
//! |-------|-----------------------------------------------------------|
//! | 0–3   | length of the records                                     |
//! | 4–7   | length of the block                                       |
//! | 8–11  | CRC-32C over the two lengths and the block                |

use bytes::Bytes;

/// A frame is closed when its records reach this.
const FRAME_BYTES: usize = 256 * 1024;
/// No frame is larger: the largest record that fits through the wire, with room to spare.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
/// LZ4 makes at most so many bytes of one: a length in one of its blocks is written as bytes of 255 and a rest.
const MAX_EXPANSION: usize = 255;
const HEADER: usize = 12;
const LENGTHS: usize = 8;

/// Gathers records into frames.
#[derive(Default)]
pub(super) struct FrameWriter {
    raw: Vec<u8>,
    /// Over all records so far, uncompressed.
    pub(super) crc32c: u32,
    /// How many so far.
    pub(super) records: u64,
}

impl FrameWriter {
    pub(super) fn push(&mut self, key: &[u8], record: &[u8]) {
        self.raw.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(record);
        self.records += 1;
    }

    /// Whether it is time to [`take`](Self::take) a frame.
    pub(super) fn is_full(&self) -> bool {
        self.raw.len() >= FRAME_BYTES
    }

    /// The frame of what was pushed since the last one; `None` when that is nothing.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.raw.is_empty() {
            return None;
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.raw);
        let block = lz4_flex::block::compress(&self.raw);
        let mut frame = Vec::with_capacity(HEADER + block.len());
        frame.extend_from_slice(&(self.raw.len() as u32).to_le_bytes());
        frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), &block);
        frame.extend_from_slice(&crc.to_le_bytes());
        frame.extend_from_slice(&block);
        self.raw.clear();
        Some(frame.into())
    }
}

/// A key and its record.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of one verified frame.
pub(super) struct FrameReader {
    raw: Vec<u8>,
    at: usize,
}

impl FrameReader {
    /// Verifies and unpacks one frame. The error says what is wrong with it.
    pub(super) fn open(frame: &[u8]) -> Result<Self, String> {
        let Some((header, block)) = frame.split_first_chunk::<HEADER>() else {
            return Err("a frame is too short".to_owned());
        };
        let number =
            |at: usize| header[at..at + 4].iter().rev().fold(0u32, |number, &byte| (number << 8) | u32::from(byte));
        let (raw_len, block_len, crc) = (number(0) as usize, number(4) as usize, number(8));
        if crc32c::crc32c_append(crc32c::crc32c(&header[..8]), block) != crc {
            return Err("a frame's checksum does not match".to_owned());
        }
        // The second bound keeps a few bytes from reserving the memory of the largest frame.
        if block.len() != block_len || raw_len > MAX_FRAME_BYTES || raw_len > MAX_EXPANSION * block_len {
            return Err("a frame has an impossible length".to_owned());
        }
        let raw = lz4_flex::block::decompress(block, raw_len).map_err(|error| format!("a frame: {error}"))?;
        if raw.len() != raw_len {
            return Err("a frame unpacks to another length than it says".to_owned());
        }
        Ok(Self { raw, at: 0 })
    }

    /// All records, for the checksum of the stream.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The next key and record; `None` = no more.
    pub(super) fn next_record(&mut self) -> Result<Option<Record<'_>>, String> {
        if self.at == self.raw.len() {
            return Ok(None);
        }
        let rest = &self.raw[self.at..];
        let parsed = rest.split_at_checked(LENGTHS).and_then(|(lengths, rest)| {
            let len = |at: usize| {
                lengths[at..at + 4].iter().rev().fold(0usize, |number, &byte| (number << 8) | usize::from(byte))
            };
            let (key, rest) = rest.split_at_checked(len(0))?;
            let (record, _) = rest.split_at_checked(len(4))?;
            Some((key, record))
        });
        let Some((key, record)) = parsed else {
            return Err("a frame ends within a record".to_owned());
        };
        self.at += LENGTHS + key.len() + record.len();
        Ok(Some((key, record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_records_of_any_size() {
        let mut writer = FrameWriter::default();
        let large = vec![5u8; FRAME_BYTES * 3];
        writer.push(b"a", b"");
        writer.push(b"b", &large);
        assert!(writer.is_full());
        let frame = writer.take().unwrap();
        assert!(frame.len() < FRAME_BYTES, "compressed");
        assert!(writer.take().is_none());
        let mut reader = FrameReader::open(&frame).unwrap();
        assert_eq!(crc32c::crc32c(reader.raw()), writer.crc32c);
        assert_eq!(reader.next_record().unwrap(), Some((&b"a"[..], &b""[..])));
        assert_eq!(reader.next_record().unwrap(), Some((&b"b"[..], &large[..])));
        assert_eq!(reader.next_record().unwrap(), None);
    }

    #[test]
    fn a_small_frame_does_not_promise_a_large_one() {
        // Found by the fuzz target `snapshot`: such a frame reserved 64 MiB before it was refused.
        for (raw_len, refused) in [(255 * 3, "unpacks to another length"), (255 * 3 + 1, "impossible length")] {
            let mut frame = [u32::to_le_bytes(raw_len), 3u32.to_le_bytes()].concat();
            let block = [0x20, b'a', b'b'];
            let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), &block);
            frame.extend_from_slice(&crc.to_le_bytes());
            frame.extend_from_slice(&block);
            let error = FrameReader::open(&frame).err().unwrap();
            assert!(error.contains(refused), "{raw_len}: {error}");
        }
    }

    #[test]
    fn what_compresses_best_is_taken() {
        let mut writer = FrameWriter::default();
        writer.push(b"zeros", &vec![0; MAX_FRAME_BYTES / 2]);
        let frame = writer.take().unwrap();
        assert!(frame.len() < MAX_FRAME_BYTES / 2 / 250, "{} bytes: nearly as small as can be", frame.len());
        assert!(FrameReader::open(&frame).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let mut writer = FrameWriter::default();
        writer.push(b"key", b"record");
        let frame = writer.take().unwrap();
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameReader::open(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(FrameReader::open(&frame[..len]).is_err(), "cut to {len}");
        }
    }
}
