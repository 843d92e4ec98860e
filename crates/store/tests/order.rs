//! Small requests are applied where they come from, all others by a thread: in one order all the same.

use std::sync::Arc;

use futures::executor::block_on;
use raftkv_kv::{Batch, Proposal};
use raftkv_store::{ApplyEntry, ApplyError, EntryKind, Store};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::support::{Harness, entry, seeded, set};

const ENTRIES: u64 = 600;

/// Entries of all sizes around what counts as small; each writes one key, so the last one wins.
fn log(first: u64, session: u64, rng: &mut StdRng) -> Vec<ApplyEntry> {
    let entry_of = |number: u64| {
        let text = format!("{number}:{}", "x".repeat(rng.random_range(0..4_000)));
        let batch = Batch {
            session,
            sequence: number + 1,
            acknowledged_below: number.saturating_sub(4),
            ops: vec![set("k", &text)],
        };
        entry(first + number, 1_000, EntryKind::Payload(Proposal::Batch(batch).encode()))
    };
    (0..ENTRIES).map(entry_of).collect()
}

fn assert_last_wins(store: &Store, h: &Harness) {
    let value = format!("{:?}", h.get("k").unwrap().value.unwrap());
    assert!(value.contains(&format!("{}:", ENTRIES - 1)), "{value}");
    assert_eq!(store.revision(), ENTRIES, "each was applied once");
    store.verify().unwrap();
}

#[test]
fn requests_of_all_sizes_are_applied_as_they_were_submitted() {
    let mut rng = seeded();
    let mut h = Harness::new();
    let session = h.session();
    let mut tickets = Vec::new();
    let entries = log(h.next, session, &mut rng);
    for entry in entries {
        // A gap would be an error: nothing may overtake.
        tickets.push(block_on(h.store.submit(vec![entry])).unwrap());
        if rng.random_range(0..8) == 0 {
            for ticket in tickets.drain(..) {
                block_on(ticket.wait()).unwrap();
            }
        }
    }
    for ticket in tickets {
        block_on(ticket.wait()).unwrap();
    }
    assert_last_wins(&h.store, &h);
}

/// As after a reconnection, when what the old stream had handed over is still being applied.
#[test]
fn several_who_bring_the_same_entries_at_once_change_nothing_twice() {
    let mut rng = seeded();
    let mut h = Harness::new();
    let session = h.session();
    let entries = Arc::new(log(h.next, session, &mut rng));
    let bring = |store: Store, entries: Arc<Vec<_>>| {
        std::thread::spawn(move || {
            for entry in entries.iter() {
                match store.apply_blocking(vec![ApplyEntry::clone(entry)]) {
                    Ok(applied) => assert!(applied.next_index > entry.index),
                    Err(ApplyError::Gap { .. }) => panic!("each brings them in order"),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    let threads: Vec<_> = (0..4).map(|_| bring(h.store.clone(), Arc::clone(&entries))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_last_wins(&h.store, &h);
}

#[test]
fn after_the_close_nothing_is_applied_whatever_its_size() {
    let mut rng = seeded();
    let mut h = Harness::new();
    let session = h.session();
    let entries = log(h.next, session, &mut rng);
    h.store.close();
    for entry in entries {
        let applied = block_on(h.store.apply(vec![entry]));
        assert!(matches!(applied, Err(ApplyError::Stopped)), "{applied:?}");
    }
    assert_eq!(h.store.revision(), 0);
}
