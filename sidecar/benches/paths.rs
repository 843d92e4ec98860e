//! Times of encoding and decoding a frame of the write-ahead log.
//!
//! Both are private parts of the log. Their files are compiled here by path, so that the crate needs no door for it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};

// The files have more than is timed, and their tests are not run here.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/wal/bounds.rs"]
mod bounds;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/wal/error.rs"]
mod error;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/wal/frame.rs"]
mod frame;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/wal/record.rs"]
mod record;

use error::WalError;
use frame::{Found, Place};
use record::{Entry, Leader, Position, Record};

// The allocator of the sidecar.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The bytes of a frame's one entry: about a batch of 64 puts of 100 bytes.
const DATA_BYTES: usize = 8 * 1024;

const PLACE: Place = Place { log: 0x1234_5678_9abc_def0, segment: 5, sequence: 7, offset: 0 };

/// What the writer does with an entry before it writes: its record, then the frame around it.
fn encode(entry: &Entry, out: &mut Vec<u8>) {
    out.clear();
    out.resize(frame::HEADER, 0);
    entry.encode(out);
    frame::seal(PLACE, out);
}

/// What a start does with a frame: its checksums, then those of its records. `None` when it is not whole.
fn decode(file: &[u8]) -> Option<usize> {
    let Found::Whole { payload, .. } = frame::inspect(file, PLACE) else { return None };
    let mut rest = &file[payload];
    let mut entries = 0;
    while !rest.is_empty() {
        let (record, len) = Record::parse(rest).ok()?;
        entries += usize::from(matches!(record, Record::Entry { .. }));
        rest = &rest[len..];
    }
    Some(entries)
}

fn main() {
    let data: Bytes = (0..DATA_BYTES).map(|n| (n % 251) as u8).collect();
    let position = Position { leader: Leader { term: 3, node: 1 }, index: 1_000 };
    let entry = Entry { position, kind: 1, stamp: 1_000, second_stamp: Some(1_000), data };
    let mut buffer = Vec::new();
    encode(&entry, &mut buffer);
    let file = buffer.clone();
    assert_eq!(decode(&file), Some(1), "what was encoded is decoded");

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("sidecar");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    group.bench_function("frame-encode", |bencher| bencher.iter(|| encode(black_box(&entry), black_box(&mut buffer))));
    group.bench_function("frame-decode", |bencher| bencher.iter(|| decode(black_box(&file))));
    group.finish();
    criterion.final_summary();
}
