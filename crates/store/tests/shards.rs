//! One group of a sharded store, by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use raftkv_backend::ListRequest;
use raftkv_kv::{
    Answer, Batch, ImportPage, ImportRecord, Outcome, Proposal, Refusal, SlotSet, SystemAnswer,
    SystemCommand as Command, slot_of,
};
use raftkv_store::{Export, ExportError, NotServed, StateLimits, StoreError};

use crate::support::{Harness, Taken, key, once, payload, set, set_until};

const ADOPT: Command = Command::Adopt { store: 7, group: 1, keep: true };

fn system(h: &mut Harness, command: Command) -> SystemAnswer {
    match h.propose(&Proposal::System(command)) {
        Answer::System(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn slots_of(keys: &[&str]) -> SlotSet {
    keys.iter().map(|key| slot_of(key.as_bytes())).collect()
}

fn everything() -> ListRequest {
    ListRequest { start: Bytes::new(), end: None, limit: usize::MAX, max_bytes: usize::MAX, keys_only: true }
}

#[test]
fn what_is_not_served_is_neither_read_written_nor_kept() {
    let mut h = Harness::new();
    h.ops(vec![set("a", "1"), set("b", "1")]);
    assert_eq!(system(&mut h, ADOPT), SystemAnswer::Done);
    assert_eq!(system(&mut h, Command::Disown { id: 1, slots: slots_of(&["a"]) }), SystemAnswer::Done);
    let revision = h.store.revision();
    assert_eq!(h.op(once(set("a", "2"), "once", 1, 60_000)), Outcome::WrongGroup);
    assert_eq!(h.op(once(set("a", "3"), "once", 2, 60_000)), Outcome::WrongGroup, "not even a mismatch");
    assert_eq!((h.store.revision(), h.store.status().unwrap().idempotency_records), (revision, 0));
    assert!(matches!(h.store.get(&key("a")), Err(StoreError::WrongGroup)));
    assert!(matches!(h.store.get(&key("b")), Ok(Some(_))));
    let many = h.store.get_many(&[key("a"), key("b")], 1_000).unwrap().unwrap();
    assert!(matches!(&many[..], [Err(NotServed), Ok(Some(_))]), "{many:?}");
    assert!(h.store.get_many(&[key("a"), key("b")], 1).unwrap().is_none(), "more than was asked for");
    let (page, served) = h.store.list_served(&everything()).unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), [key("b")]);
    assert_eq!(served, SlotSet::all().difference(&slots_of(&["a"])));
    h.reopen(StateLimits::default());
    assert!(matches!(h.store.get(&key("a")), Err(StoreError::WrongGroup)));
    assert_eq!(h.op(set("a", "2")), Outcome::WrongGroup);
    h.store.verify().unwrap();
}

#[test]
fn a_purge_goes_in_pieces_and_takes_index_entries_along() {
    let mut h = Harness::new();
    let names: Vec<String> = (0..40).map(|i| format!("k{i}")).collect();
    h.ops(names.iter().map(|name| once(set_until(name, "v", 1_000_000), name, 1, 60_000)).collect());
    system(&mut h, ADOPT);
    assert_eq!(system(&mut h, Command::Purge { limit: 10 }), SystemAnswer::Purged { removed: 0, done: true });
    let gone: Vec<&str> = names.iter().take(30).map(String::as_str).collect();
    system(&mut h, Command::Disown { id: 1, slots: slots_of(&gone) });
    let stayed = names.iter().filter(|name| !slots_of(&gone).contains(slot_of(name.as_bytes()))).count() as u64;
    let mut removed = 0;
    for round in 1.. {
        let SystemAnswer::Purged { removed: some, done } = system(&mut h, Command::Purge { limit: 7 }) else {
            panic!()
        };
        assert!(some <= 7 && round < 20);
        removed += some;
        h.store.verify().unwrap();
        if round == 3 {
            h.reopen(StateLimits::default());
        }
        if done {
            break;
        }
        let claim = Command::Claim { id: 2, slots: slots_of(&gone) };
        assert_eq!(system(&mut h, claim), SystemAnswer::Refused(Refusal::PurgePending));
    }
    assert_eq!(removed, 2 * (40 - stayed));
    let status = h.store.status().unwrap();
    assert_eq!((status.keys, status.idempotency_records), (stayed, stayed));
    assert_eq!(system(&mut h, Command::Claim { id: 2, slots: slots_of(&gone) }), SystemAnswer::Done);
    assert_eq!(h.get("k0"), None);
    h.clock_ms = 2_000_000;
    (0..3).for_each(|_| h.blank());
    assert_eq!(h.store.status().unwrap().keys, 0, "the expiry index holds no more than there is");
    h.store.verify().unwrap();
}

#[test]
fn a_malformed_page_changes_nothing() {
    let mut h = Harness::new();
    system(&mut h, Command::Adopt { store: 7, group: 2, keep: false });
    system(&mut h, Command::BeginImport { id: 1, slots: slots_of(&["a"]), version: 1 });
    let (ownership, before) = (h.store.ownership(), Taken::of(&h.store));
    let value = |name: &'static str| ImportRecord::Value {
        key: Bytes::from_static(name.as_bytes()),
        revision: 5,
        create_revision: 4,
        expires_at_ms: 0,
        value: Bytes::from_static(b"\xa1v"),
    };
    let import = |records| Command::Import { id: 1, page: 0, cursor: Bytes::new(), records };
    let elsewhere = ImportPage { records: vec![value("a"), value("b")] }.encode();
    for records in [elsewhere, Bytes::from_static(b"\x01\x00")] {
        assert!(matches!(system(&mut h, import(records)), SystemAnswer::Refused(Refusal::Malformed(_))));
    }
    assert_eq!(h.store.ownership(), ownership);
    assert_eq!(h.store.status().unwrap().keys, 0);
    let after = Taken::of(&h.store);
    assert_eq!(after.parts.len(), before.parts.len());
    let sound = import(ImportPage { records: vec![value("a")] }.encode());
    assert_eq!(system(&mut h, sound), SystemAnswer::Imported { next_page: 1 });
    assert_eq!(h.store.status().unwrap().keys, 1);
    assert!(matches!(h.store.get(&key("a")), Err(StoreError::WrongGroup)), "hidden");
    assert_eq!(h.store.list(&everything()).unwrap().entries, []);
    let commit = Command::CommitImport { id: 1, pages: 1, revision: 90, clock_ms: 5_000_000, times: Vec::new() };
    assert_eq!(system(&mut h, commit), SystemAnswer::Done);
    assert_eq!(h.get("a").map(|entry| (entry.revision, entry.create_revision)), Some((5, 4)));
    assert_eq!((h.store.revision(), h.store.status().unwrap().clock_ms), (90, 5_000_000));
    assert_eq!(h.op(set("a", "w")), Outcome::Set { revision: 91, created: false });
    h.store.verify().unwrap();
}

#[test]
fn pages_of_an_export_are_bounded_and_a_large_value_comes_alone() {
    let mut h = Harness::new();
    let large = "x".repeat(10_000);
    h.ops(vec![set("{t}1", "small"), set("{t}2", &large), set("{t}3", "small"), set("other", "x")]);
    system(&mut h, ADOPT);
    let missing = h.store.export(&Export { move_id: 1, cursor: Bytes::new(), max_bytes: 100 });
    assert!(matches!(missing, Err(ExportError::NotExporting(1))));
    system(&mut h, Command::BeginExport { id: 1, slots: slots_of(&["t"]), version: 1 });
    h.ops(vec![set("{t}3", "changed"), set("other", "y"), once(set("{t}1", "again"), "c", 1, 60_000)]);
    h.op(raftkv_kv::Command::Delete { key: key("{t}1") }.into());
    let mut cursor = Bytes::new();
    let mut pages = Vec::new();
    loop {
        let page = h.store.export(&Export { move_id: 1, cursor: cursor.clone(), max_bytes: 200 }).unwrap();
        assert_eq!(
            h.store.export(&Export { move_id: 1, cursor, max_bytes: 200 }).unwrap(),
            page,
            "reading changes nothing"
        );
        cursor = page.cursor.clone();
        let is_over = page.base_done && page.changes_done == page.changes_total;
        pages.push(page);
        if is_over {
            break;
        }
    }
    assert_eq!(pages.last().unwrap().changes_total, 4, "two sets, one kept outcome, one delete");
    let records: Vec<ImportRecord> = pages.iter().flat_map(|page| page.page.records.clone()).collect();
    let is_of = |record: &ImportRecord, name: &str| match record {
        ImportRecord::Value { key, .. } | ImportRecord::Absent { key } => key == name,
        ImportRecord::Idempotency { .. } => false,
    };
    assert!(!records.iter().any(|record| is_of(record, "other")));
    assert!(matches!(records.iter().rfind(|record| is_of(record, "{t}1")), Some(ImportRecord::Absent { .. })));
    assert!(records.iter().any(|record| matches!(record, ImportRecord::Idempotency { .. })));
    assert!(pages.iter().any(|page| page.page.records.len() == 1 && is_of(&page.page.records[0], "{t}2")));
    assert_eq!(pages.iter().map(|page| page.keys).sum::<u64>(), 3, "two of the base, one changed");
    let bad = h.store.export(&Export { move_id: 1, cursor: Bytes::from_static(b"?"), max_bytes: 1 });
    assert!(matches!(bad, Err(ExportError::BadCursor)));
}

#[test]
fn system_keys_have_versions_and_stay() {
    let mut h = Harness::new();
    let put = |expected_version, value: &'static [u8]| Command::PutKey {
        key: Bytes::from_static(b"cluster"),
        expected_version,
        value: Bytes::from_static(value),
    };
    assert_eq!(h.store.system_key(b"cluster").unwrap(), None);
    assert_eq!(system(&mut h, put(0, b"{}")), SystemAnswer::KeyPut { version: 1 });
    assert_eq!(system(&mut h, put(0, b"{}")), SystemAnswer::KeyPut { version: 1 }, "asked again");
    assert_eq!(system(&mut h, put(0, b"[]")), SystemAnswer::Refused(Refusal::Version { version: 1 }));
    assert_eq!(system(&mut h, put(1, b"[]")), SystemAnswer::KeyPut { version: 2 });
    h.reopen(StateLimits::default());
    let other = Harness::new();
    Taken::of(&h.store).install(&other.store);
    for store in [&h.store, &other.store] {
        assert_eq!(store.system_key(b"cluster").unwrap(), Some((2, Bytes::from_static(b"[]"))));
        store.verify().unwrap();
    }
    assert_eq!(h.store.list(&everything()).unwrap().entries, [], "apart from clients' keys");
}

/// A batch may fence, release and purge at once, as a replica that lags behind sees it: no reader may find the key gone.
#[test]
fn a_read_goes_with_the_ownership_of_the_state_that_it_saw() {
    let mut h = Harness::new();
    let session = h.session();
    h.batch(session, 1, 0, vec![set("a", "1")]);
    system(&mut h, ADOPT);
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2)
        .map(|reader| {
            let (store, stop, seen) = (h.store.clone(), Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let is_there = if reader == 0 {
                        match store.get(&key("a")) {
                            Ok(found) => Some(found.is_some()),
                            Err(StoreError::WrongGroup) => None,
                            Err(error) => panic!("{error}"),
                        }
                    } else {
                        let (page, served) = store.list_served(&everything()).unwrap();
                        served.contains(slot_of(b"a")).then_some(page.entries.len() == 1)
                    };
                    assert_ne!(is_there, Some(false), "served, and gone");
                    seen.fetch_add(u64::from(is_there.is_some()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let slots = slots_of(&["a"]);
    for round in 1..=150u64 {
        let id = 2 * round;
        let entries = |proposals: Vec<Proposal>, next: &mut u64| {
            let entries =
                proposals.iter().enumerate().map(|(at, proposal)| payload(*next + at as u64, 1_000, proposal));
            let entries: Vec<_> = entries.collect();
            *next += entries.len() as u64;
            entries
        };
        let away = [
            Command::BeginExport { id, slots: slots.clone(), version: 1 },
            Command::Fence { id },
            Command::Release { id },
            Command::Purge { limit: 100 },
        ];
        let away = entries(away.into_iter().map(Proposal::System).collect(), &mut h.next);
        h.store.apply_blocking(away).unwrap();
        let sequence = round + 1;
        let batch = Batch { session, sequence, acknowledged_below: sequence, ops: vec![set("a", "1")] };
        let back = vec![Proposal::System(Command::Claim { id: id + 1, slots: slots.clone() }), Proposal::Batch(batch)];
        let back = entries(back, &mut h.next);
        let answers = h.store.apply_blocking(back).unwrap().answers;
        let answer = Answer::decode(&answers[1]).unwrap();
        assert!(
            matches!(answer, Answer::Applied(outcomes) if matches!(outcomes[0], Outcome::Set { created: true, .. }))
        );
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(seen.load(Ordering::Relaxed) > 0);
    h.store.verify().unwrap();
}
