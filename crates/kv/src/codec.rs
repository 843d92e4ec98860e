//! The encoding of everything replicated: a version byte, then MsgPack.

use bytes::Bytes;
use rmp_serde::Deserializer;
use rmp_serde::decode::Error;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The version written first in every encoded proposal and answer.
pub const FORMAT_VERSION: u8 = 1;

/// Deepest nesting that is decoded, where the decoder counts it (not for enums). Ours is below 16.
const MAX_DEPTH: usize = 32;

/// Why bytes are not a proposal or an answer.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No bytes at all.
    #[error("nothing to decode")]
    Empty,
    /// Written by another version of this software.
    #[error("format version {found} is not known here; this version knows {FORMAT_VERSION}")]
    UnknownVersion {
        /// The byte found.
        found: u8,
    },
    /// Not what this version writes.
    #[error("malformed: {0}")]
    Malformed(#[from] Error),
    /// More bytes than the message has.
    #[error("{extra} bytes too many after the message")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

impl CodecError {
    /// Whether another version of this software may know what the bytes mean. Anything else means nothing to any version.
    pub fn is_of_another_version(&self) -> bool {
        matches!(self, Self::UnknownVersion { .. })
    }
}

/// Most messages are shorter.
const CAPACITY: usize = 128;

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    encode_sized(message, CAPACITY)
}

/// Encodes what is about as long as `capacity`, which spares copies on the way there.
pub(crate) fn encode_sized<T: Serialize>(message: &T, capacity: usize) -> Bytes {
    let mut out = Vec::with_capacity(capacity);
    out.push(FORMAT_VERSION);
    // Writing to memory cannot fail, and no type of ours has a fallible Serialize.
    #[allow(clippy::expect_used)]
    rmp_serde::encode::write(&mut out, message).expect("encode into memory");
    out.into()
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT_VERSION, body)) => {
            // Over the slice itself: a reader would copy all bytes into a buffer of its own first.
            let mut deserializer = Deserializer::from_read_ref(body);
            deserializer.set_max_depth(MAX_DEPTH);
            let message = T::deserialize(&mut deserializer)?;
            // It does not tell where it stands, only whether there is another marker. What has nothing in it reads no more.
            match <()>::deserialize(&mut deserializer) {
                Err(Error::InvalidMarkerRead(_)) => Ok(message),
                _ => Err(CodecError::TrailingBytes { extra: trailing(body) }),
            }
        }
        Some((&found, _)) => Err(CodecError::UnknownVersion { found }),
    }
}

/// How many bytes follow the first value, which can be decoded.
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

    /// Takes bytes out of the decoder's buffer, with one allocation.
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

/// Serde for bytes that stay where they are, as MsgPack bin.
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

    /// Takes no str for bytes, as `serde_bytes` would.
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
