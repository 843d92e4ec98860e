//! [`Meta`]: the one record that says where the state stands.

use bytes::Bytes;
use fjall::Slice;

use super::{Position, StoreError, layout, record};

/// The format of the store and of its records. Another one is refused.
pub(super) const FORMAT: u8 = 1;

/// Written in the same batch as the changes it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Where it stands.
    pub(super) position: Position,
    /// Number of effective operations since the group began.
    pub(super) revision: u64,
    /// The replicated clock: the maximum of the leaders' clocks in the entries so far.
    pub(super) clock_ms: u64,
    /// Records of values.
    pub(super) keys: u64,
    /// Records of sessions.
    pub(super) sessions: u64,
    /// Records of `Idempotency-Key`s.
    pub(super) idempotency: u64,
    /// Sum of the traces of all records of the replicated state.
    pub(super) sum: u64,
    /// Number of the last batch written here; local to the node.
    pub(super) batch: u64,
}

impl Meta {
    const NUMBERS: usize = 8;

    /// The record. Its first byte behind the checksum is the format.
    pub(super) fn seal(&self) -> Slice {
        let mut body = Vec::with_capacity(80 + self.position.log_id.len() + self.position.membership.len());
        body.push(FORMAT);
        for number in [
            self.position.next_index,
            self.revision,
            self.clock_ms,
            self.keys,
            self.sessions,
            self.idempotency,
            self.sum,
            self.batch,
        ] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&(self.position.log_id.len() as u32).to_le_bytes());
        body.extend_from_slice(&self.position.log_id);
        body.extend_from_slice(&self.position.membership);
        record::seal(&layout::META_KEY, &[&body])
    }

    /// Checks and reads the record.
    pub(super) fn open(record: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt("the meta record is too short".to_owned());
        let body = record::check(&layout::META_KEY, record)?;
        let (&format, body) = body.split_first().ok_or_else(damaged)?;
        if format != FORMAT {
            return Err(StoreError::Unsupported(format!(
                "the state has format {format}; this version of the engine knows format {FORMAT} only"
            )));
        }
        let (numbers, body) = body.split_at_checked(Self::NUMBERS * 8).ok_or_else(damaged)?;
        let mut numbers = numbers.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
        let mut next = || numbers.next().unwrap_or_default();
        let (next_index, revision, clock_ms, keys) = (next(), next(), next(), next());
        let (sessions, idempotency, sum, batch) = (next(), next(), next(), next());
        let (len, body) = body.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (log_id, membership) = body.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(damaged)?;
        Ok(Self {
            position: Position {
                next_index,
                log_id: Bytes::copy_from_slice(log_id),
                membership: Bytes::copy_from_slice(membership),
            },
            revision,
            clock_ms,
            keys,
            sessions,
            idempotency,
            sum,
            batch,
        })
    }

    /// One number for the whole replicated state at this position.
    pub(super) fn state_hash(&self) -> u64 {
        [self.position.next_index, self.revision, self.clock_ms, self.keys, self.sessions, self.idempotency]
            .into_iter()
            .fold(self.sum, |hash, number| record::mix(hash ^ record::mix(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_sealed() {
        let meta = Meta {
            position: Position {
                next_index: 1,
                log_id: Bytes::from_static(b"log"),
                membership: Bytes::from_static(b"members"),
            },
            revision: 2,
            clock_ms: 3,
            keys: 4,
            sessions: 5,
            idempotency: 6,
            sum: 7,
            batch: 8,
        };
        assert_eq!(Meta::open(&meta.seal()).unwrap(), meta);
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let mut body = Meta::default().seal()[4..].to_vec();
        body[0] = 9;
        let record = record::seal(&layout::META_KEY, &[&body]);
        let error = Meta::open(&record).unwrap_err();
        assert!(matches!(&error, StoreError::Unsupported(text) if text.contains("format 9")), "{error}");
    }
}
