//! Durable state of the tree: extended by fsync, kept by a power loss.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::{Body, Entry, ROOT, Result, Tree};
use crate::faultfs::fault::{Call, Effect};
use crate::faultfs::names::{Ino, NameChange, NamePromise};

/// State after a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Only durable data.
    Volatile,
    /// Durable data, and some sectors and names of the rest.
    Torn,
}

/// An fsync in progress.
#[derive(Debug, Clone, Copy)]
pub(in crate::faultfs) struct Fsync {
    ino: Ino,
    upto: u64,
    fails: Option<Errno>,
    /// The fsync fails, and the covered changes stay pending.
    is_gone: bool,
    /// Delay before the completion.
    pub(in crate::faultfs) delay: Option<Duration>,
}

impl Tree {
    /// Begins an fsync of a file or directory: the fsync covers all changes up to now.
    pub(in crate::faultfs) fn begin_sync(&mut self, ino: Ino) -> Result<Fsync> {
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

    /// Ends an fsync: the covered changes become durable, unless the fsync fails.
    pub(in crate::faultfs) fn end_sync(&mut self, sync: Fsync) -> Result<()> {
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
            // A directory is kept until all its changes are durable.
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

    /// Removes an inode that is unreachable, now and after any power loss.
    pub(super) fn forget(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(|inode| {
            inode.links == 0 && inode.durable_links == 0 && inode.pending_links == 0 && inode.opens == 0
        }) {
            self.inodes.remove(&ino);
        }
    }

    /// Simulates a power loss. All processes with open files must have ended.
    pub(in crate::faultfs) fn power_loss(&mut self, loss: Loss, seed: u64) {
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

    /// Makes the durable names live, and removes inodes without a name.
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
