//! [`Parts`]: what an array or a map holds, value after value.

use crate::msgpack::Scanner;
use crate::value::Value;

/// The values in an array or a map, in order; of a map, each name before its value.
///
/// A [`Value`] was checked when it was made, so its parts are passed over without being checked again.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    whole: &'a Value,
    scanner: Scanner<'a>,
    left: u64,
}

/// One of the [`Parts`].
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    whole: &'a Value,
    bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Of a value; `None` when nothing can be in it.
    pub(crate) fn of(whole: &'a Value) -> Option<Self> {
        let mut scanner = Scanner::new(whole.as_msgpack());
        let left = scanner.container()?;
        Some(Self { whole, scanner, left })
    }

    /// How many are left.
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

    /// As a value of its own, which shares the bytes of the whole.
    pub fn to_value(self) -> Value {
        self.whole.part(self.bytes)
    }
}
