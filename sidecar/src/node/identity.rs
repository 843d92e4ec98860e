//! [`Identity`]: who this node is, and [`IdentityStore`]: the file that remembers it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::raft::types::{Member, NodeId};

/// The file's name in the sidecar's directory.
const FILE: &str = "identity";
/// Held locked while a process uses the directory.
const LOCK: &str = "lock";
/// The log's directory beside it.
pub const LOG_DIR: &str = "wal";
/// Version of the file's format.
const VERSION: u32 = 1;
/// Raft ids fit into the integers that every JSON reader can hold.
const RAFT_ID_BITS: u32 = 53;

/// Who this node is. The raft id never changes; the addresses are what the configuration of this run says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random, made at the first start.
    pub raft_id: NodeId,
    /// NODE_ID.
    pub name: String,
    /// host:port peers reach it by.
    pub raft_address: String,
    /// host:port of its management API.
    pub management_address: String,
    /// host:port of its engine's HTTP API.
    pub http_address: String,
    /// host:port of its engine's Group service.
    pub group_address: String,
}

impl Identity {
    /// As the membership keeps it.
    pub fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            raft_address: self.raft_address.clone(),
            management_address: self.management_address.clone(),
            http_address: self.http_address.clone(),
            group_address: self.group_address.clone(),
        }
    }
}

/// The cluster this node belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allegiance {
    /// 128 random bits in hexadecimal.
    pub cluster_id: String,
    /// This node formed the cluster and may not have written its first membership yet.
    pub forming: bool,
}

/// A new cluster's id.
pub fn new_cluster_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What the file holds. The checksum is over the other fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    raft_id: NodeId,
    name: String,
    allegiance: Option<Allegiance>,
    crc32c: u32,
}

impl Stored {
    fn checksum(&self) -> u32 {
        let (cluster, forming) = self
            .allegiance
            .as_ref()
            .map_or(("", false), |allegiance| (allegiance.cluster_id.as_str(), allegiance.forming));
        crc32c::crc32c(format!("{}\n{}\n{}\n{cluster}\n{forming}", self.version, self.raft_id, self.name).as_bytes())
    }
}

/// Why the identity cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// A verb phrase.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two processes must never share a raft id.
    #[error("{} is in use by another process: is this node running already?", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file cannot be trusted.
    #[error("{} is damaged ({reason}): restore it, or move the node's whole data directory away and let the node join again, empty", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory belongs to another node.
    #[error(
        "this data directory belongs to the node {stored:?}, but NODE_ID says {configured:?}: use the directory of {configured:?}, or an empty one"
    )]
    NameMismatch {
        /// In the file.
        stored: String,
        /// In the configuration.
        configured: String,
    },
}

/// The file `identity`, with the directory locked for as long as this lives.
#[derive(Debug)]
pub struct IdentityStore {
    dir: PathBuf,
    stored: Mutex<Stored>,
    _lock: File,
}

impl IdentityStore {
    /// Opens the directory of `name`; on the first start, makes the raft id.
    pub fn open(dir: &Path, name: &str) -> Result<Self, IdentityError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { action, path, source }
        };
        raftkv_runtime::directory::create_durable(dir).map_err(failed("create the directory", dir))?;
        let lock_path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| IdentityError::InUse { path: dir.to_owned() })?;

        let path = dir.join(FILE);
        let stored = match fs::read_to_string(&path) {
            Ok(text) => parse(&text, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if has_files(&dir.join(LOG_DIR)) {
                    let reason = "it is missing beside a log".to_owned();
                    return Err(IdentityError::Damaged { path, reason });
                }
                let raft_id = rand::random::<u64>() % ((1 << RAFT_ID_BITS) - 1) + 1;
                let stored =
                    sealed(Stored { version: VERSION, raft_id, name: name.to_owned(), allegiance: None, crc32c: 0 });
                replace(dir, FILE, &stored).map_err(failed("write", &path))?;
                stored
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(IdentityError::Damaged { path, reason: "it is not text".to_owned() });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if stored.allegiance.is_some() && !has_files(&dir.join(LOG_DIR)) {
            // Without its log this node could vote twice in a term it has voted in.
            let reason = "the log that belongs to it is missing".to_owned();
            return Err(IdentityError::Damaged { path, reason });
        }
        if stored.name != name {
            return Err(IdentityError::NameMismatch { stored: stored.name, configured: name.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), stored: Mutex::new(stored), _lock: lock })
    }

    /// This node's raft id.
    pub fn raft_id(&self) -> NodeId {
        self.lock().raft_id
    }

    /// The cluster this node belongs to, if any.
    pub fn allegiance(&self) -> Option<Allegiance> {
        self.lock().allegiance.clone()
    }

    /// Remembers it. Durable when this returns. Blocks on the disk.
    pub fn pledge(&self, allegiance: Allegiance) -> io::Result<()> {
        let mut stored = self.lock();
        let next = sealed(Stored { allegiance: Some(allegiance), ..stored.clone() });
        replace(&self.dir, FILE, &next)?;
        *stored = next;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sealed(mut stored: Stored) -> Stored {
    stored.crc32c = stored.checksum();
    stored
}

fn has_files(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn parse(text: &str, path: &Path) -> Result<Stored, IdentityError> {
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    let stored: Stored = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    if stored.version != VERSION {
        return Err(damaged(format!("version {}, this program knows {VERSION}", stored.version)));
    }
    if stored.crc32c != stored.checksum() {
        return Err(damaged("the checksum is wrong".to_owned()));
    }
    if stored.raft_id == 0 {
        return Err(damaged("the raft id is zero".to_owned()));
    }
    Ok(stored)
}

/// Writes a small file of the data directory, durably: the old file or the new one is there, whole, whenever the power fails. Blocks on the
/// disk.
pub(crate) fn replace(dir: &Path, name: &str, stored: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(stored)?)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("directory")
    }

    #[test]
    fn the_raft_id_and_the_cluster_survive_a_restart() {
        let dir = temporary();
        let store = IdentityStore::open(dir.path(), "n1").expect("first start");
        let raft_id = store.raft_id();
        assert!(raft_id > 0 && raft_id < 1 << RAFT_ID_BITS);
        assert_eq!(store.allegiance(), None);
        let allegiance = Allegiance { cluster_id: new_cluster_id(), forming: true };
        store.pledge(allegiance.clone()).expect("written");
        drop(store);
        assert!(matches!(IdentityStore::open(dir.path(), "n1"), Err(IdentityError::Damaged { .. })), "no log");
        fs::create_dir(dir.path().join(LOG_DIR)).expect("directory");
        fs::write(dir.path().join(LOG_DIR).join("segment"), b"x").expect("file");

        let store = IdentityStore::open(dir.path(), "n1").expect("second start");
        assert_eq!(store.raft_id(), raft_id);
        assert_eq!(store.allegiance(), Some(allegiance));
    }

    #[test]
    fn another_name_and_a_second_process_are_refused() {
        let dir = temporary();
        let store = IdentityStore::open(dir.path(), "n1").expect("first start");
        assert!(matches!(IdentityStore::open(dir.path(), "n1"), Err(IdentityError::InUse { .. })));
        drop(store);
        assert!(matches!(IdentityStore::open(dir.path(), "n2"), Err(IdentityError::NameMismatch { .. })));
    }

    #[test]
    fn every_damage_is_noticed() {
        let dir = temporary();
        IdentityStore::open(dir.path(), "n1").expect("first start");
        let path = dir.path().join(FILE);
        let good = fs::read(&path).expect("file");
        for cut in 0..good.len() - 1 {
            fs::write(&path, &good[..cut]).expect("damage");
            let opened = IdentityStore::open(dir.path(), "n1");
            assert!(matches!(opened, Err(IdentityError::Damaged { .. })), "cut at {cut}: {opened:?}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x04;
            fs::write(&path, &bad).expect("damage");
            // A flip within white space may leave the same meaning.
            if let Ok(store) = IdentityStore::open(dir.path(), "n1") {
                assert_eq!(serde_json::to_vec_pretty(&*store.lock()).expect("text"), good, "flip at {at}");
            }
        }
    }

    #[test]
    fn a_log_without_an_identity_is_damage_and_not_a_first_start() {
        let dir = temporary();
        fs::create_dir(dir.path().join(LOG_DIR)).expect("directory");
        fs::write(dir.path().join(LOG_DIR).join("segment"), b"x").expect("file");
        let error = IdentityStore::open(dir.path(), "n1").expect_err("refused").to_string();
        assert!(error.contains("missing beside a log"), "{error}");
    }

    #[test]
    fn cluster_ids_are_128_bits_of_hexadecimal() {
        let id = new_cluster_id();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert_ne!(id, new_cluster_id());
    }
}
