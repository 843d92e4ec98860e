//! [`Key`]: the name of a value.

use bytes::Bytes;

use crate::Limits;

/// First byte of system keys, reserved: no client key may start with the byte.
const RESERVED_FIRST_BYTE: u8 = 0x00;

/// A client key: 1 to [`Limits::max_key_bytes`] arbitrary bytes, the first of them not `0x00`.
///
/// Ordered bytewise. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(#[serde(with = "crate::codec::bin")] Bytes);

/// The reason bytes are rejected as a [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is empty.
    #[error("the key is empty")]
    Empty,
    /// The key is longer than the limit.
    #[error("the key has {len} bytes; the limit is {limit}")]
    TooLong {
        /// Actual length.
        len: usize,
        /// Maximum length.
        limit: usize,
    },
    /// The first byte is reserved for system keys.
    #[error("the key begins with the byte 0x00, which is reserved")]
    Reserved,
}

impl Key {
    /// Checks `bytes` against `limits` and makes a key.
    pub fn new(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        Self::check(&bytes, limits)?;
        Ok(Self(bytes))
    }

    /// Checks `bytes` against `limits` without copying.
    pub fn check(bytes: &[u8], limits: &Limits) -> Result<(), KeyError> {
        Self::check_len(bytes, limits.max_key_bytes)
    }

    /// Checks `bytes` without copying; `limit` is the maximum length.
    pub fn check_len(bytes: &[u8], limit: usize) -> Result<(), KeyError> {
        match bytes.first() {
            None => Err(KeyError::Empty),
            Some(_) if bytes.len() > limit => Err(KeyError::TooLong { len: bytes.len(), limit }),
            Some(&RESERVED_FIRST_BYTE) => Err(KeyError::Reserved),
            Some(_) => Ok(()),
        }
    }

    /// Wraps a key already validated before storage. Performs no checks.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}
