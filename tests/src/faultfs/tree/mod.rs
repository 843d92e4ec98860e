//! [`Tree`]: a file system in memory that tracks the durable state.

mod durability;
mod entries;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::io::Errno;

pub use durability::Loss;

use super::content::PAGE;
use super::fault::{Call, Counts, Effect, Fault, Faults, Fired};
use super::file::{FileData, SECTOR};
use super::names::{Ino, NamePromise, Names};

/// The root directory.
pub(super) const ROOT: Ino = 1;
/// Capacity when space is not part of the test. Only written data takes memory.
const CAPACITY: u64 = 64 * 1024 * 1024 * 1024;

/// Content of an inode.
#[derive(Debug)]
pub(super) enum Body {
    File(Box<FileData>),
    Directory(Directory),
    /// Exists as a name only; the kernel implements the socket.
    Socket,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    live: BTreeMap<OsString, Entry>,
    durable: BTreeMap<OsString, Ino>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    ino: Ino,
    /// Position in listings; other entries may come and go without changing the position.
    cookie: u64,
}

/// A file, directory or socket with metadata.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) changed: SystemTime,
    /// Number of live names.
    pub(super) links: u32,
    durable_links: u32,
    /// Number of references from changes not yet durable.
    pending_links: u32,
    opens: u32,
    /// The last live name.
    place: (Ino, OsString),
}

/// Space of the file system, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Total pages.
    pub total: u64,
    /// Free pages.
    pub free: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// A file system in memory, with the live and the durable state of each file and directory.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: HashMap<Ino, Inode>,
    names: Names,
    promise: NamePromise,
    /// Number of the last change; also the source of inode numbers and cookies.
    number: u64,
    capacity: u64,
    read_only: bool,
    faults: Faults,
    counts: Counts,
    tears: StdRng,
}

type Result<T> = std::result::Result<T, Errno>;

impl Tree {
    /// Creates an empty file system.
    pub(super) fn new(promise: NamePromise) -> Self {
        let mut tree = Self {
            inodes: HashMap::new(),
            names: Names::default(),
            promise,
            number: ROOT,
            capacity: CAPACITY,
            read_only: false,
            faults: Faults::default(),
            counts: Counts::default(),
            tears: StdRng::seed_from_u64(0),
        };
        let mut root = Inode::new(Body::Directory(Directory::default()), 0o755, (0, 0), (ROOT, OsString::new()));
        (root.links, root.durable_links) = (1, 1);
        tree.inodes.insert(ROOT, root);
        tree
    }

    /// Operations and refusals so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Injects a fault.
    pub(super) fn inject(&mut self, fault: Fault) -> Fired {
        self.faults.add(fault)
    }

    /// Clears all faults.
    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Enables or disables read-only mode.
    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Limits the free space to this number of bytes; `None` restores the original capacity.
    pub(super) fn set_free(&mut self, bytes: Option<u64>) {
        self.capacity = bytes.map_or(CAPACITY, |bytes| self.used_pages() * PAGE + bytes);
    }

    /// Total and free space.
    pub(super) fn space(&self) -> Space {
        // The total stays the same on a full disk: a process must not mistake a full disk for a small disk.
        let free = (self.capacity / PAGE).saturating_sub(self.used_pages());
        Space { total: CAPACITY / PAGE, free, inodes: self.inodes.len() as u64 }
    }

    fn used_pages(&self) -> u64 {
        let used = self.inodes.values().filter(|inode| inode.links > 0 || inode.opens > 0);
        used.map(|inode| if let Body::File(file) = &inode.body { file.live().pages() } else { 1 }).sum()
    }

    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    fn directory(&self, ino: Ino) -> Result<&Directory> {
        match &self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match &mut self.inode_mut(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn file(&self, ino: Ino) -> Result<&FileData> {
        match &self.inode(ino)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::ISDIR),
            Body::Socket => Err(Errno::INVAL),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut FileData> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(file) => Ok(file),
            Body::Directory(_) => Err(Errno::ISDIR),
            Body::Socket => Err(Errno::INVAL),
        }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn writable(&mut self) -> Result<()> {
        if self.read_only {
            self.counts.read_only += 1;
            return Err(Errno::ROFS);
        }
        Ok(())
    }

    fn has_space(&mut self, pages: u64) -> Result<()> {
        if pages > 0 && self.space().free < pages {
            self.counts.no_space += 1;
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    /// Path from the root; the last known path for an inode without a name.
    fn path(&self, mut ino: Ino) -> PathBuf {
        let mut names = Vec::new();
        while ino != ROOT
            && let Some(inode) = self.inodes.get(&ino)
        {
            names.push(&inode.place.1);
            ino = inode.place.0;
        }
        names.into_iter().rev().collect()
    }

    fn effect(&mut self, call: Call, ino: Ino) -> Option<Effect> {
        if self.faults.is_empty() {
            return None;
        }
        let path = self.path(ino);
        self.faults.effect(call, &path)
    }

    /// Registers an open file handle.
    pub(super) fn open(&mut self, ino: Ino) -> Result<()> {
        self.inode_mut(ino)?.opens += 1;
        Ok(())
    }

    /// Closes a file handle.
    pub(super) fn release(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        self.forget(ino);
    }

    /// Reads bytes of a file.
    pub(super) fn read(&self, ino: Ino, offset: u64, size: u64) -> Result<Vec<u8>> {
        Ok(self.file(ino)?.live().read(offset, size))
    }

    /// Writes to a file. Visible at once; durable after an fsync.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writable()?;
        let len = bytes.len() as u64;
        let missing = self.file(ino)?.live().pages_missing(offset, len);
        self.has_space(missing)?;
        // The kernel does not report an error in the middle of a write: the process sees a short write and continues,
        // as allowed. So a fault fires only on a request that certainly begins a write.
        let effect = if self.file(ino)?.may_go_on(offset) { None } else { self.effect(Call::Write, ino) };
        let keep = match effect {
            Some(failing @ (Effect::Fail(_) | Effect::Gone)) => {
                self.counts.failed += 1;
                return Err(if let Effect::Fail(errno) = failing { errno } else { Errno::IO });
            }
            Some(Effect::Tear) => {
                let sectors = rand::RngExt::random_range(&mut self.tears, 0..=len / SECTOR);
                Some((sectors * SECTOR).min(len.saturating_sub(1)))
            }
            _ => None,
        };
        let number = self.next();
        let part = keep.map_or(bytes, |keep| &bytes[..keep as usize]);
        self.file_mut(ino)?.write(number, offset, part);
        self.inode_mut(ino)?.changed = SystemTime::now();
        if keep.is_some() {
            self.counts.torn += 1;
            return Err(Errno::IO);
        }
        self.counts.writes += 1;
        Ok(())
    }

    /// Sets the length of a file.
    pub(super) fn resize(&mut self, ino: Ino, len: u64) -> Result<()> {
        self.writable()?;
        let number = self.next();
        self.file_mut(ino)?.resize(number, len);
        self.inode_mut(ino)?.changed = SystemTime::now();
        Ok(())
    }

    /// Allocates space, and extends the file unless `keep_size` is set.
    pub(super) fn allocate(&mut self, ino: Ino, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.writable()?;
        let missing = self.file(ino)?.live().pages_missing(offset, len);
        self.has_space(missing)?;
        let (reserve, resize) = (self.next(), self.next());
        let file = self.file_mut(ino)?;
        file.reserve(reserve, offset, len);
        if !keep_size && offset + len > file.live().len() {
            file.resize(resize, offset + len);
        }
        Ok(())
    }

    /// Sets permissions and owner, each if given. Unaffected by a power loss: no test depends on them.
    pub(super) fn set_owner(&mut self, ino: Ino, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.mode = mode.unwrap_or(inode.mode);
        inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
        Ok(())
    }
}

impl Inode {
    fn new(body: Body, mode: u32, owner: (u32, u32), place: (Ino, OsString)) -> Self {
        Self {
            body,
            mode: mode & 0o7777,
            owner,
            changed: SystemTime::now(),
            links: 0,
            durable_links: 0,
            pending_links: 0,
            opens: 0,
            place,
        }
    }
}
