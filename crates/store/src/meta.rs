//! [`Meta`]: the one record that says where the state stands.

use bytes::Bytes;
use fjall::Slice;

use raftkv_kv::{MAX_CLOCK_MS, MAX_REVISION, STRICT_VERSION};
use raftkv_proto::{ClusterVersion, FIRST_VERSION, SPOKEN};

use super::{Position, StoreError, layout, record};

/// Written in the same batch as the changes it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Where it stands.
    pub(super) position: Position,
    /// The cluster version: decides what entries do and which formats are written.
    pub(super) version: ClusterVersion,
    /// Number of effective operations since the group began.
    pub(super) revision: u64,
    /// The replicated clock: the highest stamp of the entries so far. Below the second cluster version leaders stamp with their wall clocks.
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

impl Default for Meta {
    /// Of an empty state, which has the first version whatever this program speaks: a group is born with it.
    fn default() -> Self {
        Self {
            position: Position::default(),
            version: FIRST_VERSION,
            revision: 0,
            clock_ms: 0,
            keys: 0,
            sessions: 0,
            idempotency: 0,
            sum: 0,
            batch: 0,
        }
    }
}

impl Meta {
    const NUMBERS: usize = 8;

    /// The record. Its first byte behind the checksum is the format, which is the cluster version.
    pub(super) fn seal(&self) -> Slice {
        let mut body = Vec::with_capacity(80 + self.position.log_id.len() + self.position.membership.len());
        body.push(self.version as u8);
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
        let version = ClusterVersion::from(format);
        if !SPOKEN.contains(version) {
            return Err(StoreError::Unsupported(format!(
                "the state has the cluster version {version}; this program speaks {SPOKEN}. Run the version of RaftKV that wrote it"
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
            version,
            revision,
            clock_ms,
            keys,
            sessions,
            idempotency,
            sum,
            batch,
        })
    }

    /// Whether a group can have come here: from [`STRICT_VERSION`] on revision and clock have bounds.
    pub(super) fn check_bounds(&self) -> Result<(), StoreError> {
        if self.version >= STRICT_VERSION && (self.revision > MAX_REVISION || self.clock_ms > MAX_CLOCK_MS) {
            let (revision, clock_ms) = (self.revision, self.clock_ms);
            return Err(StoreError::Corrupt(format!(
                "revision {revision} and clock {clock_ms} are not within {MAX_REVISION} and {MAX_CLOCK_MS}"
            )));
        }
        Ok(())
    }

    /// One number for the whole replicated state at this position.
    pub(super) fn state_hash(&self) -> u64 {
        let numbers =
            [self.position.next_index, self.revision, self.clock_ms, self.keys, self.sessions, self.idempotency];
        // Members of version 0.1.0 compute it without the version.
        let version = (self.version != FIRST_VERSION).then_some(u64::from(self.version));
        let mixed = |hash, number| record::mix(hash ^ record::mix(number));
        numbers.into_iter().chain(version).fold(self.sum, mixed)
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
            version: SPOKEN.max,
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
    fn a_state_beyond_the_bounds_is_none_of_a_strict_group() {
        let at = |version, revision, clock_ms| Meta { version, revision, clock_ms, ..Meta::default() };
        at(STRICT_VERSION, MAX_REVISION, MAX_CLOCK_MS).check_bounds().expect("the highest");
        for (revision, clock_ms) in [(MAX_REVISION + 1, 0), (0, MAX_CLOCK_MS + 1)] {
            at(STRICT_VERSION - 1, revision, clock_ms).check_bounds().expect("below it");
            assert!(matches!(at(STRICT_VERSION, revision, clock_ms).check_bounds(), Err(StoreError::Corrupt(_))));
        }
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let mut body = Meta::default().seal()[4..].to_vec();
        body[0] = 9;
        let record = record::seal(&layout::META_KEY, &[&body]);
        let error = Meta::open(&record).unwrap_err();
        assert!(matches!(&error, StoreError::Unsupported(text) if text.contains("version 9")), "{error}");
    }

    #[test]
    fn the_first_version_is_written_as_version_0_1_0_writes_it() {
        let meta = Meta { revision: 2, ..Meta::default() };
        let record = meta.seal();
        assert_eq!((record.len(), record[4]), (4 + 1 + 8 * 8 + 4, FIRST_VERSION as u8));
        let raised = Meta { version: SPOKEN.max, ..meta.clone() };
        assert_ne!(meta.state_hash(), raised.state_hash());
    }
}
