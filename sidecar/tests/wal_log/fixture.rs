//! Logs written by earlier releases open in this one.

use std::fs;
use std::path::PathBuf;

use raftkv_sidecar::wal::{Entry, Wal};
use tempfile::TempDir;

use super::support::*;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wal-v1")
}

fn write(dir: &std::path::Path) {
    let wal = Wal::open(options(dir, 700)).unwrap();
    durably(|done| wal.save_vote(ballot(1), done));
    durably(|done| wal.append((0..4).map(|index| entry(1, index, 60)).collect(), done));
    durably(|done| wal.truncate_after(Some(position(1, 2)), done));
    durably(|done| wal.save_vote(ballot(2), done));
    durably(|done| wal.append((3..6).map(|index| entry(2, index, 90)).collect(), done));
    durably(|done| wal.purge(position(1, 0), done));
    wal.save_committed(Some(position(2, 4))).unwrap();
    durably(|done| wal.append(vec![entry(2, 6, 20)], done));
}

#[test]
fn version_1_opens() {
    let dir = copy(&home());
    let wal = Wal::open(options(dir.path(), 700)).unwrap();
    let found = dump(&wal);
    assert_eq!(found.vote, Some(ballot(2)));
    assert_eq!(found.committed, Some(position(2, 4)));
    assert_eq!(found.bounds.purged, Some(position(1, 0)));
    assert_eq!(found.bounds.last, Some(position(2, 6)));
    let expected =
        [entry(1, 1, 60), entry(1, 2, 60), entry(2, 3, 90), entry(2, 4, 90), entry(2, 5, 90), entry(2, 6, 20)];
    // Only later versions have a second stamp.
    assert_eq!(found.entries, expected.map(|entry| Entry { second_stamp: None, ..entry }));
    assert!(wal.recovery().segments >= 2 && wal.recovery().torn.is_none());
}

/// `cargo test --release -p raftkv-sidecar --test wal_log -- --ignored write_version_1`, once, when there is no fixture yet.
#[test]
#[ignore = "writes the fixture"]
fn write_version_1() {
    assert!(!home().exists(), "a fixture is never written again");
    let dir = TempDir::new().unwrap();
    write(dir.path());
    fs::create_dir_all(home()).unwrap();
    for item in fs::read_dir(dir.path()).unwrap() {
        let item = item.unwrap();
        fs::copy(item.path(), home().join(item.file_name())).unwrap();
    }
}
