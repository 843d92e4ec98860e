//! A log that waits for room on its disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use raftkv_sidecar::wal::{IoStep, ReadLimit, Shortage, Wal, WalError, WalOptions};
use rustix::io::Errno;
use tempfile::TempDir;

use super::support::*;

/// Each takes a quarter of a segment.
const ENTRY_BYTES: usize = 800;
const ENTRIES: u64 = 40;
/// A frame so large that it leaves room to others.
const LARGE_BYTES: usize = 100_000;

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_purge_gives_its_room_while_a_frame_before_it_waits_for_some() {
    let dir = TempDir::new().unwrap();
    // No disk has so much: large frames wait for ever.
    let options = WalOptions { kept_bytes: u64::MAX, least_bytes: u64::MAX, ..options(dir.path(), 4096) };
    let wal = Wal::open(options.clone()).unwrap();
    for index in 0..ENTRIES {
        durably(|done| wal.append(vec![entry(1, index, ENTRY_BYTES)], done));
    }
    let before = segments(dir.path()).len();

    let (large_done, large) = done();
    wal.append(vec![entry(1, ENTRIES, LARGE_BYTES)], large_done).unwrap();
    eventually("it waits", || wal.waits_for() == Some(Shortage::Room));
    let (purge_done, purge) = done();
    wal.purge(position(1, ENTRIES - 10), purge_done).unwrap();
    eventually("files are removed", || segments(dir.path()).len() < before / 2);
    assert_eq!(*wal.durable().borrow(), ENTRIES, "the entry is not durable, and those before it are");
    assert!(large.try_recv().is_err() && purge.try_recv().is_err(), "neither has had its turn");

    // What reaches beyond what is durable waits for its turn.
    wal.purge(position(1, ENTRIES), None).unwrap();
    wal.close();
    for waiting in [large, purge] {
        assert!(matches!(waiting.recv_timeout(DEADLINE).unwrap(), Err(WalError::Closed)));
    }
    drop(wal);

    let wal = Wal::open(options).unwrap();
    assert_eq!((wal.bounds().start, wal.bounds().next), (ENTRIES - 9, ENTRIES));
    let entries = wal.read(0..u64::MAX, ReadLimit::NONE).load().unwrap();
    let expected: Vec<_> = (ENTRIES - 9..ENTRIES).map(|index| entry(1, index, ENTRY_BYTES)).collect();
    assert_eq!(entries, expected);
    // And the log goes on.
    durably(|done| wal.append(vec![entry(1, ENTRIES, ENTRY_BYTES)], done));
}

#[test]
fn a_shortage_of_file_descriptors_is_waited_for_and_is_no_failed_write() {
    for errno in [Errno::MFILE, Errno::NFILE] {
        let dir = TempDir::new().unwrap();
        let (short, refused, failed) =
            (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let options = WalOptions {
            faults: Some(Arc::new({
                let (short, refused) = (short.clone(), refused.clone());
                move |step| {
                    if step == IoStep::Rotate && short.load(Ordering::Relaxed) {
                        refused.fetch_add(1, Ordering::Relaxed);
                        return Err(io::Error::from(errno));
                    }
                    Ok(())
                }
            })),
            fatal: Arc::new({
                let failed = failed.clone();
                move |_| failed.store(true, Ordering::Relaxed)
            }),
            ..options(dir.path(), 4096)
        };
        let wal = Wal::open(options.clone()).unwrap();
        // The first frame makes its segment larger; the one behind it begins another.
        durably(|done| wal.append(vec![entry(1, 0, ENTRY_BYTES)], done));
        let results: Vec<_> = (1..ENTRIES)
            .map(|index| {
                let (entry_done, result) = done();
                wal.append(vec![entry(1, index, ENTRY_BYTES)], entry_done).unwrap();
                result
            })
            .collect();
        eventually("it waits", || wal.waits_for() == Some(Shortage::Descriptor));
        eventually("it is tried again", || refused.load(Ordering::Relaxed) > 1);
        short.store(false, Ordering::Relaxed);
        for result in results {
            result.recv_timeout(DEADLINE).unwrap().unwrap();
        }
        eventually("it waits no more", || wal.waits_for().is_none());
        assert!(!failed.load(Ordering::Relaxed), "{errno}");
        drop(wal);
        assert_eq!(Wal::open(options).unwrap().bounds().next, ENTRIES);
    }
}
