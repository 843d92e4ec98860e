//! [`Value`]: one MsgPack value, kept as its bytes.

use bytes::Bytes;

use crate::Limits;

/// One MsgPack value (nil, bool, int, float, str, bin, array, map), as the bytes that encode it.
///
/// The bytes were checked to be exactly one well-formed value, so what was put is what is got, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Value(#[serde(with = "crate::codec::bin")] Bytes);

/// Why some bytes are not a [`Value`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not well-formed MsgPack.
    #[error("not well-formed MsgPack: {0}")]
    Malformed(String),
    /// More bytes than one value.
    #[error("{extra} bytes too many after the MsgPack value")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// Larger than the limit.
    #[error("the value has {len} bytes as MsgPack; the limit is {limit}")]
    TooLarge {
        /// What was given.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Arrays and maps nested deeper than the limit.
    #[error("the value is nested deeper than {limit} levels")]
    TooDeep {
        /// What is allowed.
        limit: usize,
    },
}

impl Value {
    /// A text, as MsgPack str.
    pub fn text(text: &str, limits: &Limits) -> Result<Self, ValueError> {
        let mut out = Vec::with_capacity(text.len() + 5);
        // Writing to memory cannot fail.
        let _ = rmp::encode::write_str(&mut out, text);
        Self::sized(out.into(), limits)
    }

    /// Bytes, as MsgPack bin.
    pub fn binary(bytes: &[u8], limits: &Limits) -> Result<Self, ValueError> {
        let mut out = Vec::with_capacity(bytes.len() + 5);
        let _ = rmp::encode::write_bin(&mut out, bytes);
        Self::sized(out.into(), limits)
    }

    /// A value that was checked before it was stored. Does not check again.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The encoded bytes.
    pub fn as_msgpack(&self) -> &[u8] {
        &self.0
    }

    /// The encoded bytes, shared.
    pub fn into_msgpack(self) -> Bytes {
        self.0
    }

    fn sized(bytes: Bytes, limits: &Limits) -> Result<Self, ValueError> {
        if bytes.len() > limits.max_value_bytes {
            return Err(ValueError::TooLarge { len: bytes.len(), limit: limits.max_value_bytes });
        }
        Ok(Self(bytes))
    }
}
