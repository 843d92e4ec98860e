//! [`Value`]: one MsgPack value, kept in encoded form.

use bytes::Bytes;

use crate::json::Bounds;
use crate::msgpack::{Scanner, Token};
use crate::parts::Parts;
use crate::{Limits, json};

/// One MsgPack value (nil, bool, int, float, str, bin, array, map), kept in encoded form.
///
/// The bytes are validated as exactly one well-formed value, and a read returns the written bytes unchanged.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Value(#[serde(with = "crate::codec::bin")] Bytes);

/// The type of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nil.
    Nil,
    /// True or false.
    Bool,
    /// A signed or unsigned integer of up to 64 bits.
    Int,
    /// A float of 32 or 64 bits.
    Float,
    /// A text.
    Str,
    /// Bytes.
    Bin,
    /// A sequence of values.
    Array,
    /// A sequence of key-value pairs.
    Map,
}

/// The reason bytes are rejected as a [`Value`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not well-formed MsgPack.
    #[error("not well-formed MsgPack: {0}")]
    Malformed(String),
    /// Malformed JSON, or JSON without an exact MsgPack form.
    #[error("not well-formed JSON: {0}")]
    MalformedJson(String),
    /// Bytes follow the value.
    #[error("{extra} bytes too many after the value")]
    TrailingBytes {
        /// Number of extra bytes.
        extra: usize,
    },
    /// The value exceeds the size limit.
    #[error("the value has {len} bytes or more as MsgPack; the limit is {limit}")]
    TooLarge {
        /// Size in bytes. The JSON parser stops at the limit, so for JSON the size is a lower bound.
        len: usize,
        /// Maximum size.
        limit: usize,
    },
    /// An array in a message has more elements than the limit.
    #[error("the message has an array of more than {limit} elements")]
    TooMany {
        /// Maximum number of elements.
        limit: usize,
    },
    /// Arrays and maps are nested deeper than the limit.
    #[error("the value is nested deeper than {limit} levels")]
    TooDeep {
        /// Maximum depth.
        limit: usize,
    },
}

impl Value {
    /// Makes a MsgPack str.
    pub fn text(text: &str, limits: &Limits) -> Result<Self, ValueError> {
        let mut out = Vec::with_capacity(text.len() + 5);
        // Writing to memory cannot fail.
        let _ = rmp::encode::write_str(&mut out, text);
        Self::sized(out.into(), limits)
    }

    /// Makes a MsgPack bin.
    pub fn binary(bytes: &[u8], limits: &Limits) -> Result<Self, ValueError> {
        let mut out = Vec::with_capacity(bytes.len() + 5);
        let _ = rmp::encode::write_bin(&mut out, bytes);
        Self::sized(out.into(), limits)
    }

    /// Validates exactly one MsgPack value: well-formed, every str valid UTF-8, no extension types, no trailing bytes.
    pub fn from_msgpack(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, ValueError> {
        let bytes = bytes.into();
        Self::check(&bytes, limits.max_value_depth)?;
        Self::sized(bytes, limits)
    }

    /// Checks `bytes` as [`from_msgpack`](Self::from_msgpack) does, but without the size limit.
    ///
    /// # Errors
    /// The first error found in the bytes.
    pub fn check(bytes: &[u8], max_depth: usize) -> Result<(), ValueError> {
        let mut scanner = Scanner::new(bytes);
        scanner.skip_value(max_depth)?;
        match bytes.len() - scanner.position() {
            0 => Ok(()),
            extra => Err(ValueError::TrailingBytes { extra }),
        }
    }

    /// Validates a message in MsgPack: like [`from_msgpack`](Self::from_msgpack), but in a map each array field may
    /// have at most `max_elements` elements ([`ValueError::TooMany`]). The array header gives the size, so the elements
    /// of a larger array are not read.
    pub fn message_from_msgpack(
        bytes: impl Into<Bytes>,
        limits: &Limits,
        max_elements: usize,
    ) -> Result<Self, ValueError> {
        let bytes = bytes.into();
        let mut scanner = Scanner::new(&bytes);
        scanner.skip_message(limits.max_value_depth, max_elements)?;
        match bytes.len() - scanner.position() {
            0 => Self::sized(bytes, limits),
            extra => Err(ValueError::TrailingBytes { extra }),
        }
    }

    /// Returns the value if the value is within `limits`, which may be narrower than the original limits.
    pub fn within(self, limits: &Limits) -> Result<Self, ValueError> {
        if matches!(self.kind(), Kind::Array | Kind::Map) {
            Scanner::new(&self.0).skip_value(limits.max_value_depth)?;
        }
        Self::sized(self.0, limits)
    }

    /// The elements of an array or a map; `None` for other types.
    pub fn parts(&self) -> Option<Parts<'_>> {
        Parts::of(self)
    }

    /// Makes a value of an element, given as a subslice of the bytes.
    pub(crate) fn part(&self, bytes: &[u8]) -> Self {
        Self(self.0.slice_ref(bytes))
    }

    /// Converts a JSON text. Integers of up to 64 bits, signed or unsigned, and floats are kept exactly. Rejects larger
    /// integers, duplicate keys, and trailing text.
    pub fn from_json(json: &[u8], limits: &Limits) -> Result<Self, ValueError> {
        Self::translated(json, limits, None)
    }

    /// Converts a message in JSON: like [`from_json`](Self::from_json), but in an object each array field may have at
    /// most `max_elements` elements ([`ValueError::TooMany`]). The parser stops at the first excess element.
    pub fn message_from_json(json: &[u8], limits: &Limits, max_elements: usize) -> Result<Self, ValueError> {
        Self::translated(json, limits, Some(max_elements))
    }

    fn translated(json: &[u8], limits: &Limits, elements: Option<usize>) -> Result<Self, ValueError> {
        let bounds = Bounds { depth: limits.max_value_depth, bytes: limits.max_value_bytes, elements };
        Self::sized(json::to_msgpack(json, bounds)?.into(), limits)
    }

    /// Converts the value to JSON. Returns `None` if JSON cannot represent the value exactly: bin, a map key of a type
    /// other than str, a duplicate map key, or a non-finite float.
    ///
    /// A float always has a fraction or an exponent, so [`from_json`](Self::from_json) reads a float again. A 32-bit
    /// float is written with all digits of the equal 64-bit number.
    pub fn to_json(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.0.len() + 16);
        self.write_json(&mut out).then_some(out)
    }

    /// Appends the output of [`to_json`](Self::to_json). Returns `false`, with `out` unchanged, if the value has no
    /// exact JSON form.
    pub fn write_json(&self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let done = json::write_json(&self.0, out);
        if !done {
            out.truncate(before);
        }
        done
    }

    /// Returns the type of the value.
    pub fn kind(&self) -> Kind {
        match self.0.first().copied().unwrap_or(0xc0) {
            0x00..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff => Kind::Int,
            0x80..=0x8f | 0xde | 0xdf => Kind::Map,
            0x90..=0x9f | 0xdc | 0xdd => Kind::Array,
            0xa0..=0xbf | 0xd9..=0xdb => Kind::Str,
            0xc2 | 0xc3 => Kind::Bool,
            0xca | 0xcb => Kind::Float,
            0xc4..=0xc6 => Kind::Bin,
            // Validated values contain neither extension types nor 0xc1.
            0xc0 | 0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => Kind::Nil,
        }
    }

    /// The text of a str.
    pub fn as_str(&self) -> Option<&str> {
        Scanner::new(&self.0).text()
    }

    /// The bytes of a bin.
    pub fn as_bin(&self) -> Option<&[u8]> {
        match (self.kind(), Scanner::new(&self.0).token()) {
            (Kind::Bin, Ok(Token::Bin(bytes))) => Some(bytes),
            _ => None,
        }
    }

    /// The bytes of a str or a bin without the MsgPack header, shared.
    pub fn content(&self) -> Option<Bytes> {
        let header = match self.0.first()? {
            0xa0..=0xbf => 1,
            0xc4 | 0xd9 => 2,
            0xc5 | 0xda => 3,
            0xc6 | 0xdb => 5,
            _ => return None,
        };
        (header <= self.0.len()).then(|| self.0.slice(header..))
    }

    /// Wraps a value already validated before storage. Performs no checks.
    pub fn from_stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Returns the encoded bytes.
    pub fn as_msgpack(&self) -> &[u8] {
        &self.0
    }

    /// Returns the encoded bytes, shared.
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
