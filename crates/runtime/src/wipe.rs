//! Orders to wipe a node: what a killed node leaves for its next start, so that no crash in between brings old data back.
//!
//! An order is a directory `kill` in the node's data directory, with a file for each [`Part`]; it appears in one atomic
//! rename. Each process carries out its own part before it opens anything, and then takes its file away. A process that
//! runs while the order appears is to end ([`ordered`]).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the order in the data directory.
const ORDER: &str = "kill";
/// Its name while it is being written.
const DRAFT: &str = "kill.tmp";
/// How often a running process looks for an order: a look is one call of the system.
const LOOK: Duration = Duration::from_millis(250);
/// Between two attempts to get the lock of a process that is still ending.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// How long a process may take to end: longer than its grace period, after which a supervisor kills it.
const LOCK_ATTEMPTS: u32 = 400;

/// One of a node's two processes, with the directory that is its alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The storage engine.
    Engine,
    /// The consensus sidecar.
    Sidecar,
}

impl Part {
    /// In the order in which they are noted: a fresh engine under an old sidecar is harmless, the reverse is not.
    const ALL: [Part; 2] = [Part::Engine, Part::Sidecar];

    /// Name of its directory, and of its file in the order.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Engine => "engine",
            Part::Sidecar => "sidecar",
        }
    }

    /// The file in its directory that it holds locked while it runs.
    const fn lock(self) -> &'static str {
        match self {
            Part::Engine => "LOCK",
            Part::Sidecar => "lock",
        }
    }

    /// Its directory.
    pub fn dir(self, data_dir: &Path) -> PathBuf {
        data_dir.join(self.name())
    }

    /// Its file in the order.
    fn mark(self, data_dir: &Path) -> PathBuf {
        data_dir.join(ORDER).join(self.name())
    }
}

/// Orders both parts to be wiped. Durable when this returns; more than once is as good as once. Blocks on the disk.
pub fn order(data_dir: &Path) -> io::Result<()> {
    let draft = data_dir.join(DRAFT);
    remove(&draft)?;
    fs::create_dir(&draft)?;
    write_marks(&draft)?;
    match fs::rename(&draft, data_dir.join(ORDER)) {
        Ok(()) => {}
        // An earlier order of which something is left: complete it, the engine's part first.
        Err(_) if data_dir.join(ORDER).is_dir() => {
            write_marks(&data_dir.join(ORDER))?;
            remove(&draft)?;
        }
        Err(error) => return Err(error),
    }
    sync(data_dir)
}

/// Whether an order for this part waits to be carried out.
pub fn is_ordered(data_dir: &Path, part: Part) -> bool {
    part.mark(data_dir).exists()
}

/// Returns once there is an order for this part: then the process has to end. Cancel safe.
pub async fn ordered(data_dir: &Path, part: Part) {
    while !is_ordered(data_dir, part) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Deletes what this part keeps, when that was ordered; says whether it was. To be called before anything is opened.
///
/// Waits for processes of the node that are still ending. The engine's part waits for the old sidecar, too, which would
/// otherwise bring its entries to the fresh engine. A crash in the middle leaves the order, and the next start goes on.
/// Blocks for as long as that takes, 20 seconds at most.
pub fn carry_out(data_dir: &Path, part: Part) -> io::Result<bool> {
    let told = |error: io::Error| {
        let dir = part.dir(data_dir);
        io::Error::new(error.kind(), format!("remove what is in {}: {error}", dir.display()))
    };
    obey(data_dir, part).map_err(told)
}

fn obey(data_dir: &Path, part: Part) -> io::Result<bool> {
    if !is_ordered(data_dir, part) {
        return Ok(false);
    }
    let _ended = ended(data_dir, part)?;
    let _sidecar = match part {
        Part::Engine if is_ordered(data_dir, Part::Sidecar) => ended(data_dir, Part::Sidecar)?,
        _ => None,
    };
    remove(&part.dir(data_dir))?;
    if part == Part::Sidecar {
        // What an earlier life put aside is of the same data.
        for entry in fs::read_dir(data_dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sidecar-lost-")) {
                remove(&path)?;
            }
        }
    }
    sync(data_dir)?;
    fs::remove_file(part.mark(data_dir))?;
    sync(&data_dir.join(ORDER))?;
    // The other part's file may still be there.
    let _ = fs::remove_dir(data_dir.join(ORDER));
    Ok(true)
}

/// The lock of a part's directory once the process that held it has ended; `None` = there is no such directory.
fn ended(data_dir: &Path, part: Part) -> io::Result<Option<File>> {
    let path = part.dir(data_dir).join(part.lock());
    let file = match File::options().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    let message = format!("the {} of this node still runs on {}, which is to be wiped", part.name(), path.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
}

fn write_marks(dir: &Path) -> io::Result<()> {
    for part in Part::ALL {
        File::create(dir.join(part.name()))?.sync_all()?;
        sync(dir)?;
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory with something in both parts.
    fn node() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("directory");
        for part in Part::ALL {
            fs::create_dir(part.dir(dir.path())).expect("directory");
            fs::write(part.dir(dir.path()).join("data"), "old").expect("file");
            File::create(part.dir(dir.path()).join(part.lock())).expect("lock");
        }
        dir
    }

    #[test]
    fn without_an_order_nothing_is_touched() {
        let dir = node();
        assert!(
            !carry_out(dir.path(), Part::Engine).expect("none") && !carry_out(dir.path(), Part::Sidecar).expect("none")
        );
        assert!(Part::Engine.dir(dir.path()).join("data").exists());
    }

    #[test]
    fn each_part_is_wiped_once_whoever_starts_first() {
        for first in [0, 1] {
            let dir = node();
            fs::create_dir(dir.path().join("sidecar-lost-1")).expect("put aside earlier");
            order(dir.path()).expect("ordered");
            order(dir.path()).expect("twice is as good as once");
            for part in [Part::ALL[first], Part::ALL[1 - first]] {
                assert!(is_ordered(dir.path(), part) && carry_out(dir.path(), part).expect("done"), "{part:?}");
                assert!(!part.dir(dir.path()).exists(), "{part:?} is wiped");
                assert!(!carry_out(dir.path(), part).expect("nothing left to do"));
            }
            assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0, "nothing is left of the order itself");
        }
    }

    #[test]
    fn an_order_half_carried_out_is_completed_by_the_next() {
        let dir = node();
        order(dir.path()).expect("ordered");
        carry_out(dir.path(), Part::Sidecar).expect("done");
        assert!(is_ordered(dir.path(), Part::Engine) && !is_ordered(dir.path(), Part::Sidecar));
        order(dir.path()).expect("ordered again");
        assert!(Part::ALL.iter().all(|part| is_ordered(dir.path(), *part)));
        // A draft that a crash left behind counts for nothing and stands in nobody's way.
        let dir = node();
        fs::create_dir(dir.path().join(DRAFT)).expect("draft");
        assert!(!is_ordered(dir.path(), Part::Engine));
        order(dir.path()).expect("ordered");
        assert!(is_ordered(dir.path(), Part::Engine) && !dir.path().join(DRAFT).exists());
    }

    #[test]
    fn the_engine_is_not_wiped_while_the_old_sidecar_runs() {
        let dir = node();
        let held = File::options().write(true).open(Part::Sidecar.dir(dir.path()).join("lock")).expect("open");
        held.try_lock().expect("the old sidecar");
        order(dir.path()).expect("ordered");
        let path = dir.path().to_owned();
        let wipe = std::thread::spawn(move || carry_out(&path, Part::Engine));
        std::thread::sleep(LOCK_PAUSE * 4);
        assert!(!wipe.is_finished() && Part::Engine.dir(dir.path()).join("data").exists());
        drop(held);
        assert!(wipe.join().expect("no panic").expect("wiped"));
        assert!(!Part::Engine.dir(dir.path()).exists());
    }

    #[tokio::test]
    async fn a_running_process_hears_of_the_order() {
        let dir = node();
        let (path, watched) = (dir.path().to_owned(), dir.path().to_owned());
        let watch = tokio::spawn(async move { ordered(&watched, Part::Engine).await });
        order(&path).expect("ordered");
        tokio::time::timeout(Duration::from_secs(10), watch).await.expect("in time").expect("no panic");
    }
}
