//! [`Scanner`]: reads MsgPack token by token, without a tree and without recursion.

use crate::ValueError;

/// One token. A container token is followed by the content.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    /// A negative integer.
    Negative(i64),
    /// Zero or a positive integer.
    Unsigned(u64),
    Float32(f32),
    Float64(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    /// Header of an array with the number of values.
    Array(u32),
    /// Header of a map with the number of pairs.
    Map(u32),
}

impl Token<'_> {
    /// Number of values in the container, two per pair; `None` for scalars.
    fn children(self) -> Option<u64> {
        match self {
            Token::Array(n) => Some(u64::from(n)),
            Token::Map(n) => Some(2 * u64::from(n)),
            _ => None,
        }
    }
}

/// Reads tokens from the start of a byte slice.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of bytes read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Reads the next token; an error names the byte offset.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, ValueError> {
        let start = self.at;
        let marker = self.take(1)?[0];
        Ok(match marker {
            0x00..=0x7f => Token::Unsigned(u64::from(marker)),
            0x80..=0x8f => Token::Map(u32::from(marker & 0x0f)),
            0x90..=0x9f => Token::Array(u32::from(marker & 0x0f)),
            0xa0..=0xbf => self.str(usize::from(marker & 0x1f))?,
            0xc0 => Token::Nil,
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => self.bin(1)?,
            0xc5 => self.bin(2)?,
            0xc6 => self.bin(4)?,
            0xca => Token::Float32(f32::from_bits(self.uint(4)? as u32)),
            0xcb => Token::Float64(f64::from_bits(self.uint(8)?)),
            0xcc => Token::Unsigned(self.uint(1)?),
            0xcd => Token::Unsigned(self.uint(2)?),
            0xce => Token::Unsigned(self.uint(4)?),
            0xcf => Token::Unsigned(self.uint(8)?),
            0xd0 => signed(i64::from(self.uint(1)? as u8 as i8)),
            0xd1 => signed(i64::from(self.uint(2)? as u16 as i16)),
            0xd2 => signed(i64::from(self.uint(4)? as u32 as i32)),
            0xd3 => signed(self.uint(8)? as i64),
            0xd9 => self.sized_str(1)?,
            0xda => self.sized_str(2)?,
            0xdb => self.sized_str(4)?,
            0xdc => Token::Array(self.uint(2)? as u32),
            0xdd => Token::Array(self.uint(4)? as u32),
            0xde => Token::Map(self.uint(2)? as u32),
            0xdf => Token::Map(self.uint(4)? as u32),
            0xe0..=0xff => Token::Negative(i64::from(marker as i8)),
            0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(malformed("an extension type, which is not supported,", start));
            }
            0xc1 => return Err(malformed("the byte 0xc1, which MsgPack never uses,", start)),
        })
    }

    /// Skips exactly one value with all content; `max_depth` limits the nesting of containers.
    pub(crate) fn skip_value(&mut self, max_depth: usize) -> Result<(), ValueError> {
        // Values still missing per open container. The length is bounded by `max_depth`, not by the input.
        let mut open: Vec<u64> = Vec::new();
        loop {
            if let Some(children) = self.token()?.children() {
                if open.len() >= max_depth {
                    return Err(ValueError::TooDeep { limit: max_depth });
                }
                open.push(children);
            } else if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            // A complete container counts as one value of the parent container.
            while let Some(&0) = open.last() {
                open.pop();
                if let Some(left) = open.last_mut() {
                    *left -= 1;
                }
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Like [`skip_value`](Self::skip_value), but in a map each array field may have at most `max_elements` elements.
    pub(crate) fn skip_message(&mut self, max_depth: usize, max_elements: usize) -> Result<(), ValueError> {
        let Token::Map(fields) = self.clone().token()? else {
            return self.skip_value(max_depth);
        };
        let Some(depth) = max_depth.checked_sub(1) else {
            return Err(ValueError::TooDeep { limit: max_depth });
        };
        let told = |error| match error {
            ValueError::TooDeep { .. } => ValueError::TooDeep { limit: max_depth },
            error => error,
        };
        self.token()?;
        for _ in 0..fields {
            self.skip_value(depth).map_err(told)?;
            let mut ahead = self.clone();
            if let Token::Array(count) = ahead.token()?
                && count as usize > max_elements
                // A count larger than the remaining input is malformed; `skip_value` reports the error.
                && count as usize <= ahead.bytes.len() - ahead.at
            {
                return Err(ValueError::TooMany { limit: max_elements });
            }
            self.skip_value(depth).map_err(told)?;
        }
        Ok(())
    }

    /// Enters an array or a map and returns the number of values inside, two per map pair. `None` = neither.
    pub(crate) fn container(&mut self) -> Option<u64> {
        self.token().ok()?.children()
    }

    /// Reads the text of a str.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        match self.bytes.get(self.at)? {
            0xa0..=0xbf | 0xd9..=0xdb => match self.token() {
                Ok(Token::Str(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the bytes of the next value. The input must have passed [`skip_value`](Self::skip_value): text encoding
    /// and depth are not checked again. `None` = the input ends within the value.
    pub(crate) fn pass_checked(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let mut left = 1;
        while left > 0 {
            left = left - 1 + self.step().ok()?;
        }
        Some(&self.bytes[start..self.at])
    }

    /// Skips a marker and the attached bytes; returns the number of values inside. Kept separate from
    /// [`token`](Self::token), which also decodes the value: sharing the code costs a batch 7 % more instructions.
    fn step(&mut self) -> Result<u64, ValueError> {
        let marker = self.take(1)?[0];
        let (content, children) = match marker {
            0x80..=0x8f => (0, 2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => (0, u64::from(marker & 0x0f)),
            0xa0..=0xbf => (usize::from(marker & 0x1f), 0),
            0xc4 | 0xd9 => (self.uint(1)? as usize, 0),
            0xc5 | 0xda => (self.uint(2)? as usize, 0),
            0xc6 | 0xdb => (self.uint(4)? as usize, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xdc => (0, self.uint(2)?),
            0xdd => (0, self.uint(4)?),
            0xde => (0, 2 * self.uint(2)?),
            0xdf => (0, 2 * self.uint(4)?),
            // The marker is the whole value, or the input was not validated.
            0x00..=0x7f | 0xc0..=0xc3 | 0xc7..=0xc9 | 0xd4..=0xd8 | 0xe0..=0xff => (0, 0),
        };
        self.take(content)?;
        Ok(children)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ValueError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < len {
            return Err(ValueError::Malformed(format!("it ends at byte {} within a value", self.bytes.len())));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn uint(&mut self, width: usize) -> Result<u64, ValueError> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn bin(&mut self, width: usize) -> Result<Token<'a>, ValueError> {
        let len = self.uint(width)? as usize;
        self.take(len).map(Token::Bin)
    }

    fn sized_str(&mut self, width: usize) -> Result<Token<'a>, ValueError> {
        let len = self.uint(width)? as usize;
        self.str(len)
    }

    fn str(&mut self, len: usize) -> Result<Token<'a>, ValueError> {
        let start = self.at;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Token::Str).map_err(|_| malformed("a str that is not UTF-8", start))
    }
}

fn signed(n: i64) -> Token<'static> {
    u64::try_from(n).map_or(Token::Negative(n), Token::Unsigned)
}

fn malformed(what: &str, at: usize) -> ValueError {
    ValueError::Malformed(format!("{what} at byte {at}"))
}
