//! [`Piece`]: records of a range, of memtables and tables together.

use std::iter::Peekable;
use std::ops::Range;
use std::vec;

use fjall::{Iter, Keyspace, Readable, Slice, Snapshot};

use super::StoreError;
use super::generation::read_error;
use super::memtable::Part;

/// Records in key order as of one moment, from the start of a range on. Where the memtables hold too many of them for a
/// moment's work it ends before the range does.
pub(super) struct Piece {
    start: Slice,
    end: Option<Slice>,
    memory: Peekable<vec::IntoIter<(Slice, Option<Slice>)>>,
    tables: Iter,
    /// Taken from the tables, and not given yet.
    held: Option<(Slice, Slice)>,
}

impl Piece {
    /// What the memtables had of `range`, over the tables of the same moment.
    pub(super) fn new(range: Range<Slice>, part: Part, snapshot: &Snapshot, keyspace: &Keyspace) -> Self {
        let Part { records, end } = part;
        let until = end.clone().unwrap_or(range.end);
        Self {
            start: range.start.clone(),
            end,
            memory: records.into_iter().peekable(),
            tables: snapshot.range(keyspace, range.start..until),
            held: None,
        }
    }

    /// Where it begins.
    pub(super) fn start(&self) -> &Slice {
        &self.start
    }

    /// The first key that is not looked at, where the range has more.
    pub(super) fn end(&self) -> Option<&Slice> {
        self.end.as_ref()
    }
}

impl Iterator for Piece {
    type Item = Result<(Slice, Slice), StoreError>;

    /// Records as they are stored, their checksums not verified yet. Blocks on the disk.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.held.is_none()
                && let Some(item) = self.tables.next()
            {
                match item.into_inner() {
                    Ok(record) => self.held = Some(record),
                    Err(error) => return Some(Err(read_error(error))),
                }
            }
            let is_first = |key: &Slice| self.held.as_ref().is_none_or(|(held, _)| key <= held);
            let Some((key, record)) = self.memory.next_if(|(key, _)| is_first(key)) else {
                return self.held.take().map(Ok);
            };
            // The memtables are newer.
            self.held.take_if(|(held, _)| *held == key);
            if let Some(record) = record {
                return Some(Ok((key, record)));
            }
        }
    }
}
