//! The frames of a snapshot and their records.
//!
//! The first byte says what the rest is: a frame as it came (0), a compressed block (1), records (2), which then get the
//! checksums that belong to them: random bytes would never pass one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::memory::bounded;
use raftkv_fuzz::store::{around_block, around_records, receive};

/// LZ4 makes at most 255 bytes of one; a frame is there unpacked up to four times while it is compared.
const FACTOR: usize = 4 * 256;
/// A sequence in a record may announce more than it has: its decoder then reserves up to 1 MiB.
const RESERVED: usize = 2 * 1024 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let frame = match kind % 3 {
        0 => rest.to_vec(),
        1 => match rest.split_first_chunk::<4>() {
            Some((raw_len, block)) => around_block(u32::from_le_bytes(*raw_len), block),
            None => return,
        },
        _ => around_records(rest),
    };
    bounded(frame.len(), RESERVED, FACTOR, || receive(&frame));
});
