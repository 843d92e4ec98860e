//! [`Value`]: one MsgPack value, kept as its bytes.

use bytes::Bytes;

use crate::json::Bounds;
use crate::msgpack::{Scanner, Token};
use crate::parts::Parts;
use crate::{Limits, json};

/// One MsgPack value (nil, bool, int, float, str, bin, array, map), as the bytes that encode it.
///
/// The bytes were checked to be exactly one well-formed value, so what was put is what is got, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Value(#[serde(with = "crate::codec::bin")] Bytes);

/// What sort of value a [`Value`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Nil,
    /// True or false.
    Bool,
    /// An integer of up to 64 bits, with or without sign.
    Int,
    /// A float of 32 or 64 bits.
    Float,
    /// A text.
    Str,
    /// Bytes.
    Bin,
    /// A sequence of values.
    Array,
    /// A sequence of pairs of values.
    Map,
}

/// Why some bytes are not a [`Value`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not well-formed MsgPack.
    #[error("not well-formed MsgPack: {0}")]
    Malformed(String),
    /// Not well-formed JSON, or JSON that cannot be kept exactly.
    #[error("not well-formed JSON: {0}")]
    MalformedJson(String),
    /// More bytes than one value.
    #[error("{extra} bytes too many after the value")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// Larger than the limit.
    #[error("the value has {len} bytes or more as MsgPack; the limit is {limit}")]
    TooLarge {
        /// Bytes that were given. JSON is read only up to the limit: then the value has as many or more.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// An array of a message has more elements than the limit.
    #[error("the message has an array of more than {limit} elements")]
    TooMany {
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

    /// Exactly one MsgPack value: well-formed, its str valid UTF-8, without extension types, nothing after it.
    pub fn from_msgpack(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, ValueError> {
        let bytes = bytes.into();
        Self::check(&bytes, limits.max_value_depth)?;
        Self::sized(bytes, limits)
    }

    /// Whether [`from_msgpack`](Self::from_msgpack) takes the bytes, whatever their number.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(bytes: &[u8], max_depth: usize) -> Result<(), ValueError> {
        let mut scanner = Scanner::new(bytes);
        scanner.skip_value(max_depth)?;
        match bytes.len() - scanner.position() {
            0 => Ok(()),
            extra => Err(ValueError::TrailingBytes { extra }),
        }
    }

    /// A message in MsgPack: like [`from_msgpack`](Self::from_msgpack), but where it is a map, each field of it that is an array has
    /// `max_elements` at most ([`ValueError::TooMany`]). An array says its size first: nothing of a larger one is read.
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

    /// Itself, if it is within limits narrower than those it was made with.
    pub fn within(self, limits: &Limits) -> Result<Self, ValueError> {
        if matches!(self.kind(), Kind::Array | Kind::Map) {
            Scanner::new(&self.0).skip_value(limits.max_value_depth)?;
        }
        Self::sized(self.0, limits)
    }

    /// What is in an array or a map; `None` when it is neither.
    pub fn parts(&self) -> Option<Parts<'_>> {
        Parts::of(self)
    }

    /// A part of it, given by its bytes.
    pub(crate) fn part(&self, bytes: &[u8]) -> Self {
        Self(self.0.slice_ref(bytes))
    }

    /// The value that a JSON text says. Integers of up to 64 bits, with or without sign, and floats are kept exactly;
    /// what cannot be (a larger integer, a key that is there twice) is refused, as is anything after the text.
    pub fn from_json(json: &[u8], limits: &Limits) -> Result<Self, ValueError> {
        Self::translated(json, limits, None)
    }

    /// A message in JSON: like [`from_json`](Self::from_json), but where it is an object, each field of it that is an array has
    /// `max_elements` at most ([`ValueError::TooMany`]). A larger one is read no further than that.
    pub fn message_from_json(json: &[u8], limits: &Limits, max_elements: usize) -> Result<Self, ValueError> {
        Self::translated(json, limits, Some(max_elements))
    }

    fn translated(json: &[u8], limits: &Limits, elements: Option<usize>) -> Result<Self, ValueError> {
        let bounds = Bounds { depth: limits.max_value_depth, bytes: limits.max_value_bytes, elements };
        Self::sized(json::to_msgpack(json, bounds)?.into(), limits)
    }

    /// The value as JSON, where JSON can say it exactly: `None` when it holds bin, a map key that is no string or is
    /// there twice, or a float that is not finite.
    ///
    /// A float always has a fraction or an exponent, so that [`from_json`](Self::from_json) reads a float again. A
    /// float of 32 bits is written with all the digits of the same number in 64 bits.
    pub fn to_json(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.0.len() + 16);
        self.write_json(&mut out).then_some(out)
    }

    /// Appends what [`to_json`](Self::to_json) returns. False when there is no such JSON; `out` is then as before.
    pub fn write_json(&self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let done = json::write_json(&self.0, out);
        if !done {
            out.truncate(before);
        }
        done
    }

    /// What sort of value it is.
    pub fn kind(&self) -> Kind {
        match self.0.first().copied().unwrap_or(0xc0) {
            0x00..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff => Kind::Int,
            0x80..=0x8f | 0xde | 0xdf => Kind::Map,
            0x90..=0x9f | 0xdc | 0xdd => Kind::Array,
            0xa0..=0xbf | 0xd9..=0xdb => Kind::Str,
            0xc2 | 0xc3 => Kind::Bool,
            0xca | 0xcb => Kind::Float,
            0xc4..=0xc6 => Kind::Bin,
            // Extension types and 0xc1 are in no value that was checked.
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

    /// The bytes of a str or a bin, without their MsgPack header, shared.
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
