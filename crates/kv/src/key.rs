//! [`Key`]: the name of a value.

use bytes::Bytes;

use crate::Limits;

/// The first byte of the system's own keys, which no client may name.
const RESERVED_FIRST_BYTE: u8 = 0x00;

/// A client's key: 1 to [`Limits::max_key_bytes`] bytes, any bytes, but the first is not `0x00`.
///
/// Ordered by its bytes. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(#[serde(with = "crate::codec::bin")] Bytes);

/// Why some bytes are not a [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("the key is empty")]
    Empty,
    /// More bytes than the limit.
    #[error("the key has {len} bytes; the limit is {limit}")]
    TooLong {
        /// What was given.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It begins with the byte kept for the system's own keys.
    #[error("the key begins with the byte 0x00, which is reserved")]
    Reserved,
}

impl Key {
    /// Checks `bytes` against `limits`.
    pub fn new(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        Self::check(&bytes, limits)?;
        Ok(Self(bytes))
    }

    /// Checks `bytes` against `limits`, where they are.
    pub fn check(bytes: &[u8], limits: &Limits) -> Result<(), KeyError> {
        Self::check_len(bytes, limits.max_key_bytes)
    }

    /// Checks `bytes`, where they are, with `limit` as the longest that they may be.
    pub fn check_len(bytes: &[u8], limit: usize) -> Result<(), KeyError> {
        match bytes.first() {
            None => Err(KeyError::Empty),
            Some(_) if bytes.len() > limit => Err(KeyError::TooLong { len: bytes.len(), limit }),
            Some(&RESERVED_FIRST_BYTE) => Err(KeyError::Reserved),
            Some(_) => Ok(()),
        }
    }

    /// A key that was checked before it was stored. Does not check again.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}
