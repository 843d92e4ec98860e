//! What is promised when: order, failures, the gate for applying, bounds, purging.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use futures::FutureExt;
use raftkv_sidecar::wal::{FaultHook, IoStep, ReadLimit, Wal, WalError, WalOptions};
use tempfile::TempDir;

use super::support::*;

/// Holds every fsync back while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.changed.notify_all();
    }

    fn hook(self: &Arc<Self>) -> FaultHook {
        let gate = Arc::clone(self);
        Arc::new(move |step| {
            if step == IoStep::Sync {
                let shut = gate.shut.lock().unwrap();
                drop(gate.changed.wait_while(shut, |shut| *shut).unwrap());
            }
            Ok(())
        })
    }
}

fn gated(dir: &TempDir) -> (Wal, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let options = WalOptions { faults: Some(gate.hook()), queue_bytes: 1000, ..options(dir.path(), 4096) };
    (Wal::open(options).unwrap(), gate)
}

#[test]
fn an_entry_is_readable_at_once_and_durable_only_after_its_fsync() {
    let dir = TempDir::new().unwrap();
    let (wal, gate) = gated(&dir);
    let durable = wal.durable();
    gate.set(true);
    let (callback, result) = done();
    wal.append(vec![entry(1, 0, 10), entry(1, 1, 10)], callback).unwrap();
    assert_eq!(wal.read(0..2, ReadLimit::NONE).load().unwrap().len(), 2);
    assert_eq!(*durable.borrow(), 0);
    assert!(result.try_recv().is_err());
    gate.set(false);
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(*durable.borrow(), 2);
}

#[test]
fn what_replaces_truncated_entries_is_not_durable_before_its_own_fsync() {
    let dir = TempDir::new().unwrap();
    let (wal, gate) = gated(&dir);
    let durable = wal.durable();
    durably(|done| wal.append((0..10).map(|index| entry(1, index, 10)).collect(), done));
    assert_eq!(*durable.borrow(), 10);
    gate.set(true);
    wal.truncate_after(Some(position(1, 5)), None).unwrap();
    assert_eq!(*durable.borrow(), 6);
    let (callback, result) = done();
    wal.append((6..9).map(|index| entry(2, index, 10)).collect(), callback).unwrap();
    assert_eq!(*durable.borrow(), 6);
    gate.set(false);
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(*durable.borrow(), 9);
    drop(wal);
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    assert_eq!(wal.bounds().last, Some(position(2, 8)));
}

#[test]
fn all_that_waits_shares_one_fsync_and_the_queue_is_bounded() {
    let dir = TempDir::new().unwrap();
    let syncs = Arc::new(AtomicU32::new(0));
    let gate = Arc::new(Gate::default());
    let hook = gate.hook();
    let counted = Arc::clone(&syncs);
    let options = WalOptions {
        faults: Some(Arc::new(move |step| {
            hook(step)?;
            counted.fetch_add(u32::from(step == IoStep::Sync), Ordering::Relaxed);
            Ok(())
        })),
        queue_bytes: 1000,
        ..options(dir.path(), 1 << 20)
    };
    let wal = Wal::open(options).unwrap();
    gate.set(true);
    wal.append(vec![entry(1, 0, 10)], None).unwrap();
    // The writer may or may not have taken the first one by now.
    for index in 1..100 {
        wal.append(vec![entry(1, index, 10)], None).unwrap();
    }
    let mut room = std::pin::pin!(wal.room());
    assert!(room.as_mut().now_or_never().is_none(), "the queue is full");
    let (callback, result) = done();
    wal.save_vote(ballot(1), callback).unwrap();
    gate.set(false);
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    assert!(wal.room().now_or_never().is_some(), "the queue is empty");
    assert!(syncs.load(Ordering::Relaxed) <= 2);
}

#[test]
fn a_failed_write_or_fsync_ends_everything() {
    for (step, fails_at) in [(IoStep::Sync, 3), (IoStep::Write, 3), (IoStep::Rotate, 1)] {
        let dir = TempDir::new().unwrap();
        let fatal = Arc::new(AtomicU32::new(0));
        let steps = AtomicU32::new(0);
        let options = WalOptions {
            fatal: Arc::new({
                let fatal = Arc::clone(&fatal);
                move |error| {
                    assert!(matches!(error, WalError::Io { .. }));
                    fatal.fetch_add(1, Ordering::Relaxed);
                }
            }),
            faults: Some(Arc::new(move |at| {
                if at == step && steps.fetch_add(1, Ordering::Relaxed) + 1 >= fails_at {
                    return Err(io::Error::other("injected"));
                }
                Ok(())
            })),
            ..options(dir.path(), 1024)
        };
        let wal = Wal::open(options).unwrap();
        let mut acknowledged = 0;
        let refused = loop {
            let (callback, result) = done();
            wal.append(vec![entry(1, acknowledged, 200)], callback).unwrap();
            match result.recv_timeout(DEADLINE).unwrap() {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, WalError::Poisoned(_)), "{refused}");
        assert_eq!(fatal.load(Ordering::Relaxed), 1);
        assert!(matches!(wal.save_vote(ballot(1), None), Err(WalError::Poisoned(_))));
        assert_eq!(*wal.durable().borrow(), acknowledged);
        assert!(wal.room().now_or_never().is_some(), "nobody waits for ever");
        drop(wal);
        let wal = Wal::open(support_options(&dir)).unwrap();
        assert!(wal.bounds().next >= acknowledged, "{step:?}");
    }
}

fn support_options(dir: &TempDir) -> WalOptions {
    options(dir.path(), 1024)
}

#[test]
fn two_processes_cannot_share_a_log() {
    let dir = TempDir::new().unwrap();
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    assert!(matches!(Wal::open(options(dir.path(), 4096)), Err(WalError::Locked { .. })));
    drop(wal);
    Wal::open(options(dir.path(), 4096)).unwrap();
}

#[test]
fn purging_removes_files_and_keeps_vote_and_positions() {
    let dir = TempDir::new().unwrap();
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    durably(|done| wal.save_vote(ballot(3), done));
    wal.save_committed(Some(position(1, 150))).unwrap();
    for index in 0..200 {
        durably(|done| wal.append(vec![entry(1, index, 300)], done));
    }
    let before = segments(dir.path()).len();
    assert!(before > 10);
    durably(|done| wal.purge(position(1, 190), done));
    let expected = dump(&wal);
    let bytes = wal.log_bytes();
    drop(wal);
    assert!(segments(dir.path()).len() <= 3, "of {before}");
    assert!(bytes < 3 * 4096);
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    assert_eq!(dump(&wal), expected);
    assert_eq!((wal.vote(), wal.committed()), (Some(ballot(3)), Some(position(1, 150))));
    // A snapshot was installed far ahead.
    durably(|done| wal.purge(position(5, 1000), done));
    assert!(wal.read(0..u64::MAX, ReadLimit::NONE).is_empty());
    durably(|done| wal.append(vec![entry(5, 1001, 10)], done));
    let expected = dump(&wal);
    drop(wal);
    assert_eq!(dump(&Wal::open(options(dir.path(), 4096)).unwrap()), expected);
}

#[test]
fn an_append_larger_than_a_segment_gets_one_of_its_size() {
    let dir = TempDir::new().unwrap();
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    durably(|done| wal.append(vec![entry(1, 0, 100)], done));
    durably(|done| wal.append(vec![entry(1, 1, 20_000), nearly_zero(2, 9000)], done));
    durably(|done| wal.append(vec![entry(1, 3, 100)], done));
    let expected = dump(&wal);
    drop(wal);
    assert_eq!(segments(dir.path()).len(), 3);
    assert_eq!(dump(&Wal::open(options(dir.path(), 4096)).unwrap()), expected);
}

#[test]
fn holes_and_overwrites_are_refused_and_reads_are_bounded() {
    let dir = TempDir::new().unwrap();
    let wal = Wal::open(options(dir.path(), 4096)).unwrap();
    durably(|done| wal.append((3..9).map(|index| entry(1, index, 100)).collect(), done));
    for index in [5, 8, 10] {
        let (callback, result) = done();
        let error = wal.append(vec![entry(1, index, 1)], callback).unwrap_err();
        assert!(matches!(error, WalError::NotConsecutive { expected: 9, .. }), "{error}");
        assert!(result.recv().is_err(), "a refused append never reports");
    }
    let limit = |entries, bytes| ReadLimit { entries, bytes };
    assert_eq!(wal.read(0..100, limit(100, 250)).load().unwrap().len(), 2);
    assert_eq!(wal.read(4..100, limit(3, 10_000)).load().unwrap().len(), 3);
    assert_eq!(wal.read(4..100, limit(3, 1)).load().unwrap().len(), 1);
    assert!(wal.read(9..100, ReadLimit::NONE).is_empty());
}
