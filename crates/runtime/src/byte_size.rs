//! [`ByteSize`]: a number of bytes as people write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `512MiB`, `1g` (10⁹), `1GiB` (2³⁰), `1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// A text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a size: write a number with a unit, as 512MiB or 1g, or a number of bytes")]
pub struct NotASize;

impl ByteSize {
    /// Bytes.
    pub const fn b(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Units of 2²⁰ bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Units of 2³⁰ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// Units of 10⁹ bytes.
    pub const fn gb(count: u64) -> Self {
        Self(count * 1_000_000_000)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bytesize::ByteSize::b(self.0).fmt(f)
    }
}

impl FromStr for ByteSize {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        // Its own error tells of its parser's steps.
        text.parse::<bytesize::ByteSize>().map(|size| Self(size.0)).map_err(|_| NotASize)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size, as \"512MiB\" or a number of bytes")
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom(NotASize))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(|error| E::custom(format!("{text:?} is {error}")))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("1000", 1_000), ("512MiB", 512 << 20), ("1g", 1_000_000_000), ("1.5 KiB", 1_536), ("0", 0)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize::mib(64).to_string(), "64.0 MiB");
    }

    #[test]
    fn what_is_no_size_is_told_with_an_example() {
        for text in ["lots", "", "MiB", "12parsecs", "-1", "1,5g"] {
            let error = text.parse::<ByteSize>().expect_err(text).to_string();
            assert!(error.contains("512MiB") && !error.contains("float"), "{error}");
        }
    }
}
