//! How fast it is here: `cargo test --release -p raftkv-sidecar --test wal_log -- --ignored --nocapture measure`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raftkv_sidecar::wal::{IoStep, Wal, WalOptions};
use tempfile::TempDir;

use super::support::*;

const TIME: Duration = Duration::from_secs(3);

/// Appends of one entry each, every appender waiting for its fsync before the next.
fn run(appenders: usize, size: usize) {
    // On the disk that the project is on: a temporary directory may be memory.
    let dir = TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    let options = WalOptions {
        faults: Some(Arc::new(move |step| {
            counted.fetch_add(u64::from(step == IoStep::Sync), Ordering::Relaxed);
            Ok(())
        })),
        ..WalOptions::new(dir.path())
    };
    let wal = Wal::open(options).unwrap();
    let next = Mutex::new(0);
    let started = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..appenders)
            .map(|_| {
                scope.spawn(|| {
                    let mut latencies = Vec::new();
                    while started.elapsed() < TIME {
                        let begun = Instant::now();
                        let (callback, result) = done();
                        {
                            let mut next = next.lock().unwrap();
                            wal.append(vec![entry(1, *next, size)], callback).unwrap();
                            *next += 1;
                        }
                        result.recv().unwrap().unwrap();
                        latencies.push(begun.elapsed());
                    }
                    latencies
                })
            })
            .collect();
        appenders.into_iter().flat_map(|appender| appender.join().unwrap()).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort();
    let syncs = syncs.load(Ordering::Relaxed);
    println!(
        "{appenders:>3} appenders of {size} bytes: {:.0} appends/s, {:.0} fsyncs/s, {:.1} appends a fsync, p50 {:?}, p99 {:?}",
        latencies.len() as f64 / seconds,
        syncs as f64 / seconds,
        latencies.len() as f64 / syncs as f64,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    drop(wal);
    let begun = Instant::now();
    let wal = Wal::open(WalOptions::new(dir.path())).unwrap();
    println!("    opened {} entries, {} bytes in {:?}", wal.bounds().next, wal.log_bytes(), begun.elapsed());
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    run(1, 200);
    run(64, 200);
    run(64, 4096);
}
