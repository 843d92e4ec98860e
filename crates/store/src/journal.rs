//! Mends the end of fjall's journal after a power loss.
//!
//! Fjall appends batches to its journal and makes them durable with a persist. What came after the last persist may have
//! reached the disk in any part: some sectors of a batch and not the others. Fjall drops a last batch that is incomplete,
//! but refuses to open at all for one with a hole in it, and its checksum does not cover a batch's sequence number. A group
//! whose nodes lose power together would then have no replica left.
//!
//! So the newest journal is read before fjall opens it, and cut at the first batch that is not whole. What goes is above
//! what was made durable, and comes again from the replicated log; were it below, the sidecar would notice that its log
//! does not reach back so far. Older journals are durable as a whole before a newer one is begun.
//!
//! ```text
//! batch  start, items, end
//! start  1, number of items u32, sequence number u64
//! item   2, kind u8, compression u8, keyspace u64, key length u16, value length u32, stored length u32, key, value
//! clear  4, keyspace u64 (counts as an item)
//! end    3, xxh3 of the items u64, `FJL` 3
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
const EXTENSION: &str = "jnl";
/// Read at once: large enough that few calls are made, whatever a journal's size.
const BUFFER: usize = 256 * 1024;

/// What was cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) file: PathBuf,
    /// From which byte on.
    pub(super) offset: u64,
}

/// Cuts off what is torn at the end of the newest journal in a generation's directory, durably. `None`: nothing is. Reads
/// the journal; blocks on the disk.
pub(super) fn cut_torn_end(generation: &Path) -> io::Result<Option<Cut>> {
    let Some(file) = newest(generation)? else { return Ok(None) };
    let open = File::options().read(true).write(true).open(&file)?;
    let (offset, is_torn) = whole_batches(BufReader::with_capacity(BUFFER, &open))?;
    if !is_torn {
        return Ok(None);
    }
    open.set_len(offset)?;
    open.sync_all()?;
    Ok(Some(Cut { file, offset }))
}

/// Whether the database has no more than the journal that fjall makes for each: no earlier version has left one that is sealed.
pub(super) fn is_one(generation: &Path) -> bool {
    let is_journal = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == EXTENSION);
    fs::read_dir(generation).map_or(0, |entries| entries.flatten().filter(is_journal).count()) <= 1
}

fn newest(generation: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(generation)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == EXTENSION)
            && newest.as_ref().is_none_or(|(newest, _)| number > *newest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The length of the whole batches from the start on, and whether something other than the end comes after them.
fn whole_batches(journal: impl Read) -> io::Result<(u64, bool)> {
    let mut reader = Reader { journal, at: 0, checksum: Xxh3::new() };
    let mut end = 0;
    let mut last = None;
    loop {
        match reader.batch() {
            // Each is later than the one before: another number was torn.
            Ok(sequence) if last.is_none_or(|last| sequence > last) => last = Some(sequence),
            Ok(_) | Err(Stop::Torn) => return Ok((end, true)),
            Err(Stop::End) => return Ok((end, false)),
            Err(Stop::Unreadable(error)) => return Err(error),
        }
        end = reader.at;
    }
}

/// Why there is no batch.
enum Stop {
    /// Nothing was written here: the end of the file, or zeros, which fjall allocates ahead.
    End,
    /// It is not whole.
    Torn,
    Unreadable(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Torn } else { Self::Unreadable(error) }
    }
}

struct Reader<R> {
    journal: R,
    at: u64,
    checksum: Xxh3,
}

impl<R: Read> Reader<R> {
    /// Reads a batch; returns its sequence number.
    fn batch(&mut self) -> Result<u64, Stop> {
        match self.array() {
            Ok([START]) => {}
            Ok([0]) => return Err(Stop::End),
            Ok([_]) => return Err(Stop::Torn),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Stop::End),
            Err(error) => return Err(error.into()),
        }
        let items = u32::from_le_bytes(self.array()?);
        let sequence = u64::from_le_bytes(self.array()?);
        self.checksum.reset();
        for _ in 0..items {
            match self.array()? {
                [ITEM] => {
                    let _kind_compression_keyspace: [u8; 10] = self.array()?;
                    let key = u16::from_le_bytes(self.array()?);
                    let _value = u32::from_le_bytes(self.array()?);
                    let stored = u32::from_le_bytes(self.array()?);
                    self.skip(u64::from(key) + u64::from(stored))?;
                }
                [CLEAR] => self.skip(8)?,
                _ => return Err(Stop::Torn),
            }
        }
        let checksum = self.checksum.digest();
        let is_whole =
            self.array()? == [END] && u64::from_le_bytes(self.array()?) == checksum && self.array()? == TRAILER;
        if is_whole { Ok(sequence) } else { Err(Stop::Torn) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.journal.read_exact(&mut bytes)?;
        self.checksum.update(&bytes);
        self.at += N as u64;
        Ok(bytes)
    }

    /// Over bytes that only the checksum is interested in.
    fn skip(&mut self, mut len: u64) -> io::Result<()> {
        let mut part = [0; 4096];
        while len > 0 {
            let part = &mut part[..len.min(4096) as usize];
            self.journal.read_exact(part)?;
            self.checksum.update(part);
            self.at += part.len() as u64;
            len -= part.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    const BATCHES: u64 = 40;

    /// A database that was not closed gracefully: what it says is in its journal only.
    fn written(path: &Path) {
        let db = Database::builder(path).worker_threads(1).open().unwrap();
        let keyspace = db.keyspace("k", KeyspaceCreateOptions::default).unwrap();
        for number in 0..BATCHES {
            let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&keyspace, number.to_be_bytes(), vec![number as u8; 700]);
            batch.insert(&keyspace, "last", number.to_be_bytes());
            batch.remove(&keyspace, "none");
            batch.commit().unwrap();
        }
    }

    /// How many batches the database has; panics if they are not the first ones, each whole.
    fn batches(path: &Path) -> u64 {
        let db = Database::builder(path).worker_threads(1).open().unwrap();
        let keyspace = db.keyspace("k", KeyspaceCreateOptions::default).unwrap();
        let count =
            (0..BATCHES).take_while(|number| keyspace.get(number.to_be_bytes()).unwrap().is_some()).count() as u64;
        assert_eq!(keyspace.iter().count() as u64, count + u64::from(count > 0), "nothing beyond the first hole");
        let last = keyspace.get("last").unwrap();
        assert_eq!(last.as_deref(), count.checked_sub(1).map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        count
    }

    /// The newest journal: its file, its bytes with a few of the zeros after them, and how many are not such.
    fn journal(path: &Path) -> (PathBuf, Vec<u8>, usize) {
        let file = newest(path).unwrap().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(end + 4096);
        (file, bytes, end)
    }

    #[test]
    fn every_batch_of_a_whole_journal_is_found_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        written(&path);
        assert_eq!(cut_torn_end(&path).unwrap(), None);
        let (_, bytes, end) = journal(&path);
        assert_eq!(whole_batches(&*bytes).unwrap(), (end as u64, false));
        assert!(end > 700 * BATCHES as usize);
        assert_eq!(batches(&path), BATCHES);
    }

    #[test]
    fn a_journal_with_a_hole_anywhere_opens_with_the_batches_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        written(&path);
        let (file, whole, end) = journal(&path);
        let mut refused = 0;
        for sector in (0..end / 512).step_by(7) {
            let mut torn = whole.clone();
            torn[sector * 512..(sector + 1) * 512].fill(0);
            fs::write(&file, &torn).unwrap();
            refused += u32::from(Database::builder(&path).worker_threads(1).open().is_err());
            fs::write(&file, &torn).unwrap();
            // A hole that begins where a batch does looks like the end, and fjall takes it for that, too.
            if let Some(cut) = cut_torn_end(&path).unwrap() {
                assert!(cut.offset as usize <= sector * 512 && cut.offset as usize + 1_000 > sector * 512, "{cut:?}");
            }
            let found = batches(&path);
            assert!(found < BATCHES);
        }
        assert!(refused > 0, "fjall opens them all by itself: this module is needed no more");
    }

    #[test]
    fn a_sequence_number_that_was_torn_ends_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        written(&path);
        let (file, mut bytes, _) = journal(&path);
        let mut reader = Reader { journal: &*bytes, at: 0, checksum: Xxh3::new() };
        for _ in 0..10 {
            assert!(reader.batch().is_ok());
        }
        let at = reader.at as usize;
        bytes[at + 5..at + 13].fill(0);
        fs::write(&file, &bytes).unwrap();
        assert_eq!(cut_torn_end(&path).unwrap().unwrap().offset, at as u64);
        assert_eq!(batches(&path), 10);
    }

    #[test]
    fn garbage_is_no_batch_and_allocates_nothing() {
        let read = |bytes: &[u8]| whole_batches(bytes).unwrap();
        assert_eq!(read(&[]), (0, false));
        assert_eq!(read(&[0; 100]), (0, false));
        assert_eq!(read(&[0xff; 100]), (0, true));
        let mut endless = vec![START];
        endless.extend(u32::MAX.to_le_bytes());
        endless.extend([7; 8]);
        for _ in 0..100 {
            endless.extend([ITEM; 100]);
            assert_eq!(read(&endless), (0, true));
        }
    }
}
