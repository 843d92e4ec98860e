//! What a frame is made of: records, each with its own checksum.
//!
//! ```text
//! type u8 | flag u8 | 0 u16 | body length u32 | crc32c u32 (of the eight bytes before and the body) | body
//! ```
//!
//! All numbers are little-endian. The body of an entry is its fixed fields and then its bytes, so that one record can be
//! read and checked without its frame.

use bytes::Bytes;

use super::bounds::Bounds;

/// A leader: a term and the node that led it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Leader {
    /// The term.
    pub term: u64,
    /// The node's raft id.
    pub node: u64,
}

/// A position in the log and the leader that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Who made the entry.
    pub leader: Leader,
    /// Its index.
    pub index: u64,
}

/// A vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ballot {
    /// For whom.
    pub leader: Leader,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// An entry as the log keeps it. The log does not look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the log.
    pub position: Position,
    /// What it is: the owner's number, below 128.
    pub kind: u8,
    /// A number the owner keeps beside the bytes, so that the bytes need not be copied to be framed.
    pub stamp: u64,
    /// Another one, where there is one. Version 0.1.0 does not read such an entry.
    pub second_stamp: Option<u64>,
    /// The bytes.
    pub data: Bytes,
}

/// Everything the log knows besides its entries, as the first record of each segment repeats it: older segments can then
/// be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Checkpoint {
    pub(super) ballot: Option<Ballot>,
    pub(super) committed: Option<Position>,
    pub(super) bounds: Bounds,
}

/// A record met while scanning a frame. An entry's bytes stay where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Entry { position: Position, crc: u32 },
    Vote(Ballot),
    Truncate(Option<Position>),
    Purge(Position),
    Committed(Option<Position>),
    Checkpoint(Checkpoint),
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;
const CHECKPOINT: u8 = 6;

/// Bytes before a record's body.
const HEADER: usize = 12;
const ENTRY_FIXED: usize = 32;
/// In the flag of an entry's record, beside its kind: a second stamp follows the fixed fields.
const HAS_SECOND_STAMP: u8 = 0x80;
const SECOND_STAMP: usize = 8;
const POSITION: usize = 24;
const CHECKPOINT_BODY: usize = 16 + 3 * POSITION + 16;

const HAS_BALLOT: u8 = 1;
const BALLOT_COMMITTED: u8 = 2;
const HAS_COMMITTED: u8 = 4;
const HAS_PURGED: u8 = 8;
const HAS_LAST: u8 = 16;

impl Entry {
    /// Bytes its record takes.
    pub(super) fn encoded_len(&self) -> usize {
        HEADER + self.fixed_len() + self.data.len()
    }

    fn fixed_len(&self) -> usize {
        ENTRY_FIXED + if self.second_stamp.is_some() { SECOND_STAMP } else { 0 }
    }

    /// Appends its record to `out` and returns the record's checksum.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let mut fixed = [0_u8; ENTRY_FIXED + SECOND_STAMP];
        put(&mut fixed, 0, self.position.index);
        put(&mut fixed, 8, self.position.leader.term);
        put(&mut fixed, 16, self.position.leader.node);
        put(&mut fixed, 24, self.stamp);
        put(&mut fixed, ENTRY_FIXED, self.second_stamp.unwrap_or(0));
        let flag = self.kind | if self.second_stamp.is_some() { HAS_SECOND_STAMP } else { 0 };
        write_record(out, ENTRY, flag, &fixed[..self.fixed_len()], &self.data)
    }

    /// Reads the record that fills `record`. `crc` is the checksum the index remembers for it.
    pub(super) fn decode(record: &Bytes, crc: u32) -> Result<Self, &'static str> {
        let header = Header::read(record).ok_or("an entry's record is cut short")?;
        let fixed = fixed_of(header.flag);
        if header.kind != ENTRY || header.total() != record.len() || header.body < fixed {
            return Err("an entry's record has the wrong shape");
        }
        if header.crc != crc || !header.is_intact(record) {
            return Err("an entry's checksum does not match");
        }
        let body = &record[HEADER..];
        Ok(Self {
            position: position_at(body, 0),
            kind: header.flag & !HAS_SECOND_STAMP,
            stamp: get(body, 24),
            second_stamp: (fixed > ENTRY_FIXED).then(|| get(body, ENTRY_FIXED)),
            data: record.slice(HEADER + fixed..),
        })
    }
}

impl Record {
    /// Appends a record that is not an entry to `out`. (An entry is written by [`Entry::encode`].)
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry { .. } => debug_assert!(false, "entries are encoded with their bytes"),
            Self::Vote(ballot) => {
                let mut body = [0_u8; 16];
                put(&mut body, 0, ballot.leader.term);
                put(&mut body, 8, ballot.leader.node);
                write_record(out, VOTE, ballot.committed.into(), &body, &[]);
            }
            Self::Truncate(after) => write_position(out, TRUNCATE, *after),
            Self::Purge(upto) => write_position(out, PURGE, Some(*upto)),
            Self::Committed(position) => write_position(out, COMMITTED, *position),
            Self::Checkpoint(checkpoint) => checkpoint.encode(out),
        }
    }

    /// Reads the record at the start of `bytes`; also says how long it is.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        let header = Header::read(bytes).ok_or("a record is cut short")?;
        let record = bytes.get(..header.total()).ok_or("a record is cut short")?;
        if !header.is_intact(record) {
            return Err("a record's checksum does not match");
        }
        let body = &record[HEADER..];
        let wrong_length = "a record has the wrong length";
        let parsed = match header.kind {
            ENTRY if body.len() >= fixed_of(header.flag) => {
                Self::Entry { position: position_at(body, 0), crc: header.crc }
            }
            VOTE if body.len() == 16 => Self::Vote(Ballot {
                leader: Leader { term: get(body, 0), node: get(body, 8) },
                committed: header.flag != 0,
            }),
            TRUNCATE if body.len() == POSITION => Self::Truncate((header.flag != 0).then(|| position_at(body, 0))),
            PURGE if body.len() == POSITION => Self::Purge(position_at(body, 0)),
            COMMITTED if body.len() == POSITION => Self::Committed((header.flag != 0).then(|| position_at(body, 0))),
            CHECKPOINT if body.len() == CHECKPOINT_BODY => Self::Checkpoint(Checkpoint::decode(header.flag, body)),
            ENTRY | VOTE | TRUNCATE | PURGE | COMMITTED | CHECKPOINT => return Err(wrong_length),
            _ => return Err("a record is of an unknown type"),
        };
        if !parsed.is_possible() {
            return Err("a record says what no log can say");
        }
        Ok((parsed, record.len()))
    }

    /// Whether the log can have written it: a checksum says only that it is what was written. No index is the last that
    /// there is, and a log does not end before it begins.
    fn is_possible(&self) -> bool {
        match self {
            Self::Entry { position, .. } | Self::Purge(position) => position.index < u64::MAX,
            Self::Truncate(position) | Self::Committed(position) => position.is_none_or(|at| at.index < u64::MAX),
            Self::Checkpoint(checkpoint) => checkpoint.bounds.is_possible(),
            Self::Vote(_) => true,
        }
    }
}

/// Bytes of an entry's fixed fields.
fn fixed_of(flag: u8) -> usize {
    ENTRY_FIXED + if flag & HAS_SECOND_STAMP != 0 { SECOND_STAMP } else { 0 }
}

impl Checkpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut body = [0_u8; CHECKPOINT_BODY];
        let mut flags = 0;
        if let Some(ballot) = self.ballot {
            flags |= HAS_BALLOT | if ballot.committed { BALLOT_COMMITTED } else { 0 };
            put(&mut body, 0, ballot.leader.term);
            put(&mut body, 8, ballot.leader.node);
        }
        let positions =
            [(HAS_COMMITTED, self.committed), (HAS_PURGED, self.bounds.purged), (HAS_LAST, self.bounds.last)];
        for (slot, (flag, position)) in positions.into_iter().enumerate() {
            if let Some(position) = position {
                flags |= flag;
                put_position(&mut body, 16 + slot * POSITION, position);
            }
        }
        put(&mut body, CHECKPOINT_BODY - 16, self.bounds.start);
        put(&mut body, CHECKPOINT_BODY - 8, self.bounds.next);
        write_record(out, CHECKPOINT, flags, &body, &[]);
    }

    fn decode(flags: u8, body: &[u8]) -> Self {
        let position = |flag: u8, slot: usize| (flags & flag != 0).then(|| position_at(body, 16 + slot * POSITION));
        Self {
            ballot: (flags & HAS_BALLOT != 0).then(|| Ballot {
                leader: Leader { term: get(body, 0), node: get(body, 8) },
                committed: flags & BALLOT_COMMITTED != 0,
            }),
            committed: position(HAS_COMMITTED, 0),
            bounds: Bounds {
                purged: position(HAS_PURGED, 1),
                last: position(HAS_LAST, 2),
                start: get(body, CHECKPOINT_BODY - 16),
                next: get(body, CHECKPOINT_BODY - 8),
            },
        }
    }
}

struct Header {
    kind: u8,
    flag: u8,
    body: usize,
    crc: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        Some(Self {
            kind: header[0],
            flag: header[1],
            body: u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize,
            crc: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
        })
    }

    fn total(&self) -> usize {
        HEADER + self.body
    }

    fn is_intact(&self, record: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&record[..8]), &record[HEADER..]) == self.crc
    }
}

fn write_record(out: &mut Vec<u8>, kind: u8, flag: u8, fixed: &[u8], data: &[u8]) -> u32 {
    let mut header = [0_u8; HEADER];
    header[0] = kind;
    header[1] = flag;
    // The caller has checked that an append fits the format's 32 bits.
    header[4..8].copy_from_slice(&((fixed.len() + data.len()) as u32).to_le_bytes());
    let mut crc = crc32c::crc32c(&header[..8]);
    crc = crc32c::crc32c_append(crc, fixed);
    crc = crc32c::crc32c_append(crc, data);
    header[8..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(fixed);
    out.extend_from_slice(data);
    crc
}

fn write_position(out: &mut Vec<u8>, kind: u8, position: Option<Position>) {
    let mut body = [0_u8; POSITION];
    if let Some(position) = position {
        put_position(&mut body, 0, position);
    }
    write_record(out, kind, position.is_some().into(), &body, &[]);
}

fn put(body: &mut [u8], at: usize, value: u64) {
    body[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_position(body: &mut [u8], at: usize, position: Position) {
    put(body, at, position.index);
    put(body, at + 8, position.leader.term);
    put(body, at + 16, position.leader.node);
}

fn get(body: &[u8], at: usize) -> u64 {
    let mut value = [0_u8; 8];
    value.copy_from_slice(&body[at..at + 8]);
    u64::from_le_bytes(value)
}

fn position_at(body: &[u8], at: usize) -> Position {
    Position { index: get(body, at), leader: Leader { term: get(body, at + 8), node: get(body, at + 16) } }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn position(index: u64) -> Position {
        Position { leader: Leader { term: 3, node: 9 }, index }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let ballot = Ballot { leader: Leader { term: 7, node: 1 }, committed: true };
        let records = [
            Record::Vote(ballot),
            Record::Truncate(None),
            Record::Truncate(Some(position(4))),
            Record::Purge(position(5)),
            Record::Committed(None),
            Record::Committed(Some(position(6))),
            Record::Checkpoint(Checkpoint::default()),
            Record::Checkpoint(Checkpoint {
                ballot: Some(ballot),
                committed: Some(position(6)),
                bounds: Bounds { purged: Some(position(2)), last: Some(position(8)), start: 3, next: 9 },
            }),
        ];
        let mut bytes = Vec::new();
        for record in &records {
            record.encode(&mut bytes);
        }
        let mut at = 0;
        for record in &records {
            let (parsed, len) = Record::parse(&bytes[at..]).unwrap();
            assert_eq!(parsed, *record);
            at += len;
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn what_no_log_can_say_is_refused() {
        // Found by the fuzz target `log`: such a checkpoint was believed, and gave a log that ends before it begins.
        let bounds = Bounds { purged: Some(position(2)), last: Some(position(8)), start: 3, next: 9 };
        let last = position(u64::MAX);
        for (what, record) in [
            (
                "start",
                Record::Checkpoint(Checkpoint { bounds: Bounds { start: 10, ..bounds }, ..Checkpoint::default() }),
            ),
            ("hole", Record::Checkpoint(Checkpoint { bounds: Bounds { start: 4, ..bounds }, ..Checkpoint::default() })),
            ("next", Record::Checkpoint(Checkpoint { bounds: Bounds { next: 10, ..bounds }, ..Checkpoint::default() })),
            (
                "last",
                Record::Checkpoint(Checkpoint { bounds: Bounds { last: None, ..bounds }, ..Checkpoint::default() }),
            ),
            ("purge", Record::Purge(last)),
            ("truncate", Record::Truncate(Some(last))),
            ("committed", Record::Committed(Some(last))),
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::parse(&bytes), Err("a record says what no log can say"), "{what}");
        }
        let mut bytes = Vec::new();
        Entry { position: last, kind: 1, stamp: 0, second_stamp: None, data: Bytes::new() }.encode(&mut bytes);
        assert_eq!(Record::parse(&bytes), Err("a record says what no log can say"));
    }

    #[test]
    fn an_entry_is_read_alone_and_every_flipped_bit_is_noticed() {
        for second_stamp in [None, Some(0), Some(u64::MAX)] {
            let data = Bytes::from_static(b"a value");
            let entry = Entry { position: position(11), kind: 1, stamp: 99, second_stamp, data };
            let mut bytes = Vec::new();
            let crc = entry.encode(&mut bytes);
            assert_eq!(bytes.len(), entry.encoded_len());
            assert_eq!(Entry::decode(&Bytes::from(bytes.clone()), crc), Ok(entry));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Entry::decode(&Bytes::from(flipped.clone()), crc).is_err(), "bit {bit}");
                assert!(Record::parse(&flipped).is_err(), "bit {bit}");
            }
        }
    }
}
