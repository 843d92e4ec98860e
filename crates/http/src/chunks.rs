//! [`Chunks`]: follows a body in chunks (RFC 9112, section 7.1) to its end, however it is cut into reads.
//!
//! It takes what the HTTP library takes, byte for byte: only so do both see the next head at the same place. The library bounds what
//! extensions and trailers may have; nothing of them is kept here.

/// Where in the chunks the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    Start,
    /// In the digits.
    Size,
    /// Behind them, where spaces are skipped.
    SizeSpace,
    Extension,
    /// Before the line feed of the size's line.
    SizeLf,
    /// In the data, of which `size` bytes are to come.
    Data,
    DataCr,
    DataLf,
    /// Before a trailer, or the empty line that ends the body.
    Line,
    Trailer,
    TrailerLf,
    /// Before the last byte.
    EndLf,
}

/// A place in a body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
    size: u64,
}

/// What bytes have led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of them belong to the body, and it has not ended.
    Within,
    /// The body has ended with this many of them.
    End(usize),
    /// These are no chunks.
    Malformed,
}

impl Chunks {
    /// At the beginning of the body.
    pub(crate) fn new() -> Self {
        Self { at: At::Start, size: 0 }
    }

    /// Looks at the bytes that follow.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Progress {
        let mut looked = 0;
        while looked < bytes.len() {
            if self.at == At::Data {
                let step = (bytes.len() - looked).min(usize::try_from(self.size).unwrap_or(usize::MAX));
                self.size -= step as u64;
                looked += step;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let byte = bytes[looked];
            looked += 1;
            if (self.at, byte) == (At::EndLf, b'\n') {
                return Progress::End(looked);
            }
            match self.after(byte) {
                Some(at) => self.at = at,
                None => return Progress::Malformed,
            }
        }
        Progress::Within
    }

    /// Where the byte leads to; `None` where it may not be.
    fn after(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size.checked_mul(16)?.checked_add(u64::from(digit))?;
                At::Size
            }
            (At::Size | At::SizeSpace, b' ' | b'\t') => At::SizeSpace,
            (At::Size | At::SizeSpace, b';') => At::Extension,
            (At::Size | At::SizeSpace | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, byte) if byte != b'\n' => At::Extension,
            (At::SizeLf, b'\n') if self.size == 0 => At::Line,
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Start,
            (At::Line, b'\r') => At::EndLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Line | At::Trailer, _) => At::Trailer,
            (At::TrailerLf, b'\n') => At::Line,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes in reads of `size`, with the offset of the end in all of them.
    fn look(bytes: &[u8], size: usize) -> Progress {
        let mut chunks = Chunks::new();
        let mut begin = 0;
        for part in bytes.chunks(size) {
            match chunks.look(part) {
                Progress::Within => begin += part.len(),
                Progress::End(at) => return Progress::End(begin + at),
                Progress::Malformed => return Progress::Malformed,
            }
        }
        Progress::Within
    }

    #[test]
    fn the_end_is_found_however_the_body_is_cut() {
        for (body, ends) in [
            ("0\r\n\r\n", true),
            ("000\r\n\r\n", true),
            ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", true),
            ("a;name=value;x\r\n0123456789\r\nB \t;y\r\n0123456789a\r\n0\r\n\r\n", true),
            ("1\r\nx\r\n0;last\r\na: b\r\nc\nd: e\r\n\r\n", true),
            ("0\r\na: b\r\n", false),
            ("5\r\n0\r\n\r\n\r\n", false),
            ("ffffffffffffffff\r\nx", false),
        ] {
            let whole = format!("{body}{}", if ends { "0\r\n\r\nGET" } else { "" });
            let expected = if ends { Progress::End(body.len()) } else { Progress::Within };
            for size in 1..=whole.len() {
                assert_eq!(look(whole.as_bytes(), size), expected, "{size} bytes at once of {whole:?}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_told() {
        for body in [
            "g",
            " 1",
            "\r\n",
            ";",
            "-1",
            "1g",
            "1 1",
            "1\n",
            "1;\n",
            "1\rx",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rx",
            "0\r\n\rx",
            "0\r\na: b\rx",
            "10000000000000000",
        ] {
            for size in 1..=body.len() {
                assert_eq!(look(body.as_bytes(), size), Progress::Malformed, "{size} bytes at once of {body:?}");
            }
        }
    }
}
