//! Names in the tree: lookup, listing, creation, renaming and removal.

use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use rustix::io::Errno;

use super::{Body, Directory, Entry, Inode, ROOT, Result, Tree};
use crate::faultfs::names::{Ino, NameChange, Renamed};

/// The limit of other Linux file systems.
const NAME_MAX: usize = 255;

impl Tree {
    /// Finds the inode of a name.
    pub(in crate::faultfs) fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Ino> {
        self.directory(dir)?.live.get(name).map(|entry| entry.ino).ok_or(Errno::NOENT)
    }

    /// The entries of a directory after `cookie`, each with a cookie, in order.
    pub(in crate::faultfs) fn list(&self, dir: Ino, cookie: u64) -> Result<Vec<(u64, Ino, OsString)>> {
        let live = self.directory(dir)?.live.iter();
        let mut entries: Vec<_> = live
            .filter(|(_, entry)| entry.cookie > cookie)
            .map(|(name, entry)| (entry.cookie, entry.ino, name.clone()))
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// The parent of a directory.
    pub(in crate::faultfs) fn parent(&self, dir: Ino) -> Ino {
        self.inodes.get(&dir).map_or(ROOT, |inode| inode.place.0)
    }

    /// Creates a file, directory or socket.
    pub(in crate::faultfs) fn make(
        &mut self,
        dir: Ino,
        name: &OsStr,
        body: Body,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<Ino> {
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

    /// Creates an empty file.
    pub(in crate::faultfs) fn create(&mut self, dir: Ino, name: &OsStr, mode: u32, owner: (u32, u32)) -> Result<Ino> {
        self.make(dir, name, Body::File(Box::default()), mode, owner)
    }

    /// Creates a directory.
    pub(in crate::faultfs) fn mkdir(&mut self, dir: Ino, name: &OsStr, mode: u32, owner: (u32, u32)) -> Result<Ino> {
        self.make(dir, name, Body::Directory(Directory::default()), mode, owner)
    }

    /// Adds a hard link to a file.
    pub(in crate::faultfs) fn link(&mut self, ino: Ino, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        self.file(ino)?;
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.rename_entries(vec![(dir, name.to_owned(), Some(ino))])
    }

    /// Removes a name of a file or socket.
    pub(in crate::faultfs) fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        let ino = self.lookup(dir, name)?;
        if self.directory(ino).is_ok() {
            return Err(Errno::ISDIR);
        }
        self.rename_entries(vec![(dir, name.to_owned(), None)])
    }

    /// Removes an empty directory.
    pub(in crate::faultfs) fn rmdir(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        self.writable()?;
        let ino = self.lookup(dir, name)?;
        if !self.directory(ino)?.live.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.rename_entries(vec![(dir, name.to_owned(), None)])
    }

    /// Renames an entry, replacing an existing target. Survives a power loss completely or not at all.
    pub(in crate::faultfs) fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), replace: bool) -> Result<()> {
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

    /// Changes several entries in a single atomic step.
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
}
