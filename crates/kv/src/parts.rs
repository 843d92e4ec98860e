//! [`Parts`]: iterates over the elements of an array or a map.

use crate::msgpack::Scanner;
use crate::value::Value;

/// The elements of an array or a map, in order; in a map each key precedes the value.
///
/// A [`Value`] is validated at construction, so the iterator skips over elements without validating again.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    whole: &'a Value,
    scanner: Scanner<'a>,
    left: u64,
}

/// An element of [`Parts`].
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    whole: &'a Value,
    bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if the value is neither an array nor a map.
    pub(crate) fn of(whole: &'a Value) -> Option<Self> {
        let mut scanner = Scanner::new(whole.as_msgpack());
        let left = scanner.container()?;
        Some(Self { whole, scanner, left })
    }

    /// Number of elements left.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(Part { whole: self.whole, bytes: self.scanner.pass_checked()? })
    }
}

impl<'a> Part<'a> {
    /// The text of a str.
    pub fn as_str(self) -> Option<&'a str> {
        Scanner::new(self.bytes).text()
    }

    /// Converts the part to a separate value sharing the bytes of the whole.
    pub fn to_value(self) -> Value {
        self.whole.part(self.bytes)
    }
}
