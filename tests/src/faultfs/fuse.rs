//! [`Adapter`]: connects FUSE requests from the kernel to the tree.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FileType as Kind;

use super::content::PAGE;
use super::names::Ino;
use super::tree::{Body, Tree};

/// Cache time of the kernel: all changes come from kernel requests.
const TTL: Duration = Duration::from_secs(1);
/// Maximum write per request: the kernel's limit without further configuration.
const MAX_WRITE: u32 = 1024 * 1024;
const FALLOC_KEEP_SIZE: i32 = 1;

/// Serves a mount. The kernel caches reads until a file is opened again; writes arrive immediately.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    pub(super) tree: Arc<Mutex<Tree>>,
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

impl Adapter {
    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        // A panic with the lock held fails the running test, so the state of the tree no longer matters.
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(tree: &Tree, ino: Ino) -> Result<FileAttr, rustix::io::Errno> {
        let inode = tree.inode(ino)?;
        let (kind, size, allocated) = match &inode.body {
            Body::File(file) => (FileType::RegularFile, file.live().len(), file.allocated()),
            Body::Directory(_) => (FileType::Directory, PAGE, PAGE),
            Body::Socket => (FileType::Socket, 0, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: allocated / 512,
            atime: inode.changed,
            mtime: inode.changed,
            ctime: inode.changed,
            crtime: inode.changed,
            kind,
            perm: inode.mode as u16,
            nlink: inode.links,
            uid: inode.owner.0,
            gid: inode.owner.1,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    /// Replies with the inode of a name.
    fn entry(tree: &Tree, made: Result<Ino, rustix::io::Errno>, reply: ReplyEntry) {
        match made.and_then(|ino| Self::attr(tree, ino)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn done(result: Result<(), rustix::io::Errno>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn sync(&self, ino: Ino, reply: ReplyEmpty) {
        let begun = self.tree().begin_sync(ino);
        match begun {
            Err(error) => reply.error(errno(error)),
            Ok(sync) => match sync.delay {
                None => Self::done(self.tree().end_sync(sync), reply),
                // On a separate thread, to keep serving other requests. Even a killed process waits for an fsync in
                // progress, so the thread ends before the last process.
                Some(delay) => {
                    let adapter = self.clone();
                    std::thread::spawn(move || {
                        std::thread::sleep(delay);
                        Self::done(adapter.tree().end_sync(sync), reply);
                    });
                }
            },
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A kernel with a smaller limit uses the smaller limit.
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        let found = tree.lookup(parent.0, name);
        Self::entry(&tree, found, reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match Self::attr(&self.tree(), ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        let changed = match size {
            Some(size) => tree.resize(ino.0, size),
            None => Ok(()),
        };
        let changed = changed.and_then(|()| tree.set_owner(ino.0, mode, uid, gid));
        match changed.and_then(|()| Self::attr(&tree, ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let body = match Kind::from_raw_mode(mode) {
            Kind::RegularFile => Body::File(Box::default()),
            Kind::Socket => Body::Socket,
            _ => return reply.error(Errno::EPERM),
        };
        let mut tree = self.tree();
        let made = tree.make(parent.0, name, body, mode & !umask, (req.uid(), req.gid()));
        Self::entry(&tree, made, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mut tree = self.tree();
        let made = tree.mkdir(parent.0, name, mode & !umask, (req.uid(), req.gid()));
        Self::entry(&tree, made, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(self.tree().unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(self.tree().rmdir(parent.0, name), reply);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let replace = match flags {
            RenameFlags::RENAME_NOREPLACE => false,
            flags if flags.is_empty() => true,
            _ => return reply.error(Errno::EINVAL),
        };
        Self::done(self.tree().rename((parent.0, name), (newparent.0, newname), replace), reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree();
        let linked = tree.link(ino.0, newparent.0, newname).map(|()| ino.0);
        Self::entry(&tree, linked, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.tree().open(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = self.tree();
        let made = tree.create(parent.0, name, mode & !umask, (req.uid(), req.gid()));
        match made.and_then(|ino| tree.open(ino).and_then(|()| Self::attr(&tree, ino))) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.tree().read(ino.0, offset, u64::from(size));
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.tree().write(ino.0, offset, data);
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.tree().release(ino.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // fdatasync skips only times, which have no separate durable state here.
        self.sync(ino.0, reply);
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let tree = self.tree();
        let entries = match tree.list(ino.0, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        // Cookies 1 and 2 are reserved for `.` and `..`: no change has these numbers.
        let dots = [(1, ino.0, ".".into()), (2, tree.parent(ino.0), "..".into())];
        let dots = dots.into_iter().filter(|(cookie, ..)| *cookie > offset);
        for (cookie, ino, name) in dots.chain(entries) {
            let kind = match tree.inode(ino).map(|inode| &inode.body) {
                Ok(Body::File(_)) => FileType::RegularFile,
                Ok(Body::Directory(_)) => FileType::Directory,
                Ok(Body::Socket) => FileType::Socket,
                Err(_) => continue,
            };
            if reply.add(INodeNo(ino), cookie, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.tree().space();
        let (size, names) = (PAGE as u32, 255);
        reply.statfs(space.total, space.free, space.free, space.inodes, u64::from(u32::MAX), size, names, size);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !FALLOC_KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        Self::done(self.tree().allocate(ino.0, offset, length, mode == FALLOC_KEEP_SIZE), reply);
    }
}
