//! Small logs, and looking at all of a log at once.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use raftkv_sidecar::wal::{Ballot, Bounds, Done, Entry, Leader, Position, ReadLimit, Wal, WalError, WalOptions};
use tempfile::TempDir;

/// How long a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn options(dir: &Path, segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, ..WalOptions::new(dir) }
}

pub fn position(term: u64, index: u64) -> Position {
    let leader = Leader { term, node: 7 };
    Position { leader, index }
}

pub fn ballot(term: u64) -> Ballot {
    Ballot { leader: Leader { term, node: 7 }, committed: term.is_multiple_of(2) }
}

/// An entry whose bytes depend on its place; some of them are zero.
pub fn entry(term: u64, index: u64, size: usize) -> Entry {
    let byte = |at: usize| {
        if at.is_multiple_of(3) { 0 } else { (index as usize * 31 + term as usize * 7 + at) as u8 }
    };
    Entry {
        position: position(term, index),
        kind: 1,
        stamp: index * 1000,
        second_stamp: index.is_multiple_of(2).then_some(index),
        data: (0..size).map(byte).collect::<Vec<_>>().into(),
    }
}

/// A callback, and where its result arrives.
pub fn done() -> (Option<Done>, Receiver<Result<(), WalError>>) {
    let (sender, receiver) = channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    (Some(Box::new(done)), receiver)
}

/// Runs an operation and waits until it is durable: it has a frame of its own.
pub fn durably(operation: impl FnOnce(Option<Done>) -> Result<(), WalError>) {
    let (done, result) = done();
    operation(done).unwrap();
    result.recv_timeout(DEADLINE).unwrap().unwrap();
}

/// All that a log says.
#[derive(Debug, Clone, PartialEq)]
pub struct Dump {
    pub bounds: Bounds,
    pub vote: Option<Ballot>,
    pub committed: Option<Position>,
    pub entries: Vec<Entry>,
}

pub fn dump(wal: &Wal) -> Dump {
    Dump {
        bounds: wal.bounds(),
        vote: wal.vote(),
        committed: wal.committed(),
        entries: wal.read(0..u64::MAX, ReadLimit::NONE).load().unwrap(),
    }
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    paths.sort();
    paths
}

/// A copy of a directory, maybe of one in use: a file that gets another name in between makes it begin again.
pub fn copy(from: &Path) -> TempDir {
    loop {
        let to = TempDir::new().unwrap();
        let copied = fs::read_dir(from).unwrap().try_for_each(|item| {
            let item = item?;
            fs::copy(item.path(), to.path().join(item.file_name())).map(drop)
        });
        match copied {
            Ok(()) => return to,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("copy {}: {error}", from.display()),
        }
    }
}

pub fn open_file(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    open_file(path).write_all_at(bytes, offset).unwrap();
}

/// A frame's end: in which segment, at which byte, and what the log says when it ends there.
#[derive(Debug, Clone)]
pub struct End {
    pub segment: usize,
    pub offset: u64,
    pub dump: Dump,
}

/// A small log over three segments, with every kind of record, and the ends of its frames, first that of the empty log.
pub struct Sample {
    pub dir: TempDir,
    pub ends: Vec<End>,
}

pub const SAMPLE_SEGMENT: u64 = 1200;

impl Sample {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let wal = Wal::open(options(dir.path(), SAMPLE_SEGMENT)).unwrap();
        let mut ends: Vec<End> = Vec::new();
        let mut before = 0;
        let mut mark = |wal: &Wal| {
            let segment = segments(dir.path()).len() - 1;
            if let Some(last) = ends.last()
                && last.segment < segment
            {
                before += last.offset;
            }
            ends.push(End { segment, offset: wal.log_bytes() - before, dump: dump(wal) });
        };
        mark(&wal);
        durably(|done| wal.save_vote(ballot(1), done));
        mark(&wal);
        durably(|done| wal.append(vec![entry(1, 0, 40), entry(1, 1, 0), entry(1, 2, 90)], done));
        mark(&wal);
        durably(|done| wal.purge(position(1, 0), done));
        mark(&wal);
        wal.save_committed(Some(position(1, 1))).unwrap();
        durably(|done| wal.append(vec![entry(1, 3, 150)], done));
        mark(&wal);
        durably(|done| wal.append(vec![entry(1, 4, 100), entry(1, 5, 10)], done));
        mark(&wal);
        durably(|done| wal.truncate_after(Some(position(1, 4)), done));
        mark(&wal);
        durably(|done| wal.save_vote(ballot(2), done));
        mark(&wal);
        for index in 5..10 {
            durably(|done| wal.append(vec![entry(2, index, 130)], done));
            mark(&wal);
        }
        wal.save_committed(Some(position(2, 6))).unwrap();
        durably(|done| wal.append(vec![entry(2, 10, 33)], done));
        mark(&wal);
        drop(wal);
        let sample = Self { dir, ends };
        assert_eq!(segments(sample.dir.path()).len(), 3);
        let in_last = sample.ends.iter().filter(|end| end.segment == 2).count();
        assert!(in_last >= 3, "{in_last} frames in the last segment");
        sample
    }

    pub fn last_segment(&self) -> PathBuf {
        segments(self.dir.path()).pop().unwrap()
    }

    /// Where the last frame begins and ends.
    pub fn last_frame(&self) -> std::ops::Range<u64> {
        let [.., before, last] = &self.ends[..] else { unreachable!() };
        before.offset..last.offset
    }

    /// What the log says when the last segment counts up to `offset`.
    pub fn dump_at(&self, offset: u64) -> &Dump {
        let last = self.ends.last().unwrap().segment;
        let end = self.ends.iter().rev().find(|end| end.segment < last || end.offset <= offset);
        &end.unwrap().dump
    }
}

/// A value of zeros but for one bit, the hardest to tell from a sector never written.
pub fn nearly_zero(index: u64, size: usize) -> Entry {
    let mut data = vec![0; size];
    data[size / 2] = 1;
    Entry { data: Bytes::from(data), ..entry(1, index, 0) }
}
