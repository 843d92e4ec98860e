//! Recovery of a log.
//!
//! The first byte says whether the segments that follow are taken as they are (even) or get the checksums and numbers that
//! belong to them (odd): random bytes would never pass one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::memory::bounded;
use raftkv_fuzz::wal::{mend, recover, split};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let mut segments = split(rest);
    if kind % 2 == 1 {
        mend(&mut segments);
    }
    bounded(bytes.len(), 256 * 1024, 64, || recover(&segments));
});
