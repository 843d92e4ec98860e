//! Model-based test of the tree: after a power loss, synced data is present, and unsynced data is either old or new.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use proptest::prelude::*;
use rustix::io::Errno;

use super::fault::{Call, Effect, Fault};
use super::file::SECTOR;
use super::names::{Ino, NamePromise};
use super::tree::{Loss, ROOT, Tree};

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn tree(promise: NamePromise) -> Tree {
    Tree::new(promise)
}

fn file(tree: &mut Tree, dir: Ino, called: &str, bytes: &[u8]) -> Ino {
    let ino = tree.create(dir, name(called), 0o644, (0, 0)).expect("a new name");
    tree.write(ino, 0, bytes).expect("space");
    ino
}

fn sync(tree: &mut Tree, ino: Ino) {
    let sync = tree.begin_sync(ino).expect("it is there");
    tree.end_sync(sync).expect("no fault is set");
}

fn read(tree: &Tree, dir: Ino, called: &str) -> Option<Vec<u8>> {
    let ino = tree.lookup(dir, name(called)).ok()?;
    Some(tree.read(ino, 0, u64::MAX).expect("a file"))
}

#[test]
fn a_synced_file_needs_its_directory_synced_unless_there_is_a_journal() {
    for (promise, survives) in [(NamePromise::Directory, false), (NamePromise::Journal, true)] {
        let mut tree = tree(promise);
        let ino = file(&mut tree, ROOT, "a", b"synced");
        sync(&mut tree, ino);
        tree.power_loss(Loss::Volatile, 0);
        assert_eq!(read(&tree, ROOT, "a").is_some(), survives, "{promise:?}");
    }
}

#[test]
fn a_name_alone_is_an_empty_file() {
    let mut tree = tree(NamePromise::Directory);
    file(&mut tree, ROOT, "a", b"never synced");
    sync(&mut tree, ROOT);
    tree.power_loss(Loss::Volatile, 0);
    assert_eq!(read(&tree, ROOT, "a"), Some(Vec::new()));
}

#[test]
fn a_directory_without_a_durable_name_takes_everything_below_with_it() {
    let mut tree = tree(NamePromise::Directory);
    let dir = tree.mkdir(ROOT, name("d"), 0o755, (0, 0)).expect("new");
    let ino = file(&mut tree, dir, "a", b"synced");
    sync(&mut tree, ino);
    sync(&mut tree, dir);
    tree.power_loss(Loss::Volatile, 0);
    assert_eq!(tree.lookup(ROOT, name("d")), Err(Errno::NOENT));
    assert_eq!(tree.space().inodes, 1, "nothing of it is left in memory");
}

#[test]
fn a_rename_over_a_file_leaves_the_old_one_or_the_new_one() {
    let mut seen = BTreeMap::new();
    for seed in 0..100 {
        let mut tree = tree(NamePromise::Directory);
        let old = file(&mut tree, ROOT, "current", b"old");
        sync(&mut tree, old);
        sync(&mut tree, ROOT);
        let new = file(&mut tree, ROOT, "next", b"new");
        sync(&mut tree, new);
        tree.rename((ROOT, name("next")), (ROOT, name("current")), true).expect("renamed");
        tree.power_loss(Loss::Torn, seed);
        *seen.entry((read(&tree, ROOT, "current"), read(&tree, ROOT, "next"))).or_insert(0) += 1;
    }
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    let expected = [(new.clone(), None), (old.clone(), None), (old, new)];
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn a_removed_file_is_read_by_who_has_it_open_and_comes_back_if_the_removal_was_not_durable() {
    let mut tree = tree(NamePromise::Directory);
    let ino = file(&mut tree, ROOT, "a", b"bytes");
    sync(&mut tree, ino);
    sync(&mut tree, ROOT);
    tree.open(ino).expect("open");
    tree.unlink(ROOT, name("a")).expect("removed");
    assert_eq!(read(&tree, ROOT, "a"), None);
    assert_eq!(tree.read(ino, 0, 9), Ok(b"bytes".to_vec()));
    tree.release(ino);
    tree.power_loss(Loss::Volatile, 0);
    assert_eq!(read(&tree, ROOT, "a"), Some(b"bytes".to_vec()));

    tree.unlink(ROOT, name("a")).expect("removed");
    sync(&mut tree, ROOT);
    assert_eq!(tree.space().inodes, 1, "its memory is given back");
    tree.power_loss(Loss::Volatile, 0);
    assert_eq!(read(&tree, ROOT, "a"), None);
}

#[test]
fn space_is_counted_refused_and_given_back() {
    let mut tree = tree(NamePromise::Directory);
    let ino = file(&mut tree, ROOT, "a", &[1; 8192]);
    let total = tree.space().total;
    tree.set_free(Some(8192));
    assert_eq!((tree.space().total, tree.space().free), (total, 2), "as large as before");
    assert_eq!(tree.write(ino, 0, &[2; 8192]), Ok(()), "nothing new is allocated");
    assert_eq!(tree.write(ino, 8192, &[2; 8193]), Err(Errno::NOSPC));
    assert_eq!(tree.allocate(ino, 0, 20_000, false), Err(Errno::NOSPC));
    assert_eq!(tree.write(ino, 8192, &[2; 8192]), Ok(()));
    assert_eq!(tree.space().free, 0);
    assert_eq!(tree.create(ROOT, name("b"), 0o644, (0, 0)), Err(Errno::NOSPC));
    assert_eq!(tree.counts().no_space, 3);
    tree.resize(ino, 4096).expect("shorter");
    assert_eq!(tree.space().free, 3);
    tree.unlink(ROOT, name("a")).expect("deletes always work");
    assert_eq!(tree.space().free, 4);
}

#[test]
fn a_read_only_disk_refuses_changes_and_serves_reads() {
    let mut tree = tree(NamePromise::Directory);
    let ino = file(&mut tree, ROOT, "a", b"bytes");
    tree.set_read_only(true);
    assert_eq!(tree.write(ino, 0, b"x"), Err(Errno::ROFS));
    assert_eq!(tree.unlink(ROOT, name("a")), Err(Errno::ROFS));
    assert_eq!(tree.create(ROOT, name("b"), 0o644, (0, 0)), Err(Errno::ROFS));
    assert_eq!(read(&tree, ROOT, "a"), Some(b"bytes".to_vec()));
    assert_eq!(tree.counts().read_only, 3);
}

#[test]
fn a_torn_write_fails_and_leaves_whole_sectors_of_its_start() {
    let mut tree = tree(NamePromise::Directory);
    let ino = file(&mut tree, ROOT, "a", b"");
    let fired = tree.inject(Fault::new(Call::Write, Effect::Tear).times(20));
    for _ in 0..20 {
        tree.resize(ino, 0).expect("empty");
        assert_eq!(tree.write(ino, 0, &[1; 4 * SECTOR as usize]), Err(Errno::IO));
        let len = tree.read(ino, 0, u64::MAX).expect("a file").len() as u64;
        assert!(len < 4 * SECTOR && (len.is_multiple_of(SECTOR) || len == 4 * SECTOR - 1), "{len}");
    }
    assert_eq!(tree.write(ino, 0, b"whole"), Ok(()));
    assert_eq!((fired.count(), tree.counts().torn), (20, 20));
}

/// A step of a random history over two files in a directory.
#[derive(Debug, Clone)]
enum Step {
    Write { file: usize, sector: u64, sectors: u64 },
    Cut { file: usize, sectors: u64 },
    Fsync { file: usize },
    FsyncBegun { file: usize },
    Rename { from: usize, to: usize },
    Remove { file: usize },
    FsyncDirectory,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..3_usize;
    let step = prop_oneof![
        4 => (file.clone(), 0..6_u64, 1..4_u64).prop_map(|(file, sector, sectors)| Step::Write { file, sector, sectors }),
        1 => (file.clone(), 0..6_u64).prop_map(|(file, sectors)| Step::Cut { file, sectors }),
        2 => file.clone().prop_map(|file| Step::Fsync { file }),
        1 => file.clone().prop_map(|file| Step::FsyncBegun { file }),
        1 => (file.clone(), file.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => file.prop_map(|file| Step::Remove { file }),
        2 => Just(Step::FsyncDirectory),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Reference content of a file after each change since the last fsync, starting with the synced content.
#[derive(Debug, Clone, Default)]
struct Versions(Vec<Vec<u8>>);

impl Versions {
    fn last(&self) -> Vec<u8> {
        self.0.last().cloned().unwrap_or_default()
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_and_every_sector_is_one_of_its_versions(
        steps in steps(), seed: u64, torn: bool, journal: bool,
    ) {
        let promise = if journal { NamePromise::Journal } else { NamePromise::Directory };
        let mut tree = tree(promise);
        let mut files: BTreeMap<Ino, Versions> = BTreeMap::new();
        // Names after each change since the last fsync of the directory, starting with the synced names.
        let mut names: Vec<BTreeMap<usize, Ino>> = vec![BTreeMap::new()];
        let mut byte = 0;
        for step in steps {
            let now = names.last().cloned().unwrap_or_default();
            match step {
                Step::Write { file, sector, sectors } => {
                    let ino = match now.get(&file) {
                        Some(ino) => *ino,
                        None => {
                            let ino = tree.create(ROOT, name(NAMES[file]), 0o644, (0, 0)).expect("new");
                            let mut next = now;
                            next.insert(file, ino);
                            names.push(next);
                            files.insert(ino, Versions(vec![Vec::new()]));
                            ino
                        }
                    };
                    byte += 1;
                    let bytes = vec![byte; (sectors * SECTOR) as usize];
                    tree.write(ino, sector * SECTOR, &bytes).expect("space");
                    let versions = files.get_mut(&ino).expect("known");
                    let mut content = versions.last();
                    let end = ((sector + sectors) * SECTOR) as usize;
                    content.resize(content.len().max(end), 0);
                    content[(sector * SECTOR) as usize..end].copy_from_slice(&bytes);
                    versions.0.push(content);
                }
                Step::Cut { file, sectors } => if let Some(ino) = now.get(&file) {
                    tree.resize(*ino, sectors * SECTOR).expect("a file");
                    let versions = files.get_mut(ino).expect("known");
                    let mut content = versions.last();
                    content.resize((sectors * SECTOR) as usize, 0);
                    versions.0.push(content);
                },
                Step::Fsync { file } => if let Some(ino) = now.get(&file) {
                    sync(&mut tree, *ino);
                    let versions = files.get_mut(ino).expect("known");
                    versions.0 = vec![versions.last()];
                    if journal { names = vec![now] }
                },
                // The power fails before the fsync ends, so the fsync guarantees nothing.
                Step::FsyncBegun { file } => if let Some(ino) = now.get(&file) {
                    tree.begin_sync(*ino).expect("it is there");
                },
                Step::Rename { from, to } => if let Some(ino) = now.get(&from).copied() {
                    tree.rename((ROOT, name(NAMES[from])), (ROOT, name(NAMES[to])), true).expect("renamed");
                    if from != to {
                        let mut next = now;
                        next.remove(&from);
                        next.insert(to, ino);
                        names.push(next);
                    }
                },
                Step::Remove { file } => if now.contains_key(&file) {
                    tree.unlink(ROOT, name(NAMES[file])).expect("removed");
                    let mut next = now;
                    next.remove(&file);
                    names.push(next);
                },
                Step::FsyncDirectory => {
                    sync(&mut tree, ROOT);
                    names = vec![now];
                }
            }
        }
        // The live content of each file is the last write.
        for (number, ino) in names.last().cloned().unwrap_or_default() {
            prop_assert_eq!(read(&tree, ROOT, NAMES[number]).expect("there"), files[&ino].last());
        }
        tree.power_loss(if torn { Loss::Torn } else { Loss::Volatile }, seed);
        for (number, called) in NAMES.iter().enumerate() {
            let found = tree.lookup(ROOT, name(called)).ok();
            let possible: Vec<_> = names.iter().map(|names| names.get(&number).copied()).collect();
            prop_assert!(possible.contains(&found), "{} is {:?}, not one of {:?}", called, found, possible);
            if !torn {
                prop_assert_eq!(found, possible[0], "{} is what was synced", called);
            }
            let Some(ino) = found else { continue };
            let content = tree.read(ino, 0, u64::MAX).expect("a file");
            let versions = &files[&ino].0;
            if !torn {
                prop_assert_eq!(&content, &versions[0]);
            }
            prop_assert!(versions.iter().any(|version| version.len() == content.len()));
            for (sector, bytes) in content.chunks(SECTOR as usize).enumerate() {
                let at = sector * SECTOR as usize;
                let matches = |version: &Vec<u8>| version.get(at..at + bytes.len()) == Some(bytes);
                // Zeros if only the length survived.
                prop_assert!(versions.iter().any(matches) || bytes.iter().all(|byte| *byte == 0), "sector {}", sector);
            }
        }
        // A second power loss changes nothing: the remaining data is durable.
        let before: Vec<_> = NAMES.map(|called| read(&tree, ROOT, called)).into();
        tree.power_loss(Loss::Volatile, seed);
        prop_assert_eq!(before, Vec::from(NAMES.map(|called| read(&tree, ROOT, called))));
    }
}
