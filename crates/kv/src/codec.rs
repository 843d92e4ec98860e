//! Encoding of all replicated data: a version byte, then MsgPack.

use bytes::Bytes;
use rmp_serde::Deserializer;
use rmp_serde::decode::Error;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Version byte at the start of every encoded proposal and answer.
pub const FORMAT_VERSION: u8 = 1;

/// Maximum nesting depth for decoding. The decoder does not count enums. RaftKV messages stay below 16.
const MAX_DEPTH: usize = 32;

/// The reason bytes cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The input is empty.
    #[error("nothing to decode")]
    Empty,
    /// Written by a different version of RaftKV.
    #[error("format version {found} is not known here; this version knows {FORMAT_VERSION}")]
    UnknownVersion {
        /// The version byte found.
        found: u8,
    },
    /// The bytes do not match the message type.
    #[error("malformed: {0}")]
    Malformed(#[from] Error),
    /// Bytes follow the message.
    #[error("{extra} bytes too many after the message")]
    TrailingBytes {
        /// Number of extra bytes.
        extra: usize,
    },
}

impl CodecError {
    /// Whether a different version of RaftKV may be able to decode the bytes. All other errors are permanent.
    pub fn is_of_another_version(&self) -> bool {
        matches!(self, Self::UnknownVersion { .. })
    }
}

/// Initial buffer size; most messages are shorter.
const CAPACITY: usize = 128;

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    encode_sized(message, CAPACITY)
}

/// Encodes a message of about `capacity` bytes. The right capacity avoids reallocation.
pub(crate) fn encode_sized<T: Serialize>(message: &T, capacity: usize) -> Bytes {
    let mut out = Vec::with_capacity(capacity);
    out.push(FORMAT_VERSION);
    // Writing to memory cannot fail, and no RaftKV type has a fallible Serialize.
    #[allow(clippy::expect_used)]
    rmp_serde::encode::write(&mut out, message).expect("encode into memory");
    out.into()
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT_VERSION, body)) => {
            // Reads from the slice directly: a reader would first copy all bytes into a separate buffer.
            let mut deserializer = Deserializer::from_read_ref(body);
            deserializer.set_max_depth(MAX_DEPTH);
            let message = T::deserialize(&mut deserializer)?;
            // The deserializer does not expose its position, only whether another marker follows. Decoding a unit value
            // reads no further.
            match <()>::deserialize(&mut deserializer) {
                Err(Error::InvalidMarkerRead(_)) => Ok(message),
                _ => Err(CodecError::TrailingBytes { extra: trailing(body) }),
            }
        }
        Some((&found, _)) => Err(CodecError::UnknownVersion { found }),
    }
}

/// Number of bytes after the first value. The first value must be decodable.
fn trailing(mut body: &[u8]) -> usize {
    let _ = IgnoredAny::deserialize(&mut Deserializer::new(&mut body));
    body.len()
}

/// Serde for [`Bytes`] as MsgPack bin.
pub(crate) mod bin {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(bytes.as_ref(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(Copied)
    }

    /// Copies the bytes from the decoder's buffer with one allocation.
    struct Copied;

    impl Visitor<'_> for Copied {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
}

/// Serde for borrowed bytes as MsgPack bin.
pub(crate) mod borrowed_bin {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(bytes, serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de [u8], D::Error> {
        deserializer.deserialize_bytes(InPlace)
    }

    /// Rejects str in place of bytes, unlike `serde_bytes`.
    struct InPlace;

    impl<'de> Visitor<'de> for InPlace {
        type Value = &'de [u8];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
            Ok(bytes)
        }
    }
}
