//! [`Directory`]: what a local cluster keeps on disk, held exclusively.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use raftkv_runtime::wipe::{self, Part};

use super::plan::Plan;
use crate::failure::Failure;

const LOCK_FILE: &str = "lock";
const PLAN_FILE: &str = "local.json";
const CLUSTER_FILE: &str = "cluster.json";
/// In a node's directory: it was killed, and stays out.
const KILLED_FILE: &str = "killed";
/// Data is for its owner only.
const MODE: u32 = 0o700;

/// A cluster's directory. The lock is held as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes it when it is not there, and locks it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let path = path.map_or_else(default_path, Path::to_owned);
        let path = std::path::absolute(path)?;
        let failed = |error: &io::Error| Failure::io(format!("open {}", path.display()), error);
        make(&path).map_err(|error| failed(&error))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_FILE));
        let lock = lock.map_err(|error| failed(&error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::unavailable(format!(
                "a cluster runs in {} already; stop it, or name another directory with --dir",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the state of the processes is told.
    pub(super) fn cluster_file(&self) -> PathBuf {
        self.path.join(CLUSTER_FILE)
    }

    /// Notes in the plan which nodes were killed and stay out; with `revive`, none does any more. A kill that this program
    /// did not live to see the end of is brought to its end.
    pub(super) fn note_killed(&self, plan: &mut Plan, revive: bool) -> Result<(), Failure> {
        for node in &mut plan.nodes {
            let failed = |error: io::Error| Failure::io(format!("look after the killed {}", node.name), &error);
            if is_kill_ordered(&node.dir) {
                finish_kill(&node.dir, Part::Engine).map_err(failed)?;
                finish_kill(&node.dir, Part::Sidecar).map_err(failed)?;
            }
            let file = node.dir.join(KILLED_FILE);
            if revive && file.exists() {
                std::fs::remove_file(&file).map_err(failed)?;
            }
            node.killed = file.exists();
        }
        Ok(())
    }

    /// Makes the directory of a node or a router when it is not there.
    pub(super) fn make_node(&self, name: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        make(&path).map_err(|error| Failure::io(format!("make {}", path.display()), &error))
    }

    /// What an earlier run decided; `None` = there was none.
    pub(super) fn load_plan(&self) -> Result<Option<Plan>, Failure> {
        let path = self.path.join(PLAN_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("read {}", path.display()), &error)),
        };
        let plan = serde_json::from_slice(&text).map_err(|error| {
            Failure::failed(format!("{} is damaged ({error}); name another directory with --dir", path.display()))
        })?;
        Ok(Some(plan))
    }

    /// Keeps the decisions for the next run.
    pub(super) fn store_plan(&self, plan: &Plan) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(plan).map_err(Failure::failed)?;
        let path = self.path.join(PLAN_FILE);
        replace(&path, &text).map_err(|error| Failure::io(format!("write {}", path.display()), &error))
    }
}

/// Whether a node whose processes have ended was killed.
pub(super) fn is_kill_ordered(node_dir: &Path) -> bool {
    wipe::is_ordered(node_dir, Part::Engine) || wipe::is_ordered(node_dir, Part::Sidecar)
}

/// Notes that a node was killed, and wipes the part of one of its processes, which has ended. Blocks on the disk.
pub(super) fn finish_kill(node_dir: &Path, part: Part) -> io::Result<()> {
    File::create(node_dir.join(KILLED_FILE))?;
    wipe::carry_out(node_dir, part).map(drop)
}

/// Replaces a file in one step: a reader sees the old or the new content, never a part.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.write_all(b"\n")?;
    std::fs::rename(&temporary, path)
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(path)
}

/// The user's data directory, as the XDG base directories define it.
fn default_path() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.unwrap_or_else(std::env::temp_dir).join("raftkv/local")
}

#[cfg(test)]
mod tests {
    use super::super::plan::Wanted;
    use super::*;

    #[test]
    fn a_killed_node_stays_out_until_it_is_revived() {
        let temporary = tempfile::tempdir().expect("dir");
        let directory = Directory::open(Some(temporary.path())).expect("open");
        let wanted = Wanted { nodes: Some(2), http_port: Some(0), ..Wanted::default() };
        let mut plan = Plan::make(directory.path(), None, wanted).expect("plan");
        let dir = plan.nodes[1].dir.clone();
        for part in ["engine", "sidecar"] {
            std::fs::create_dir_all(dir.join(part)).expect("data");
        }
        let killed = |plan: &Plan| plan.nodes.iter().map(|node| node.killed).collect::<Vec<_>>();
        directory.note_killed(&mut plan, false).expect("none");
        assert_eq!(killed(&plan), [false, false]);
        // As a run leaves it that died before it could wipe.
        wipe::order(&dir).expect("killed");
        directory.note_killed(&mut plan, false).expect("one");
        assert_eq!(killed(&plan), [false, true]);
        assert!(!dir.join("engine").exists() && !dir.join("sidecar").exists() && !is_kill_ordered(&dir));
        directory.note_killed(&mut plan, false).expect("still");
        assert_eq!(killed(&plan), [false, true]);
        directory.note_killed(&mut plan, true).expect("revived");
        assert_eq!(killed(&plan), [false, false]);
    }

    #[test]
    fn a_directory_is_held_by_one_at_a_time() {
        let temporary = tempfile::tempdir().expect("dir");
        let path = temporary.path().join("a/b");
        let held = Directory::open(Some(&path)).expect("first");
        let refused = Directory::open(Some(&path)).expect_err("held");
        assert!(refused.code == 69 && refused.message.contains("--dir"), "{refused:?}");
        drop(held);
        Directory::open(Some(&path)).expect("free again");
    }

    #[test]
    fn a_plan_is_kept_and_damage_is_told() {
        let temporary = tempfile::tempdir().expect("dir");
        let directory = Directory::open(Some(temporary.path())).expect("open");
        assert!(directory.load_plan().expect("nothing there").is_none());
        let wanted = Wanted { nodes: Some(2), http_port: Some(0), ..Wanted::default() };
        let plan = Plan::make(directory.path(), None, wanted).expect("plan");
        directory.store_plan(&plan).expect("store");
        let loaded = directory.load_plan().expect("load");
        assert_eq!(Plan::make(directory.path(), loaded, Wanted::default()).expect("resume"), plan);
        std::fs::write(temporary.path().join(PLAN_FILE), "{").expect("damage");
        assert!(directory.load_plan().expect_err("damaged").message.contains("damaged"));
    }
}
