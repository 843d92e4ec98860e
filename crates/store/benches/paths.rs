//! Times of applying to a store.

#![allow(clippy::unwrap_used)] // As in a test: a panic is the answer.

use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use raftkv_kv::{Answer, Batch, Command, Key, Limits, Op, Outcome, Proposal, Value};
use raftkv_store::{ApplyEntry, EntryKind, Store, StoreOptions};

// The allocator of the engine.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Operations of an entry: as many as the 64 clients of `make bench` can give it.
const OPS: u64 = 64;
/// What the load generator has.
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;

/// Entries for a store, in order.
struct Log {
    session: u64,
    next_index: u64,
    next_put: u64,
    value: Value,
}

impl Log {
    /// Opens a session in an empty store.
    fn begin(store: &Store) -> Self {
        let mut log = Self {
            session: 0,
            next_index: 0,
            next_put: 0,
            value: Value::text(&"v".repeat(VALUE_BYTES), &Limits::default()).unwrap(),
        };
        let entry = log.entry(&Proposal::OpenSession);
        match answer(store, entry) {
            Answer::SessionOpened { session } => log.session = session,
            other => panic!("{other:?}"),
        }
        log
    }

    /// The next batch of puts. They go round all keys, far from each other.
    fn puts(&mut self) -> ApplyEntry {
        let ops = (0..OPS).map(|_| self.put()).collect();
        // The session is entry 0, so a batch's number is its index.
        let (session, sequence) = (self.session, self.next_index);
        self.entry(&Proposal::Batch(Batch { session, sequence, acknowledged_below: sequence, ops }))
    }

    fn put(&mut self) -> Op {
        let key = format!("bench-{:010}", self.next_put * 7_919 % KEYS);
        self.next_put += 1;
        let key = Key::new(key, &Limits::default()).unwrap();
        Command::Set { key, value: self.value.clone(), expires_at_ms: 0 }.into()
    }

    fn entry(&mut self, proposal: &Proposal) -> ApplyEntry {
        let index = self.next_index;
        self.next_index += 1;
        let log_id = Bytes::from(format!("log-{index}"));
        ApplyEntry { index, log_id, clock_ms: 1_000, group_clock_ms: 0, kind: EntryKind::Payload(proposal.encode()) }
    }
}

fn answer(store: &Store, entry: ApplyEntry) -> Answer {
    let applied = store.apply_blocking(vec![entry]).unwrap();
    Answer::decode(&applied.answers[0]).unwrap()
}

/// A store that holds every key.
fn filled(dir: &Path) -> (Store, Log) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let mut log = Log::begin(&store);
    while log.next_put < KEYS {
        let Answer::Applied(outcomes) = answer(&store, log.puts()) else { panic!("the puts were not applied") };
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Set { .. })), "{outcomes:?}");
    }
    assert_eq!(store.status().unwrap().keys, KEYS);
    (store, log)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let dir = tempfile::tempdir().unwrap();
    let (store, mut log) = filled(dir.path());
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(OPS));
    // Both ways through the apply thread's queue are in it, as they are in the engine.
    group.bench_function("apply-64-puts", |bencher| {
        bencher.iter_batched(
            || vec![log.puts()],
            |entries| store.apply_blocking(entries).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    // Every entry was applied as a batch of its own: none was skipped, none refused.
    assert_eq!((store.position().next_index, store.revision()), (log.next_index, log.next_put));
    store.close();
    criterion.final_summary();
}
