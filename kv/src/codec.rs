//! The encoding of everything replicated: a version byte, then MsgPack.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

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
    Malformed(#[from] rmp_serde::decode::Error),
    /// More bytes than the message has.
    #[error("{extra} bytes too many after the message")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.push(FORMAT_VERSION);
    // Writing to memory cannot fail, and no type of ours has a fallible Serialize.
    #[allow(clippy::expect_used)]
    rmp_serde::encode::write(&mut out, message).expect("encode into memory");
    out.into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT_VERSION, mut body)) => {
            let mut deserializer = rmp_serde::Deserializer::new(&mut body);
            deserializer.set_max_depth(MAX_DEPTH);
            let message = T::deserialize(&mut deserializer)?;
            match body.len() {
                0 => Ok(message),
                extra => Err(CodecError::TrailingBytes { extra }),
            }
        }
        Some((&found, _)) => Err(CodecError::UnknownVersion { found }),
    }
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
