//! What stands behind the keys: records that carry their own checksum.
//!
//! A record is a CRC-32C over key and body, then the body. A flipped bit anywhere, or a record that came to stand
//! under another key, is noticed by whoever reads it, whatever the layers below did or did not check.

use bytes::Bytes;
use fjall::Slice;
use raftkv_kv::{Answer, Outcome};

use super::StoreError;

const CRC: usize = 4;

/// Values up to this size are copied out of the block they were read from; larger ones are shared with it.
const COPY_BELOW: usize = 4 * 1024;

/// What one record adds to the hash of the state. Sums of traces do not depend on order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace(pub(super) u64);

impl Trace {
    /// Of a record that [`check`] has passed or [`seal`] has made.
    pub(super) fn of(record: &[u8]) -> Self {
        // The record's own checksum covers key and body: mixing it costs nothing per byte.
        let crc = record.first_chunk::<CRC>().map_or(0, |crc| u32::from_le_bytes(*crc));
        Self(mix(u64::from(crc) | ((record.len() as u64) << 32)))
    }
}

/// The finalizer of SplitMix64: spreads every input bit over all output bits.
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Makes a record of body parts that are stored one after the other.
pub(super) fn seal(key: &[u8], parts: &[&[u8]]) -> Slice {
    let len = CRC + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut stack = [0u8; 512];
    let mut heap = Vec::new();
    // Small records are put together on the stack: one allocation less for each.
    let buffer = if len <= stack.len() {
        &mut stack[..len]
    } else {
        heap.resize(len, 0);
        &mut heap[..]
    };
    let mut at = CRC;
    for part in parts {
        buffer[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let crc = crc_of(key, &buffer[CRC..]);
    buffer[..CRC].copy_from_slice(&crc.to_le_bytes());
    Slice::from(&*buffer)
}

/// The body of a record whose checksum holds.
pub(super) fn check<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let Some((crc, body)) = record.split_first_chunk::<CRC>() else {
        return Err(damaged(key, "it is too short"));
    };
    if crc_of(key, body) != u32::from_le_bytes(*crc) {
        return Err(damaged(key, "its checksum does not match"));
    }
    Ok(body)
}

fn crc_of(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

fn damaged(key: &[u8], what: &str) -> StoreError {
    StoreError::Corrupt(format!("record {}: {what}", key.escape_ascii()))
}

/// The body of a record that was checked when it was read.
pub(super) fn body(record: &[u8]) -> &[u8] {
    record.get(CRC..).unwrap_or_default()
}

/// Takes little-endian numbers off the front.
fn numbers<const N: usize>(key: &[u8], body: &[u8]) -> Result<([u64; N], usize), StoreError> {
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(body.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    if body.len() < N * 8 {
        return Err(damaged(key, "it is too short"));
    }
    Ok((numbers, N * 8))
}

/// A stored value with what stands beside it.
#[derive(Debug, Clone)]
pub(super) struct DataRecord {
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    pub(super) expires_at_ms: u64,
    record: Slice,
}

impl DataRecord {
    const HEAD: usize = 24;

    pub(super) fn seal(key: &[u8], revision: u64, create_revision: u64, expires_at_ms: u64, value: &[u8]) -> Slice {
        let mut head = [0; Self::HEAD];
        head[..8].copy_from_slice(&revision.to_le_bytes());
        head[8..16].copy_from_slice(&create_revision.to_le_bytes());
        head[16..].copy_from_slice(&expires_at_ms.to_le_bytes());
        seal(key, &[&head, value])
    }

    /// Of a record whose checksum holds.
    pub(super) fn parse(key: &[u8], record: Slice) -> Result<Self, StoreError> {
        let ([revision, create_revision, expires_at_ms], _) = numbers(key, body(&record))?;
        Ok(Self { revision, create_revision, expires_at_ms, record })
    }

    /// Whether it is there for a reader whose clock shows `clock_ms`.
    pub(super) fn is_live(&self, clock_ms: u64) -> bool {
        self.expires_at_ms == 0 || self.expires_at_ms > clock_ms
    }

    /// Bytes of the value.
    pub(super) fn value_len(&self) -> usize {
        self.record.len().saturating_sub(CRC + Self::HEAD)
    }

    /// The value's bytes.
    pub(super) fn into_value(self) -> Bytes {
        let at = CRC + Self::HEAD;
        if self.record.len() <= COPY_BELOW {
            Bytes::copy_from_slice(self.record.get(at..).unwrap_or_default())
        } else {
            Bytes::from_owner(self.record).slice(at..)
        }
    }
}

/// What an operation must know of the value it replaces; not the value itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    pub(super) expires_at_ms: u64,
    /// Of the stored record.
    pub(super) trace: Trace,
}

impl Stored {
    /// Of a record whose checksum holds.
    pub(super) fn parse(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let ([revision, create_revision, expires_at_ms], _) = numbers(key, body(record))?;
        Ok(Self { revision, create_revision, expires_at_ms, trace: Trace::of(record) })
    }

    /// Whether it is there for a reader whose clock shows `clock_ms`.
    pub(super) fn is_live(&self, clock_ms: u64) -> bool {
        self.expires_at_ms == 0 || self.expires_at_ms > clock_ms
    }
}

/// What is kept about a session besides its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionRecord {
    /// The sender has the answers of every batch below.
    pub(super) acknowledged_below: u64,
    /// The replicated clock when it was last used.
    pub(super) used_ms: u64,
}

impl SessionRecord {
    pub(super) fn seal(self, key: &[u8]) -> Slice {
        seal(key, &[&self.acknowledged_below.to_le_bytes(), &self.used_ms.to_le_bytes()])
    }

    /// Of a record whose checksum holds.
    pub(super) fn parse(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let ([acknowledged_below, used_ms], _) = numbers(key, body(record))?;
        Ok(Self { acknowledged_below, used_ms })
    }
}

/// The outcome kept for an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdempotencyRecord {
    pub(super) fingerprint: u64,
    pub(super) expires_at_ms: u64,
    pub(super) outcome: Outcome,
}

impl IdempotencyRecord {
    pub(super) fn seal(&self, key: &[u8]) -> Slice {
        let outcome = Answer::Applied(vec![self.outcome.clone()]).encode();
        seal(key, &[&self.fingerprint.to_le_bytes(), &self.expires_at_ms.to_le_bytes(), &outcome])
    }

    /// Of a record whose checksum holds.
    pub(super) fn parse(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let ([fingerprint, expires_at_ms], at) = numbers(key, body(record))?;
        match Answer::decode(&body(record)[at..]) {
            Ok(Answer::Applied(mut outcomes)) if outcomes.len() == 1 => {
                Ok(Self { fingerprint, expires_at_ms, outcome: outcomes.remove(0) })
            }
            Ok(_) => Err(damaged(key, "it holds no outcome")),
            Err(error) => Err(damaged(key, &error.to_string())),
        }
    }

    /// When the outcome is forgotten, without decoding it.
    pub(super) fn expiry_of(key: &[u8], record: &[u8]) -> Result<u64, StoreError> {
        numbers::<2>(key, body(record)).map(|([_, expires_at_ms], _)| expires_at_ms)
    }
}

/// A document of routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SystemRecord {
    /// Rises with every change.
    pub(super) version: u64,
    pub(super) value: Bytes,
}

impl SystemRecord {
    pub(super) fn seal(key: &[u8], version: u64, value: &[u8]) -> Slice {
        seal(key, &[&version.to_le_bytes(), value])
    }

    /// Of a record whose checksum holds.
    pub(super) fn parse(key: &[u8], record: &[u8]) -> Result<Self, StoreError> {
        let ([version], at) = numbers(key, body(record))?;
        Ok(Self { version, value: Bytes::copy_from_slice(&body(record)[at..]) })
    }
}

/// The encoded answer in a record whose checksum holds.
pub(super) fn answer_of(record: &[u8]) -> Bytes {
    Bytes::copy_from_slice(body(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_in_key_or_record_is_noticed() {
        let key = b"\x40key".to_vec();
        let record = DataRecord::seal(&key, 3, 2, 0, b"value").to_vec();
        assert!(check(&key, &record).is_ok());
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&key, &flipped).is_err(), "bit {bit} of the record");
        }
        for bit in 0..key.len() * 8 {
            let mut flipped = key.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&flipped, &record).is_err(), "bit {bit} of the key");
        }
        for len in 0..record.len() {
            assert!(check(&key, &record[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn records_come_back_as_they_were_sealed() {
        let key = b"k";
        for len in [0, 1, 500, 600, 5000] {
            let value = vec![9u8; len];
            let record = DataRecord::parse(key, DataRecord::seal(key, 3, 2, 1, &value)).unwrap();
            assert_eq!((record.revision, record.create_revision, record.expires_at_ms), (3, 2, 1));
            assert_eq!(record.value_len(), len);
            assert_eq!(record.into_value(), value);
        }
        let session = SessionRecord { acknowledged_below: 4, used_ms: 5 };
        assert_eq!(SessionRecord::parse(key, &session.seal(key)).unwrap(), session);
        let kept = IdempotencyRecord {
            fingerprint: 1,
            expires_at_ms: 2,
            outcome: Outcome::Set { revision: 3, created: true },
        };
        assert_eq!(IdempotencyRecord::parse(key, &kept.seal(key)).unwrap(), kept);
        assert_eq!(IdempotencyRecord::expiry_of(key, &kept.seal(key)).unwrap(), 2);
        let system = SystemRecord { version: 3, value: Bytes::from_static(b"{}") };
        assert_eq!(SystemRecord::parse(key, &SystemRecord::seal(key, 3, b"{}")).unwrap(), system);
    }
}
