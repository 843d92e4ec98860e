//! [`write_json`]: converts MsgPack to JSON.

use std::io::Write;

use super::first_duplicate;
use crate::msgpack::{Scanner, Token};

/// A container being written.
struct Writing<'a> {
    is_map: bool,
    /// Values still missing, map keys included.
    left: u64,
    first: bool,
    keys: Vec<&'a [u8]>,
}

/// Appends the value as JSON. Returns `false`, with `out` incomplete, when JSON cannot represent the value exactly.
pub(crate) fn write_json(msgpack: &[u8], out: &mut Vec<u8>) -> bool {
    let mut scanner = Scanner::new(msgpack);
    let mut open: Vec<Writing<'_>> = Vec::new();
    loop {
        let Ok(token) = scanner.token() else {
            return false;
        };
        let mut is_key = false;
        if let Some(around) = open.last_mut() {
            is_key = around.is_map && around.left.is_multiple_of(2);
            if around.is_map && !is_key {
                out.push(b':');
            } else if !std::mem::take(&mut around.first) {
                out.push(b',');
            }
            around.left -= 1;
            if is_key {
                let Token::Str(key) = token else {
                    return false;
                };
                around.keys.push(key.as_bytes());
            }
        }
        // Writing to memory cannot fail.
        let _ = match token {
            Token::Nil => out.write_all(b"null"),
            Token::Bool(true) => out.write_all(b"true"),
            Token::Bool(false) => out.write_all(b"false"),
            Token::Negative(n) => write!(out, "{n}"),
            Token::Unsigned(n) => write!(out, "{n}"),
            // Debug formatting always writes a fraction or an exponent, so parsers read a float again.
            Token::Float32(n) if n.is_finite() => write!(out, "{:?}", f64::from(n)),
            Token::Float64(n) if n.is_finite() => write!(out, "{n:?}"),
            Token::Float32(_) | Token::Float64(_) | Token::Bin(_) => return false,
            Token::Str(text) => {
                write_string(text, out);
                Ok(())
            }
            Token::Array(n) => {
                open.push(Writing { is_map: false, left: u64::from(n), first: true, keys: Vec::new() });
                out.write_all(b"[")
            }
            Token::Map(n) => {
                open.push(Writing { is_map: true, left: 2 * u64::from(n), first: true, keys: Vec::new() });
                out.write_all(b"{")
            }
        };
        debug_assert!(!is_key || matches!(token, Token::Str(_)));
        while let Some(done) = open.pop_if(|container| container.left == 0) {
            if done.is_map && first_duplicate(done.keys.iter().copied()).is_some() {
                return false;
            }
            out.push(if done.is_map { b'}' } else { b']' });
        }
        if open.is_empty() {
            return scanner.position() == msgpack.len();
        }
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = at + 1;
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.extend_from_slice(escape);
        }
    }
    out.extend_from_slice(&text.as_bytes()[copied..]);
    out.push(b'"');
}
