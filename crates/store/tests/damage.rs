//! Flipped bits below the store: an error or a refusal, never a wrong value.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use raftkv_backend::Entry;

use raftkv_runtime::exit;
use raftkv_store::StateLimits;

use crate::support::{Harness, Taken, all_of, copy_dir, files, names, open, open_with, set, wait_until};

/// Offsets tried in each file.
const FLIPS: u64 = 24;

#[test]
fn a_flipped_bit_in_any_file_is_never_served() {
    // A table from an installed snapshot, and one with what came later.
    let mut source = Harness::new();
    source.ops((0..400).map(|i| set(&format!("k{i:03}"), &format!("value {i}"))).collect());
    let mut h = Harness::new();
    Taken::of(&source.store).install(&h.store);
    h.next = source.next;
    let mut states: HashMap<u64, Vec<Entry>> = HashMap::from([(0, Vec::new())]);
    states.insert(h.next, all_of(&h.store).unwrap());
    for i in 0..5 {
        h.op(set(&format!("k{i:03}"), "later"));
        // `op` applies two entries: the first one opens a session and leaves the keys alone.
        let before = states[&(h.next - 2)].clone();
        states.insert(h.next - 1, before);
        states.insert(h.next, all_of(&h.store).unwrap());
    }
    let whole = h.store.position().next_index;
    h.store.close();
    let pristine = h.dir;
    drop(h.store);
    // The generation that the snapshot replaced is removed in the background.
    wait_until("the old generation is removed", || {
        names(pristine.path()).iter().filter(|name| name.starts_with("gen-")).count() == 1
    });

    let (mut served, mut refused, mut set_back, mut unreadable) = (0, 0, 0, 0);
    for file in files(pristine.path()) {
        let relative = file.strip_prefix(pristine.path()).unwrap();
        let used = used_bytes(&file);
        for flip in 0..FLIPS.min(used) {
            let at = used * flip / FLIPS.min(used);
            let copy = tempfile::tempdir().unwrap();
            copy_dir(pristine.path(), copy.path());
            flip_bit(&copy.path().join(relative), at, flip % 8);
            let case = format!("{} at {at} of {used}", relative.display());
            let Ok((store, fatals)) = open_with(copy.path(), StateLimits::default()) else {
                refused += 1;
                continue;
            };
            let position = store.position().next_index;
            let expected = states.get(&position).unwrap_or_else(|| panic!("{case}: at {position}"));
            if position != whole {
                set_back += 1;
            }
            match all_of(&store) {
                Ok(entries) => {
                    assert_eq!(&entries, expected, "{case}");
                    served += 1;
                }
                Err(_) => {
                    unreadable += 1;
                    let ends: Vec<_> = fatals.lock().unwrap().iter().map(|fatal| fatal.exit_code).collect();
                    assert_eq!(ends, [exit::DATA], "{case}: once, and with this code");
                }
            }
            for entry in &states[&whole] {
                if let Ok(found) = store.get(&entry.key) {
                    let right = expected.iter().find(|expected| expected.key == entry.key);
                    assert_eq!(found.as_ref(), right, "{case}");
                }
            }
            store.close();
            drop(store);
            let found = !fatals.lock().unwrap().is_empty();
            let next_index = open(copy.path()).unwrap().position().next_index;
            assert_eq!(
                next_index,
                if found { 0 } else { position },
                "{case}: what a reader found is put aside by the next start"
            );
        }
    }
    println!("served right {served}, of those set back {set_back}; unreadable {unreadable}; refused {refused}");
    assert!(unreadable > 0 && set_back > 0, "the test reaches tables and the lists of them");
}

/// Nobody reads the damaged part but a compaction.
#[test]
fn damage_that_a_compaction_finds_is_noticed_by_the_next_flush() {
    let mut h = Harness::new();
    h.ops((0..2_000).map(|i| set(&format!("k{i:04}"), &format!("value {i}"))).collect());
    h.store.persist().unwrap();
    h.store.close();
    let table = files(h.dir.path()).into_iter().filter(|file| file.parent().is_some_and(|dir| dir.ends_with("tables")));
    let table = table.max_by_key(|file| used_bytes(file)).unwrap();
    let Harness { store, next, clock_ms, dir, .. } = h;
    drop(store);
    flip_bit(&table, used_bytes(&table) / 2, 3);
    let (store, fatals) = open_with(dir.path(), StateLimits::default()).unwrap();
    let mut h = Harness { store, fatals, next, clock_ms, group_clock_ms: 0, dir };
    wait_until("a flush says that the data is damaged", || {
        // Changes that the damaged part is not asked about.
        h.op(set("new", "value"));
        h.store.persist().is_err()
    });
    let fatals = h.fatals.lock().unwrap().clone();
    assert_eq!(fatals.iter().map(|fatal| fatal.exit_code).collect::<Vec<_>>(), [exit::DATA], "{fatals:?}");
    h.store.close();
    drop(h.store);
    assert_eq!(open(h.dir.path()).unwrap().position().next_index, 0, "the next start puts it aside");
}

fn used_bytes(file: &Path) -> u64 {
    let mut bytes = Vec::new();
    fs::File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

fn flip_bit(file: &Path, at: u64, bit: u64) {
    let mut file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 1 << bit;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&byte).unwrap();
}
