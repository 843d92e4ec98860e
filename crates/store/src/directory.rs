//! [`Directory`]: which generation is the live one.
//!
//! ```text
//! LOCK          held while a process has the store open
//! CURRENT       names the live generation
//! gen-7/        a generation: one fjall database
//! gen-8/STAGED  in a generation that is not the live one: a snapshot that was received whole and waits to be activated
//! damaged-6-…/  a generation that was put aside, kept for whoever wants to look into it
//! ```
//!
//! A generation that `CURRENT` does not name is a staged snapshot where it has a file `STAGED`, see [`Staged`](super::staged::Staged).
//! Any other one is a snapshot that was being received, or was replaced: it is removed when the store is opened.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftkv_runtime::failpoint;

use super::StoreError;

const CURRENT: &str = "CURRENT";
const CURRENT_NEXT: &str = "CURRENT.next";
const LOCK: &str = "LOCK";
/// In a generation: it is a snapshot that was received whole, and where it ends.
const STAGED: &str = "STAGED";
/// First line of `STAGED`: its format.
const STAGED_LINE: &str = "raftkv-staged 1";
/// In a generation: it is known to be damaged, and why.
const DAMAGED: &str = "DAMAGED";
/// First line of `CURRENT`: the format of the directory.
const FORMAT_LINE: &str = "raftkv-store 1";
/// What it begins with, whatever the format.
const FORMAT_NAME: &str = "raftkv-store ";

/// A process that was just killed may need a moment to let go of the lock.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The store's directory, locked.
pub(super) struct Directory {
    root: PathBuf,
    _lock: File,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

/// Whether `CURRENT` is whole and of another format than this version's.
fn is_other_format(text: &str) -> bool {
    let Some(version) = text.lines().next().and_then(|line| line.strip_prefix(FORMAT_NAME)) else { return false };
    text.ends_with('\n') && version.parse::<u32>().is_ok_and(|version| format!("{FORMAT_NAME}{version}") != FORMAT_LINE)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io("sync", path))
}

/// Makes the names in a directory and in all below it durable.
pub(super) fn sync_directories(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(io("read", path))? {
        let entry = entry.map_err(io("read", path))?;
        if entry.file_type().map_err(io("read", path))?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    sync_directory(path)
}

impl Directory {
    /// Creates it where it is missing, and locks it.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        raftkv_runtime::directory::create_durable(root).map_err(io("create", root))?;
        let path = root.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
        for attempt in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked { path: root.to_owned() });
                }
                Err(fs::TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
            }
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a generation is.
    pub(super) fn generation(&self, number: u64) -> PathBuf {
        self.root.join(format!("gen-{number}"))
    }

    /// The number of the live generation; `None` in a directory that has none yet.
    pub(super) fn current(&self) -> Result<Option<u64>, StoreError> {
        let path = self.root.join(CURRENT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.adopt(),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) => {
                return Err(self.damaged(&path));
            }
            Err(error) => return Err(io("read", &path)(error)),
        };
        let number = text
            .strip_prefix(FORMAT_LINE)
            .and_then(|rest| rest.strip_prefix("\ngen-"))
            .and_then(|rest| rest.strip_suffix('\n'))
            .and_then(|number| number.parse().ok());
        match number {
            Some(number) => Ok(Some(number)),
            None if is_other_format(&text) => Err(StoreError::Unsupported(format!(
                "{} does not begin with `{FORMAT_LINE}`: it was written by another version of the engine. Run that one",
                path.display()
            ))),
            None => Err(self.damaged(&path)),
        }
    }

    fn damaged(&self, path: &Path) -> StoreError {
        StoreError::Corrupt(format!(
            "{} does not read `{FORMAT_LINE}` and the name of a generation. To let this node fetch everything from its group, \
             remove {}",
            path.display(),
            self.root.display()
        ))
    }

    /// `CURRENT` is written last when a store is made, so with no `CURRENT` a crash has left an empty generation, or
    /// somebody has removed the file. With one generation there is no doubt which is meant; a staged one never was live.
    fn adopt(&self) -> Result<Option<u64>, StoreError> {
        let mut numbers = self.numbers("gen-")?;
        numbers.retain(|&number| self.staged_at(number).is_none());
        match numbers.as_slice() {
            [] => Ok(None),
            [number] => Ok(Some(*number)),
            several => Err(StoreError::Corrupt(format!(
                "{} has the generations {several:?} but no file CURRENT that says which one is live",
                self.root.display()
            ))),
        }
    }

    /// Makes a generation the live one. Atomic: after a crash it is the old one or the new one.
    pub(super) fn set_current(&self, number: u64) -> Result<(), StoreError> {
        let next = self.root.join(CURRENT_NEXT);
        let mut file = File::create(&next).map_err(io("create", &next))?;
        write!(file, "{FORMAT_LINE}\ngen-{number}\n").map_err(io("write", &next))?;
        file.sync_all().map_err(io("sync", &next))?;
        let path = self.root.join(CURRENT);
        failpoint!("engine::swap::before_rename");
        fs::rename(&next, &path).map_err(io("rename", &next))?;
        failpoint!("engine::swap::after_rename");
        sync_directory(&self.root)
    }

    /// A number that no generation has had here, as far as the directory knows.
    pub(super) fn next_number(&self) -> Result<u64, StoreError> {
        let live = self.numbers("gen-")?.into_iter().max().unwrap_or(0);
        let damaged = self.numbers("damaged-")?.into_iter().max().unwrap_or(0);
        let named = self.current().ok().flatten().unwrap_or(0);
        Ok(live.max(damaged).max(named) + 1)
    }

    /// Removes every generation but those given.
    pub(super) fn remove_others(&self, keep: &[u64]) -> Result<(), StoreError> {
        for number in self.numbers("gen-")? {
            if !keep.contains(&number) {
                tracing::info!(generation = number, "removing a generation that is not the live one");
                self.remove(number)?;
            }
        }
        Ok(())
    }

    /// Removes a generation; nothing happens where there is none.
    pub(super) fn remove(&self, number: u64) -> Result<(), StoreError> {
        let path = self.generation(number);
        // First and durably: what a crash leaves of the rest must not be taken for a whole snapshot.
        self.unmark_staged(number)?;
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Notes in a generation, durably, that it is a whole snapshot up to `next_index`. All else in it is durable before.
    pub(super) fn mark_staged(&self, number: u64, next_index: u64) -> Result<(), StoreError> {
        let generation = self.generation(number);
        let path = generation.join(STAGED);
        let mut file = File::create(&path).map_err(io("create", &path))?;
        write!(file, "{STAGED_LINE}\nnext-index {next_index}\n").map_err(io("write", &path))?;
        file.sync_all().map_err(io("sync", &path))?;
        sync_directory(&generation)
    }

    /// A generation is no staged snapshot any more. Durable when it returns.
    pub(super) fn unmark_staged(&self, number: u64) -> Result<(), StoreError> {
        let generation = self.generation(number);
        let path = generation.join(STAGED);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&generation),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("remove", &path)(error)),
        }
    }

    /// The newest staged snapshot besides the live generation: its number and where it ends.
    pub(super) fn staged(&self, live: Option<u64>) -> Result<Option<(u64, u64)>, StoreError> {
        let numbers = self.numbers("gen-")?.into_iter().rev().filter(|&number| Some(number) != live);
        Ok(numbers.filter_map(|number| Some((number, self.staged_at(number)?))).next())
    }

    /// Where a staged snapshot ends. `None` where the generation is none, or its note was not written to the end.
    fn staged_at(&self, number: u64) -> Option<u64> {
        let text = fs::read_to_string(self.generation(number).join(STAGED)).ok()?;
        let rest = text.strip_prefix(STAGED_LINE)?.strip_prefix("\nnext-index ")?;
        rest.strip_suffix('\n')?.parse().ok()
    }

    /// Moves a generation out of the way. Only the newest that was put aside is kept: the disk is finite.
    pub(super) fn put_aside(&self, number: u64) -> Result<PathBuf, StoreError> {
        for old in self.names("damaged-")? {
            let path = self.root.join(old);
            fs::remove_dir_all(&path).map_err(io("remove", &path))?;
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let from = self.generation(number);
        let to = self.root.join(format!("damaged-{number}-{seconds}"));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("rename", &from)(error)),
            _ => sync_directory(&self.root).map(|()| to),
        }
    }

    /// Notes in a generation that it is damaged, so that the next start puts it aside. Best effort: the disk it is
    /// written to has just failed.
    pub(super) fn mark_damaged(&self, number: u64, why: &str) {
        let path = self.generation(number).join(DAMAGED);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(why.as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = written {
            tracing::error!(path = %path.display(), %error, "could not note that the generation is damaged");
        }
    }

    /// Why a generation is known to be damaged.
    pub(super) fn damage_of(&self, number: u64) -> Option<String> {
        let why = fs::read(self.generation(number).join(DAMAGED)).ok()?;
        Some(String::from_utf8_lossy(&why).into_owned())
    }

    /// Bytes allocated on the disk by everything in the directory.
    pub(super) fn disk_bytes(&self) -> u64 {
        fn walk(path: &Path) -> u64 {
            use std::os::unix::fs::MetadataExt;
            // Files come and go while we look: what cannot be read counts as nothing.
            let Ok(entries) = fs::read_dir(path) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => walk(&entry.path()),
                    // Blocks and not lengths: journals are preallocated with holes.
                    Ok(meta) => meta.blocks() * 512,
                    Err(_) => 0,
                })
                .sum()
        }
        walk(&self.root)
    }

    /// Bytes an unprivileged process may still write on the file system.
    pub(super) fn disk_free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| io("stat", &self.root)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io("read", &self.root))? {
            let entry = entry.map_err(io("read", &self.root))?;
            if let Some(name) = entry.file_name().to_str()
                && name.starts_with(prefix)
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn numbers(&self, prefix: &str) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> = self
            .names(prefix)?
            .iter()
            .filter_map(|name| name[prefix.len()..].split('-').next()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_survives_and_garbage_in_it_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        assert_eq!(directory.current().unwrap(), None);
        directory.set_current(3).unwrap();
        assert_eq!(directory.current().unwrap(), Some(3));
        assert_eq!(directory.next_number().unwrap(), 4);
        let damage =
            ["", "\n", "gen-3\n", "raftkv-store 1\ngen-x\n", "raftkv-store 1\ngen-3", "raftkv-store", "\0\0\0\0"];
        for bad in damage {
            fs::write(root.path().join(CURRENT), bad).unwrap();
            assert!(matches!(directory.current(), Err(StoreError::Corrupt(_))), "{bad:?}");
        }
        fs::write(root.path().join(CURRENT), [0xff, 0xfe]).unwrap();
        assert!(matches!(directory.current(), Err(StoreError::Corrupt(_))));
        fs::write(root.path().join(CURRENT), "raftkv-store 2\ngen-3\n").unwrap();
        assert!(matches!(directory.current(), Err(StoreError::Unsupported(_))));
        fs::remove_file(root.path().join(CURRENT)).unwrap();
        fs::create_dir(root.path().join(CURRENT)).unwrap();
        assert!(matches!(directory.current(), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn without_current_a_single_generation_is_adopted_and_several_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        fs::create_dir(directory.generation(2)).unwrap();
        assert_eq!(directory.current().unwrap(), Some(2));
        fs::create_dir(directory.generation(3)).unwrap();
        assert!(matches!(directory.current(), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_staged_generation_is_known_by_its_whole_note() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        for number in 1..=3 {
            fs::create_dir(directory.generation(number)).unwrap();
        }
        assert_eq!(directory.staged(Some(1)).unwrap(), None);
        directory.mark_staged(2, 17).unwrap();
        assert_eq!(directory.staged(Some(1)).unwrap(), Some((2, 17)));
        assert_eq!(directory.staged(Some(2)).unwrap(), None, "the live one is not staged");
        let note = directory.generation(3).join(STAGED);
        let whole = format!("{STAGED_LINE}\nnext-index 5196\n");
        for end in 0..whole.len() {
            fs::write(&note, &whole[..end]).unwrap();
            assert_eq!(directory.staged(Some(1)).unwrap(), Some((2, 17)), "cut at {end}");
        }
        fs::write(&note, &whole).unwrap();
        assert_eq!(directory.staged(Some(1)).unwrap(), Some((3, 5196)));
        assert_eq!(directory.current().unwrap(), Some(1), "without CURRENT the one that is not staged is meant");
        directory.remove_others(&[1, 2]).unwrap();
        assert_eq!(directory.staged(Some(1)).unwrap(), Some((2, 17)));
        directory.unmark_staged(2).unwrap();
        assert_eq!(directory.staged(Some(1)).unwrap(), None);
        directory.remove(2).unwrap();
        directory.remove(2).unwrap();
        assert_eq!(directory.numbers("gen-").unwrap(), [1]);
    }

    #[test]
    fn only_the_newest_damaged_generation_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        for number in [1, 2] {
            fs::create_dir(directory.generation(number)).unwrap();
            directory.put_aside(number).unwrap();
        }
        let kept = directory.names("damaged-").unwrap();
        assert_eq!(kept.len(), 1);
        assert!(kept[0].starts_with("damaged-2-"));
        assert_eq!(directory.next_number().unwrap(), 3);
    }
}
