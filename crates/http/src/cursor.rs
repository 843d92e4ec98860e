//! [`Cursor`]: where a listing goes on, as text that a client hands back and does not read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::fingerprint::Fnv1a;
use crate::problem::Problem;

/// The form written here; another one is refused.
const VERSION: u8 = 1;

/// Version byte and fingerprint of the range.
const HEADER_BYTES: usize = 9;

/// The first key of the next page, tied to the range that is listed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Inclusive.
    pub(crate) next: Bytes,
}

/// A hash of what bounds a listing: a cursor of another listing is refused.
pub(crate) fn range_fingerprint(prefix: Option<&[u8]>, start: Option<&[u8]>, end: Option<&[u8]>) -> u64 {
    let mut hash = Fnv1a::new();
    for bound in [prefix, start, end] {
        match bound {
            None => hash.write(&[0]),
            Some(bytes) => {
                hash.write(&[1]);
                hash.write_sized(bytes);
            }
        }
    }
    hash.0
}

impl Cursor {
    pub(crate) fn encode(&self, range: u64) -> String {
        let mut raw = Vec::with_capacity(HEADER_BYTES + self.next.len());
        raw.push(VERSION);
        raw.extend_from_slice(&range.to_le_bytes());
        raw.extend_from_slice(&self.next);
        URL_SAFE_NO_PAD.encode(raw)
    }

    pub(crate) fn decode(text: &[u8], range: u64) -> Result<Self, Problem> {
        let invalid = |why: &str| Problem::bad_request("invalid_cursor", format!("the cursor cannot be used: {why}"));
        let mut raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid("it is not one this server gave"))?;
        match raw.first() {
            Some(&VERSION) if raw.len() >= HEADER_BYTES => {}
            Some(&VERSION) | None => return Err(invalid("it is cut off")),
            Some(_) => {
                return Err(invalid("it is of another version of this software; list from the beginning"));
            }
        }
        if raw[1..HEADER_BYTES] != range.to_le_bytes() {
            return Err(invalid("it belongs to a listing with another prefix, start or end"));
        }
        Ok(Self { next: raw.split_off(HEADER_BYTES).into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_for_its_own_range_only() {
        let range = range_fingerprint(Some(b"a"), None, None);
        let cursor = Cursor { next: Bytes::from_static(b"a\xff\0b") };
        let text = cursor.encode(range);
        assert_eq!(Cursor::decode(text.as_bytes(), range).unwrap(), cursor);
        let other = range_fingerprint(None, Some(b"a"), None);
        assert_eq!(Cursor::decode(text.as_bytes(), other).unwrap_err().code, "invalid_cursor");
        for bad in ["", "!", "AQ", "AgAAAAAAAAAA"] {
            assert_eq!(Cursor::decode(bad.as_bytes(), range).unwrap_err().code, "invalid_cursor", "{bad}");
        }
    }
}
