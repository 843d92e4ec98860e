//! Reading the log at a start: what is whole, what a crash cut short, and what is damaged.
//!
//! Nothing is changed on disk before everything has been read and found good; an error leaves the files as they are.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalError;
use super::directory::LogDir;
use super::disk::{DiskState, Location};
use super::frame::{self, Found, Place};
use super::record::{Checkpoint, Record};
use super::segment::{self, FoundHeader, Segment, SegmentHeader};

/// What a start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments read.
    pub segments: usize,
    /// Whole frames read.
    pub frames: u64,
    /// The end of the log that a crash cut short and that was dropped, if any.
    pub torn: Option<TornTail>,
}

/// The end of the log that a crash cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// In which file.
    pub file: PathBuf,
    /// From which byte on it was dropped.
    pub offset: u64,
    /// How it was seen.
    pub what: &'static str,
}

/// A log read and found good.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: u64,
    pub(super) state: DiskState,
    /// Oldest first; never empty.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The sequence number of the next frame.
    pub(super) next_sequence: u64,
    pub(super) report: RecoveryReport,
    /// A last file without a header, to be removed.
    headless: Option<PathBuf>,
    /// Where the last frame of the last segment begins; where the first one will, when there is none.
    last_frame: u64,
}

/// Reads the log in `dir`. `None` when there are no segments. `log` is the id noted in the lock file, if any.
pub(super) fn read(dir: &Path, log: Option<u64>) -> Result<Option<Recovered>, WalError> {
    let names = list(dir)?;
    if names.is_empty() {
        return match log {
            None => Ok(None),
            Some(_) => Err(WalError::damaged(dir, 0, "the log's files are gone")),
        };
    }
    let mut reader = Reader { log, state: None, sequence: names[0], last_frame: 0, report: RecoveryReport::default() };
    let mut segments = Vec::with_capacity(names.len());
    let mut headless = None;
    let mut bytes = Vec::new();
    for (position, first_sequence) in names.iter().enumerate() {
        let path = dir.join(segment::file_name(*first_sequence));
        let file = load(&path, &mut bytes)?;
        let is_last = position + 1 == names.len();
        if is_last && position > 0 && SegmentHeader::inspect(&bytes) == FoundHeader::CutShort {
            // The frames before it are whole up to where this file begins, or else `follow` would object.
            reader.follow(&path, *first_sequence)?;
            reader.torn(&path, 0, "a file without a header");
            headless = Some(path);
            break;
        }
        let used = reader.segment(&path, &bytes, *first_sequence, names.get(position + 1).copied())?;
        let ordinal = position as u32;
        let capacity = bytes.len() as u64;
        segments.push(Arc::new(Segment::new(ordinal, *first_sequence, path, file, capacity, used)));
    }
    reader.finish(segments, headless)
}

impl Recovered {
    /// A log just made.
    pub(super) fn empty(log: u64, active: Arc<Segment>) -> Self {
        Self {
            log,
            state: DiskState::default(),
            segments: vec![active],
            next_sequence: 0,
            report: RecoveryReport::default(),
            headless: None,
            last_frame: segment::HEADER as u64,
        }
    }

    /// Makes the end of the log fit to be written on: what a crash cut short is cut off and the space is allocated again, so
    /// that stale bytes never come back. Space up to `segment_bytes` is allocated if there is less.
    ///
    /// What was read may be in the kernel's memory only: the process before this one was killed before its fsync, or its fsync
    /// failed, after which the kernel takes the pages for clean, and no later fsync writes them. That can be so of the
    /// last frame only, for each is durable before the next one is written. It is written once more, the same bytes in the
    /// same place, and made durable before anybody relies on it; so is the name of the file that it is in.
    pub(super) fn repair(&mut self, dir: &LogDir, segment_bytes: u64) -> Result<(), WalError> {
        let headless = self.headless.take();
        if let Some(headless) = &headless {
            std::fs::remove_file(headless).map_err(|error| WalError::io("remove", headless, error))?;
        }
        dir.sync()?;
        let Some(last) = self.segments.pop() else {
            return Ok(());
        };
        let mut size = last.capacity.max(segment_bytes);
        // What is behind the last frame meant nothing as long as there was a file after this one.
        let torn = headless.is_some() || self.report.torn.as_ref().is_some_and(|torn| torn.file == last.path);
        let io = |error| WalError::io("repair", &last.path, error);
        let mut frame = vec![0; last.used().saturating_sub(self.last_frame) as usize];
        last.file.read_exact_at(&mut frame, self.last_frame).map_err(io)?;
        last.file.write_all_at(&frame, self.last_frame).map_err(io)?;
        if torn || size > last.capacity {
            if torn {
                last.file.set_len(last.used()).map_err(io)?;
            }
            match segment::allocate(&last.file, 0, size) {
                // What is there is whole: the next frame waits for room, and this start need not.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    size = if torn { last.used() } else { last.capacity };
                    last.file.set_len(size).map_err(io)?;
                }
                result => result.map_err(io)?,
            }
        }
        last.file.sync_all().map_err(io)?;
        let file = last.file.try_clone().map_err(|error| WalError::io("open", &last.path, error))?;
        self.segments.push(Arc::new(Segment::new(
            last.ordinal,
            last.first_sequence,
            last.path.clone(),
            file,
            size,
            last.used(),
        )));
        Ok(())
    }
}

struct Reader {
    log: Option<u64>,
    state: Option<DiskState>,
    /// The sequence number of the next frame.
    sequence: u64,
    /// Where the last frame that was read begins in its segment.
    last_frame: u64,
    report: RecoveryReport,
}

impl Reader {
    /// Reads one segment; returns how many bytes of it are used. `next` is where the next segment begins, if there is one.
    fn segment(&mut self, path: &Path, bytes: &[u8], first: u64, next: Option<u64>) -> Result<u64, WalError> {
        self.follow(path, first)?;
        self.header(path, bytes, first)?;
        let mut offset = segment::HEADER;
        self.last_frame = offset as u64;
        loop {
            let place = Place { log: self.log.unwrap_or_default(), segment: first, sequence: self.sequence, offset };
            let (what, damaged) = match frame::inspect(bytes, place) {
                Found::Whole { payload, end } => {
                    self.frame(path, bytes, payload, offset == segment::HEADER)?;
                    self.sequence += 1;
                    self.report.frames += 1;
                    self.last_frame = offset as u64;
                    offset = end;
                    continue;
                }
                Found::Version(version) => {
                    return Err(WalError::UnsupportedVersion {
                        file: path.to_path_buf(),
                        found: version.into(),
                        known: frame::VERSION.into(),
                    });
                }
                Found::Nothing => ("the log ends here", false),
                Found::Torn(what) => (what, false),
                Found::Damaged(what) => (what, true),
            };
            if next == Some(self.sequence) {
                // The next segment goes on where the last whole frame ended: this file was left for it.
                break;
            }
            if damaged {
                return Err(WalError::damaged(path, offset as u64, what));
            }
            if let Some(next) = next {
                let what = format!(
                    "{what}, at frame {}, but {} begins with frame {next}",
                    self.sequence,
                    segment::file_name(next)
                );
                return Err(WalError::damaged(path, offset as u64, what));
            }
            if let Some(later) = frame::find_later(bytes, offset + 1, place) {
                let what = format!("{what}, but a later frame is at byte {later}");
                return Err(WalError::damaged(path, offset as u64, what));
            }
            if !frame::is_zero(&bytes[offset..]) {
                self.torn(path, offset as u64, what);
            }
            break;
        }
        self.report.segments += 1;
        Ok(offset as u64)
    }

    fn follow(&self, path: &Path, first: u64) -> Result<(), WalError> {
        if first == self.sequence {
            return Ok(());
        }
        let what = format!("it begins with frame {first}, but the file before it ends at frame {}", self.sequence);
        Err(WalError::damaged(path, 0, what))
    }

    fn header(&mut self, path: &Path, bytes: &[u8], first: u64) -> Result<(), WalError> {
        let header = match SegmentHeader::inspect(bytes) {
            FoundHeader::Valid(header) => header,
            FoundHeader::Version(found) => {
                return Err(WalError::UnsupportedVersion { file: path.to_path_buf(), found, known: segment::VERSION });
            }
            FoundHeader::CutShort => {
                return Err(WalError::damaged(path, 0, "the file's header is gone"));
            }
            FoundHeader::Damaged => {
                return Err(WalError::damaged(path, 0, "the file's header is not what was written"));
            }
        };
        if header.first_sequence != first {
            return Err(WalError::damaged(path, 24, "the file's name is not the one it was written under"));
        }
        if *self.log.get_or_insert(header.log) != header.log {
            return Err(WalError::damaged(path, 16, "the file belongs to another log"));
        }
        Ok(())
    }

    fn frame(&mut self, path: &Path, bytes: &[u8], payload: Range<usize>, opens: bool) -> Result<(), WalError> {
        let mut at = payload.start;
        if opens {
            // The first record of a segment's first frame repeats all that older segments may have said.
            let Ok((Record::Checkpoint(checkpoint), len)) = Record::parse(&bytes[payload.clone()]) else {
                return Err(WalError::damaged(path, at as u64, "the file does not begin with a checkpoint"));
            };
            self.checkpoint(path, at as u64, checkpoint)?;
            at += len;
        }
        let state = self.state.get_or_insert_default();
        while at < payload.end {
            let damaged = |what: String| WalError::damaged(path, at as u64, what);
            let (record, len) = Record::parse(&bytes[at..payload.end]).map_err(|what| damaged(what.to_owned()))?;
            if let Record::Entry { position, crc } = record {
                let location =
                    Location { segment: self.report.segments as u32, offset: at as u32, len: len as u32, crc };
                state.append(position, location).map_err(|error| damaged(error.to_string()))?;
            } else {
                state.apply(record);
            }
            at += len;
        }
        Ok(())
    }

    fn checkpoint(&mut self, path: &Path, offset: u64, checkpoint: Checkpoint) -> Result<(), WalError> {
        match &self.state {
            None => {
                self.state = Some(DiskState::starting_at(checkpoint));
                Ok(())
            }
            Some(state) if state.checkpoint() == checkpoint => Ok(()),
            Some(_) => Err(WalError::damaged(path, offset, "its checkpoint contradicts the files before it")),
        }
    }

    fn torn(&mut self, path: &Path, offset: u64, what: &'static str) {
        self.report.torn = Some(TornTail { file: path.to_path_buf(), offset, what });
    }

    fn finish(self, segments: Vec<Arc<Segment>>, headless: Option<PathBuf>) -> Result<Option<Recovered>, WalError> {
        let state = self.state.unwrap_or_default();
        if let (Some(missing), Some(oldest)) = (state.missing(), segments.first()) {
            let what = format!("entries {missing:?} are in no file: older files are gone");
            return Err(WalError::damaged(&oldest.path, 0, what));
        }
        Ok(self.log.map(|log| Recovered {
            log,
            state,
            segments,
            next_sequence: self.sequence,
            report: self.report,
            headless,
            last_frame: self.last_frame,
        }))
    }
}

/// The first sequence numbers of the segments in `dir`, in order.
fn list(dir: &Path) -> Result<Vec<u64>, WalError> {
    let io = |error| WalError::io("list", dir, error);
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir).map_err(io)? {
        let name = item.map_err(io)?.file_name();
        found.extend(name.to_str().and_then(segment::parse_file_name));
    }
    found.sort_unstable();
    Ok(found)
}

fn load(path: &Path, bytes: &mut Vec<u8>) -> Result<File, WalError> {
    let io = |error| WalError::io("read", path, error);
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    bytes.clear();
    file.read_to_end(bytes).map_err(io)?;
    Ok(file)
}
