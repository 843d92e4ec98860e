//! [`to_msgpack`]: converts JSON to MsgPack.

use std::ops::Range;

use super::first_duplicate;
use crate::ValueError;

/// Bounds of a conversion. The parser stops at the first byte beyond a bound, so memory use depends on the bounds and
/// not on the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Maximum nesting of containers.
    pub(crate) depth: usize,
    /// Maximum size of the result in bytes.
    pub(crate) bytes: usize,
    /// Maximum elements of an array in a field of the outermost object; `None`: limited by the other bounds only.
    pub(crate) elements: Option<usize>,
}

/// Nesting depth at which [`Bounds::elements`] applies: the fields of the outermost object.
const FIELDS: usize = 2;

/// Converts exactly one JSON text to MsgPack.
pub(crate) fn to_msgpack(json: &[u8], bounds: Bounds) -> Result<Vec<u8>, ValueError> {
    let text = std::str::from_utf8(json)
        .map_err(|e| ValueError::MalformedJson(format!("not UTF-8 at byte {}", e.valid_up_to())))?;
    let mut parser = Parser {
        text,
        at: 0,
        body: Vec::with_capacity(json.len().min(bounds.bytes)),
        headers: Vec::new(),
        open: Vec::new(),
        keys: Vec::new(),
        bounds,
    };
    parser.document()?;
    Ok(parser.assemble())
}

/// A container header, written once the size is known.
struct Header {
    /// Offset of the content in the body.
    at: usize,
    is_map: bool,
    count: u32,
}

impl Header {
    /// Size of the header in MsgPack, in bytes.
    fn size(&self) -> usize {
        match self.count {
            0..=15 => 1,
            16..=0xffff => 3,
            _ => 5,
        }
    }
}

/// A container still open.
struct Open {
    header: usize,
    is_map: bool,
    /// Index of the first key of the container in `Parser::keys`.
    first_key: usize,
}

/// The tokens allowed next.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Value,
    /// A value, or the end of an array just opened.
    ValueOrEnd,
    /// A key, or the end of an object just opened.
    KeyOrEnd,
    Key,
    /// A comma, the end of the container, or the end of the text.
    CommaOrEnd,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// The output without container headers. MsgPack needs the size first, but JSON gives it last.
    body: Vec<u8>,
    headers: Vec<Header>,
    open: Vec<Open>,
    /// Positions in the body of the keys of all open objects.
    keys: Vec<Range<usize>>,
    bounds: Bounds,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<(), ValueError> {
        let mut expect = Expect::Value;
        loop {
            self.skip_space();
            if expect == Expect::CommaOrEnd && self.open.is_empty() {
                return match self.text.len() - self.at {
                    0 => Ok(()),
                    extra => Err(ValueError::TrailingBytes { extra }),
                };
            }
            let Some(byte) = self.peek() else {
                return Err(self.error("it ends within a value"));
            };
            let in_map = self.open.last().is_some_and(|o| o.is_map);
            expect = match (expect, byte) {
                (Expect::CommaOrEnd, b',') => {
                    self.at += 1;
                    if in_map { Expect::Key } else { Expect::Value }
                }
                (Expect::CommaOrEnd | Expect::KeyOrEnd, b'}') if in_map => self.close()?,
                (Expect::CommaOrEnd | Expect::ValueOrEnd, b']') if !in_map => self.close()?,
                (Expect::CommaOrEnd, _) => {
                    return Err(self.error("expected a comma or the end of the container"));
                }
                (Expect::Key | Expect::KeyOrEnd, b'"') => {
                    self.key()?;
                    Expect::Value
                }
                (Expect::Key | Expect::KeyOrEnd, _) => {
                    return Err(self.error("expected a string as key"));
                }
                (Expect::Value | Expect::ValueOrEnd, _) => self.value(byte)?,
            };
            self.check_size()?;
        }
    }

    /// Checks the size limit. The result has at least one byte per header in addition to the body.
    fn check_size(&self) -> Result<(), ValueError> {
        let (len, limit) = (self.body.len() + self.headers.len(), self.bounds.bytes);
        if len > limit { Err(ValueError::TooLarge { len, limit }) } else { Ok(()) }
    }

    /// Reads one scalar, or opens a container.
    fn value(&mut self, byte: u8) -> Result<Expect, ValueError> {
        // For an object, `key` does the counting.
        if let Some(open) = self.open.last()
            && !open.is_map
        {
            let count = &mut self.headers[open.header].count;
            *count += 1;
            if let Some(limit) = self.bounds.elements
                && self.open.len() == FIELDS
                && self.open[0].is_map
                && *count as usize > limit
            {
                return Err(ValueError::TooMany { limit });
            }
        }
        match byte {
            b'{' | b'[' => {
                if self.open.len() >= self.bounds.depth {
                    return Err(ValueError::TooDeep { limit: self.bounds.depth });
                }
                self.at += 1;
                let is_map = byte == b'{';
                self.open.push(Open { header: self.headers.len(), is_map, first_key: self.keys.len() });
                self.headers.push(Header { at: self.body.len(), is_map, count: 0 });
                return Ok(if is_map { Expect::KeyOrEnd } else { Expect::ValueOrEnd });
            }
            b'"' => {
                self.string()?;
            }
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.word("true", 0xc3)?,
            b'f' => self.word("false", 0xc2)?,
            b'n' => self.word("null", 0xc0)?,
            _ => return Err(self.error("expected a value")),
        }
        Ok(Expect::CommaOrEnd)
    }

    fn key(&mut self) -> Result<(), ValueError> {
        let key = self.string()?;
        self.keys.push(key);
        if let Some(open) = self.open.last() {
            self.headers[open.header].count += 1;
        }
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.error("expected a colon"));
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<Expect, ValueError> {
        if let Some(open) = self.open.pop() {
            if open.is_map {
                let keys = self.keys[open.first_key..].iter().map(|range| &self.body[range.clone()]);
                if let Some(key) = first_duplicate(keys) {
                    let key = String::from_utf8_lossy(key).chars().take(64).collect::<String>();
                    return Err(self.error(&format!("the key {key:?} is there twice in the object that ends")));
                }
            }
            self.keys.truncate(open.first_key);
        }
        self.at += 1;
        Ok(Expect::CommaOrEnd)
    }

    fn word(&mut self, word: &str, marker: u8) -> Result<(), ValueError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        self.body.push(marker);
        Ok(())
    }

    fn number(&mut self) -> Result<(), ValueError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut at = start + usize::from(bytes[start] == b'-');
        let whole = at;
        at = digits(at);
        if at == whole || (bytes[whole] == b'0' && at > whole + 1) {
            return Err(self.error("malformed number"));
        }
        let mut is_integer = true;
        if bytes.get(at) == Some(&b'.') {
            is_integer = false;
            let fraction = at + 1;
            at = digits(fraction);
            if at == fraction {
                return Err(self.error("malformed number"));
            }
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            is_integer = false;
            let sign = at + 1;
            let exponent = sign + usize::from(matches!(bytes.get(sign), Some(b'+' | b'-')));
            at = digits(exponent);
            if at == exponent {
                return Err(self.error("malformed number"));
            }
        }
        let literal = &self.text[start..at];
        // Writing to memory cannot fail.
        if is_integer && literal != "-0" {
            if let Ok(n) = literal.parse::<u64>() {
                let _ = rmp::encode::write_uint(&mut self.body, n);
            } else if let Ok(n) = literal.parse::<i64>() {
                let _ = rmp::encode::write_sint(&mut self.body, n);
            } else {
                return Err(self.error("an integer that does not fit 64 bits"));
            }
        } else {
            match literal.parse::<f64>() {
                Ok(n) if n.is_finite() => {
                    let _ = rmp::encode::write_f64(&mut self.body, n);
                }
                _ => return Err(self.error("a number that does not fit a 64-bit float")),
            }
        }
        self.at = at;
        Ok(())
    }

    /// Reads a string into the body and returns the range of the bytes there.
    fn string(&mut self) -> Result<Range<usize>, ValueError> {
        self.at += 1;
        let rest = &self.text.as_bytes()[self.at..];
        let plain = rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20);
        let Some(plain) = plain else {
            return Err(self.error("a string that does not end"));
        };
        if rest[plain] == b'"' {
            // The common case: no escapes, so the length is known.
            let _ = rmp::encode::write_str(&mut self.body, &self.text[self.at..self.at + plain]);
            self.at += plain + 1;
            return Ok(self.body.len() - plain..self.body.len());
        }
        let text = self.unescape()?;
        let _ = rmp::encode::write_str(&mut self.body, &text);
        Ok(self.body.len() - text.len()..self.body.len())
    }

    fn unescape(&mut self) -> Result<String, ValueError> {
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20) else {
                return Err(self.error("a string that does not end"));
            };
            out.push_str(&rest[..plain]);
            self.at += plain;
            match rest.as_bytes()[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.error("a control character in a string")),
            }
        }
    }

    /// Reads an escape sequence after the backslash.
    fn escape(&mut self) -> Result<char, ValueError> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&unit) {
                    if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                        return Err(self.error("half of a surrogate pair"));
                    }
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.error("half of a surrogate pair"));
                    }
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                match char::from_u32(code) {
                    Some(c) => c,
                    None => return Err(self.error("half of a surrogate pair")),
                }
            }
            _ => return Err(self.error("an unknown escape")),
        })
    }

    fn hex4(&mut self) -> Result<u32, ValueError> {
        let unit = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .and_then(|hex| hex.iter().try_fold(0, |n, &b| Some(n << 4 | char::from(b).to_digit(16)?)));
        let Some(unit) = unit else {
            return Err(self.error("\\u without four hexadecimal digits"));
        };
        self.at += 4;
        Ok(unit)
    }

    /// Inserts the headers into the body.
    fn assemble(self) -> Vec<u8> {
        if self.headers.is_empty() {
            return self.body;
        }
        // Exact capacity: spare capacity would stay allocated for the lifetime of the value.
        let headers: usize = self.headers.iter().map(Header::size).sum();
        let mut out = Vec::with_capacity(self.body.len() + headers);
        let mut copied = 0;
        for header in &self.headers {
            out.extend_from_slice(&self.body[copied..header.at]);
            copied = header.at;
            let _ = if header.is_map {
                rmp::encode::write_map_len(&mut out, header.count)
            } else {
                rmp::encode::write_array_len(&mut out, header.count)
            };
        }
        out.extend_from_slice(&self.body[copied..]);
        out
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, what: &str) -> ValueError {
        ValueError::MalformedJson(format!("{what} at byte {}", self.at.min(self.text.len())))
    }
}
