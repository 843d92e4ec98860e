//! What the store takes of the machine. Slow: run with `--run-ignored all`.

use std::time::Instant;

use raftkv_kv::{Batch, Proposal};
use raftkv_store::Store;

use crate::support::{Harness, open, payload, set};

const OPS_PER_ENTRY: u64 = 50;
const ENTRIES_PER_REQUEST: u64 = 4;

fn memory_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// 500 characters that hardly compress.
fn noise(seed: u64) -> String {
    let mut x = seed;
    (0..500)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(33 + ((x >> 33) % 90) as u8)
        })
        .collect()
}

/// Overwrites `keys` keys round and round, in requests that wait for each other eight at a time.
fn put(store: &Store, from: u64, puts: u64, keys: u64, value: impl Fn(u64) -> String) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut index = from;
        if index == 0 {
            store.apply(vec![payload(0, 1, &Proposal::OpenSession)]).await.unwrap();
            index = 1;
        }
        let mut tickets = std::collections::VecDeque::new();
        let mut n = 0;
        while n < puts {
            let mut entries = Vec::new();
            for _ in 0..ENTRIES_PER_REQUEST {
                let ops =
                    (n..n + OPS_PER_ENTRY).map(|n| set(&format!("key-{:012}", n * 7_919 % keys), &value(n))).collect();
                n += OPS_PER_ENTRY;
                let batch = Batch { session: 1, sequence: index, acknowledged_below: index.saturating_sub(32), ops };
                entries.push(payload(index, 1, &Proposal::Batch(batch)));
                index += 1;
            }
            tickets.push_back(store.submit(entries).await.unwrap());
            if tickets.len() > 8 {
                tickets.pop_front().unwrap().wait().await.unwrap();
            }
        }
        for ticket in tickets {
            ticket.wait().await.unwrap();
        }
        index
    })
}

#[test]
#[ignore = "a million puts"]
fn a_million_puts_over_ten_thousand_keys_leave_megabytes() {
    let h = Harness::new();
    let started = Instant::now();
    put(&h.store, 0, 1_000_000, 10_000, |_| "x".repeat(100));
    let took = started.elapsed();
    let status = h.store.status().unwrap();
    println!(
        "{:.0} puts/s; disk {} MB; memory {} MB, peak {} MB",
        1e6 / took.as_secs_f64(),
        status.disk_bytes / 1_000_000,
        memory_mb("VmRSS"),
        memory_mb("VmHWM")
    );
    assert_eq!((status.revision, status.keys), (1_000_000, 10_000));
    assert!(status.disk_bytes < 250_000_000, "{}", status.disk_bytes);
    h.store.verify().unwrap();
    h.store.close();
    let dir = h.dir;
    drop(h.store);
    let started = Instant::now();
    let store = open(dir.path()).unwrap();
    println!("opened in {:?}", started.elapsed());
    assert_eq!(store.revision(), 1_000_000);
}

#[test]
#[ignore = "a gigabyte"]
fn a_gigabyte_fits_into_the_memory_of_a_small_machine() {
    let h = Harness::new();
    let started = Instant::now();
    put(&h.store, 0, 2_000_000, 2_000_000, noise);
    let disk = h.store.status().unwrap().disk_bytes / 1_000_000;
    println!("disk {disk} MB");
    println!("written in {:?}; memory {} MB, peak {} MB", started.elapsed(), memory_mb("VmRSS"), memory_mb("VmHWM"));
    let started = Instant::now();
    let other = Harness::new();
    let mut reader = h.store.snapshot_out().unwrap();
    let header = reader.header().clone();
    let token = other.store.stage_snapshot(&header, || reader.next().map(Result::unwrap)).unwrap();
    println!("staged in {:?}; memory {} MB, peak {} MB", started.elapsed(), memory_mb("VmRSS"), memory_mb("VmHWM"));
    let started = Instant::now();
    futures::executor::block_on(other.store.activate(token)).unwrap();
    println!("activated in {:?}", started.elapsed());
    assert_eq!(other.store.state_hash(), h.store.state_hash());
    let started = Instant::now();
    other.store.verify().unwrap();
    println!("verified in {:?}; memory {} MB, peak {} MB", started.elapsed(), memory_mb("VmRSS"), memory_mb("VmHWM"));
    assert!(memory_mb("VmHWM") < 600, "two stores in one process");
}
