//! [`Tree`]: a file system in memory that knows what a power loss would leave of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::content::PAGE;
use super::fault::{Call, Counts, Effect, Fault, Faults, Fired};
use super::file::{FileData, SECTOR};
use super::names::{Ino, NameChange, NamePromise, Names, Renamed};

/// The root directory.
pub(super) const ROOT: Ino = 1;
/// Space of a file system whose space is no part of the test. Only what is written takes memory.
const CAPACITY: u64 = 64 * 1024 * 1024 * 1024;
/// As on other Linux file systems.
const NAME_MAX: usize = 255;

/// What a power loss leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Exactly what was made durable.
    Volatile,
    /// What was made durable, and of the rest some sectors and some names.
    Torn,
}

/// What is in an inode.
#[derive(Debug)]
pub(super) enum Body {
    File(Box<FileData>),
    Directory(Directory),
    /// Its place in the tree is all there is to it: the kernel does the rest.
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
    /// Where a listing goes on; entries that come and go meanwhile do not move the others.
    cookie: u64,
}

/// A file, directory or socket with what stands beside it.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) changed: SystemTime,
    /// Live names.
    pub(super) links: u32,
    durable_links: u32,
    /// Names in changes that are not durable.
    pending_links: u32,
    opens: u32,
    /// Its last live name.
    place: (Ino, OsString),
}

/// An fsync under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fsync {
    ino: Ino,
    upto: u64,
    fails: Option<Errno>,
    /// It fails, and what it covers stays as it is.
    is_gone: bool,
    /// How long it takes.
    pub(super) delay: Option<Duration>,
}

/// Space of the file system, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub total: u64,
    /// Not allocated.
    pub free: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A file system in memory. Each file keeps what processes see and what was made durable, each directory as well.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: HashMap<Ino, Inode>,
    names: Names,
    promise: NamePromise,
    /// Of the last change; inodes and cookies are numbered with it, too.
    number: u64,
    capacity: u64,
    read_only: bool,
    faults: Faults,
    counts: Counts,
    tears: StdRng,
}

type Result<T> = std::result::Result<T, Errno>;

impl Tree {
    /// An empty one.
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

    /// What it has done and refused so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Sets a fault.
    pub(super) fn inject(&mut self, fault: Fault) -> Fired {
        self.faults.add(fault)
    }

    /// Takes all faults back.
    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Refuses every change from now on, or takes them again.
    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Leaves this much space free; `None`: as much as there was at first.
    pub(super) fn set_free(&mut self, bytes: Option<u64>) {
        self.capacity = bytes.map_or(CAPACITY, |bytes| self.used_pages() * PAGE + bytes);
    }

    /// Its space.
    pub(super) fn space(&self) -> Space {
        // A disk that is full is no smaller: who looks at its size must not take it for a small one.
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

    /// Where it is, from the root; where it was when it has no name any more.
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

    /// Finds a name.
    pub(super) fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Ino> {
        self.directory(dir)?.live.get(name).map(|entry| entry.ino).ok_or(Errno::NOENT)
    }

    /// The entries of a directory after `cookie`, each with its own, in their order.
    pub(super) fn list(&self, dir: Ino, cookie: u64) -> Result<Vec<(u64, Ino, OsString)>> {
        let live = self.directory(dir)?.live.iter();
        let mut entries: Vec<_> = live
            .filter(|(_, entry)| entry.cookie > cookie)
            .map(|(name, entry)| (entry.cookie, entry.ino, name.clone()))
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// The directory that a directory is in.
    pub(super) fn parent(&self, dir: Ino) -> Ino {
        self.inodes.get(&dir).map_or(ROOT, |inode| inode.place.0)
    }

    /// Makes a file, directory or socket.
    pub(super) fn make(&mut self, dir: Ino, name: &OsStr, body: Body, mode: u32, owner: (u32, u32)) -> Result<Ino> {
        self.writable()?;
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.directory(dir)?;
        self.has_space(1)?;
        let ino = self.next();
        self.inodes.insert(ino, Inode::new(body, mode, owner, (dir, name.to_owned())));
        self.rename_entries(vec![(dir, name.to_owned(), Some(ino))])?;
        Ok(ino)
    }

    /// Makes an empty file.
    pub(super) fn create(&mut self, dir: Ino, name: &OsStr, mode: u32, owner: (u32, u32)) -> Result<Ino> {
        self.make(dir, name, Body::File(Box::default()), mode, owner)
    }

    /// Makes a directory.
    pub(super) fn mkdir(&mut self, dir: Ino, name: &OsStr, mode: u32, owner: (u32, u32)) -> Result<Ino> {
        self.make(dir, name, Body::Directory(Directory::default()), mode, owner)
    }

    /// Gives a file one more name.
    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        self.file(ino)?;
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.rename_entries(vec![(dir, name.to_owned(), Some(ino))])
    }

    /// Removes a name of a file or socket.
    pub(super) fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        let ino = self.lookup(dir, name)?;
        if self.directory(ino).is_ok() {
            return Err(Errno::ISDIR);
        }
        self.rename_entries(vec![(dir, name.to_owned(), None)])
    }

    /// Removes an empty directory.
    pub(super) fn rmdir(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        let ino = self.lookup(dir, name)?;
        if !self.directory(ino)?.live.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.rename_entries(vec![(dir, name.to_owned(), None)])
    }

    /// Moves a name, over another one where there is one. Survives whole or not at all.
    pub(super) fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), replace: bool) -> Result<()> {
        self.writable()?;
        let ino = self.lookup(from.0, from.1)?;
        if let Ok(target) = self.lookup(to.0, to.1) {
            if !replace {
                return Err(Errno::EXIST);
            }
            if target == ino {
                return Ok(());
            }
            match (self.directory(ino).is_ok(), self.directory(target)) {
                (true, Ok(target)) if !target.live.is_empty() => return Err(Errno::NOTEMPTY),
                (true, Err(_)) => return Err(Errno::NOTDIR),
                (false, Ok(_)) => return Err(Errno::ISDIR),
                _ => {}
            }
        }
        self.directory(to.0)?;
        self.rename_entries(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(ino))])
    }

    /// Changes entries, all of them in one step.
    fn rename_entries(&mut self, entries: Vec<(Ino, OsString, Option<Ino>)>) -> Result<()> {
        let number = self.next();
        let mut changed = Vec::with_capacity(entries.len());
        for (dir, name, after) in entries {
            let cookie = self.next();
            let directory = self.directory_mut(dir)?;
            let before = match after {
                Some(ino) => directory.live.insert(name.clone(), Entry { ino, cookie }),
                None => directory.live.remove(&name),
            };
            let before = before.map(|entry| entry.ino);
            self.inode_mut(dir)?.changed = SystemTime::now();
            if let Some(ino) = after {
                let inode = self.inode_mut(ino)?;
                inode.links += 1;
                inode.pending_links += 1;
                inode.place = (dir, name.clone());
            }
            if let Some(ino) = before {
                let inode = self.inode_mut(ino)?;
                inode.links -= 1;
                inode.pending_links += 1;
            }
            changed.push(Renamed { dir, name, before, after });
        }
        self.names.push(NameChange { number, entries: changed });
        Ok(())
    }

    /// Says that a process has it open.
    pub(super) fn open(&mut self, ino: Ino) -> Result<()> {
        self.inode_mut(ino)?.opens += 1;
        Ok(())
    }

    /// Says that one of those who had it open has closed it.
    pub(super) fn release(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        self.forget(ino);
    }

    /// Bytes of a file.
    pub(super) fn read(&self, ino: Ino, offset: u64, size: u64) -> Result<Vec<u8>> {
        Ok(self.file(ino)?.live().read(offset, size))
    }

    /// Writes to a file. Visible at once; durable after an fsync.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writable()?;
        let len = bytes.len() as u64;
        let missing = self.file(ino)?.live().pages_missing(offset, len);
        self.has_space(missing)?;
        // An error in the middle of a write is told to nobody: the process hears of a short write and goes on, rightly. So a
        // fault waits for a request that is certainly the beginning of one.
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

    /// Allocates space, and makes the file longer unless its size is to be kept.
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

    /// Sets permissions and owner, each as far as given. Not lost by a power loss: nothing here depends on them.
    pub(super) fn set_owner(&mut self, ino: Ino, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.mode = mode.unwrap_or(inode.mode);
        inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
        Ok(())
    }

    /// Begins an fsync of a file or directory: what is there now is what it covers.
    pub(super) fn begin_sync(&mut self, ino: Ino) -> Result<Fsync> {
        self.inode(ino)?;
        let mut sync = Fsync { ino, upto: self.number, fails: None, is_gone: false, delay: None };
        match self.effect(Call::Fsync, ino) {
            Some(Effect::Delay(delay)) => {
                self.counts.delayed += 1;
                sync.delay = Some(delay);
            }
            Some(Effect::Fail(errno)) => sync.fails = Some(errno),
            Some(Effect::Tear) => sync.fails = Some(Errno::IO),
            Some(Effect::Gone) => (sync.fails, sync.is_gone) = (Some(Errno::IO), true),
            None => {}
        }
        Ok(sync)
    }

    /// Ends an fsync: what it covers is durable now, unless it fails.
    pub(super) fn end_sync(&mut self, sync: Fsync) -> Result<()> {
        let Fsync { ino, upto, fails, is_gone, .. } = sync;
        if let Some(errno) = fails {
            if !is_gone && let Ok(file) = self.file_mut(ino) {
                file.fail_sync(upto);
            }
            self.counts.failed += 1;
            return Err(errno);
        }
        let promise = self.promise;
        let names = match (&mut self.inode_mut(ino)?.body, promise) {
            (Body::File(file), promise) => {
                file.sync(upto);
                if promise == NamePromise::Journal { self.names.sync_all(upto) } else { Vec::new() }
            }
            (_, NamePromise::Journal) => self.names.sync_all(upto),
            (_, NamePromise::Directory) => self.names.sync(ino, upto),
        };
        self.make_durable(names);
        self.counts.fsyncs += 1;
        Ok(())
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for entry in changes.into_iter().flat_map(|change| change.entries) {
            // A directory is kept as long as a change of it is not durable.
            if let Ok(directory) = self.directory_mut(entry.dir) {
                let before = match entry.after {
                    Some(ino) => directory.durable.insert(entry.name, ino),
                    None => directory.durable.remove(&entry.name),
                };
                if let Some(inode) = before.and_then(|ino| self.inodes.get_mut(&ino)) {
                    inode.durable_links -= 1;
                }
                if let Some(inode) = entry.after.and_then(|ino| self.inodes.get_mut(&ino)) {
                    inode.durable_links += 1;
                }
            }
            for ino in [entry.before, entry.after].into_iter().flatten() {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.pending_links -= 1;
                }
                self.forget(ino);
            }
        }
    }

    /// Forgets an inode that nobody can come to any more, not even after a power loss.
    fn forget(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(|inode| {
            inode.links == 0 && inode.durable_links == 0 && inode.pending_links == 0 && inode.opens == 0
        }) {
            self.inodes.remove(&ino);
        }
    }

    /// The power fails. All processes that had something open must be gone.
    pub(super) fn power_loss(&mut self, loss: Loss, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let pending = self.names.len();
        let survivors = match loss {
            Loss::Volatile => Vec::new(),
            Loss::Torn => self.names.tear(self.promise, &mut rng),
        };
        self.counts.names_lost += (pending - survivors.len()) as u64;
        self.names.clear();
        self.make_durable(survivors);
        self.restore();
        let mut inos: Vec<_> = self.inodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            if let Ok(file) = self.file_mut(ino) {
                let lost = match loss {
                    Loss::Volatile => file.drop_volatile(),
                    Loss::Torn => file.tear(&mut rng),
                };
                self.counts.changes_lost += lost as u64;
            }
        }
        self.counts.power_losses += 1;
    }

    /// Makes the durable names the live ones, and forgets what has none.
    fn restore(&mut self) {
        let mut links: HashMap<Ino, u32> = HashMap::from([(ROOT, 1)]);
        let mut places = HashMap::new();
        let mut seen = HashSet::new();
        let mut open = vec![ROOT];
        while let Some(dir) = open.pop() {
            if !seen.insert(dir) {
                continue;
            }
            let Ok(directory) = self.directory(dir) else { continue };
            for (name, ino) in &directory.durable {
                *links.entry(*ino).or_default() += 1;
                places.insert(*ino, (dir, name.clone()));
                open.push(*ino);
            }
        }
        self.inodes.retain(|ino, _| links.contains_key(ino));
        let mut cookie = self.number;
        for (ino, inode) in &mut self.inodes {
            let links = links.get(ino).copied().unwrap_or_default();
            (inode.links, inode.durable_links, inode.pending_links, inode.opens) = (links, links, 0, 0);
            if let Some(place) = places.remove(ino) {
                inode.place = place;
            }
            if let Body::Directory(directory) = &mut inode.body {
                directory.live.clear();
                for (name, ino) in &directory.durable {
                    cookie += 1;
                    directory.live.insert(name.clone(), Entry { ino: *ino, cookie });
                }
            }
        }
        self.number = cookie;
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
