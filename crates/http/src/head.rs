//! [`HeadScan`]: looks through the bytes of a connection for heads of requests that must be refused.
//!
//! The HTTP library answers a head that is too large by itself and without a body, and takes `Content-Length` beside
//! `Transfer-Encoding` without a word: it drops the length before the request can be seen. A proxy in front that goes by the
//! length would see other requests in the same bytes than this server (request smuggling).

use axum::http::StatusCode;

use crate::chunks::{Chunks, Progress};
use crate::limits::MAX_HEADER_LINES;
use crate::problem::Problem;

/// The longer one of the two names that are looked for, and one byte more.
const MAX_NAME: usize = "transfer-encoding".len() + 1;

/// Why a head is refused. Nothing of it reaches a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has more bytes than this.
    TooLarge(usize),
    /// It has more header lines than this.
    TooManyLines(usize),
    /// Both `Content-Length` and `Transfer-Encoding`.
    TwoLengths,
    /// A `Content-Length` that is no number, or several that differ.
    NoLength,
}

impl Refusal {
    pub(crate) fn problem(self) -> Problem {
        let too_large = |detail: String, limit: usize| Problem {
            limit: Some(limit as u64),
            ..Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", detail)
        };
        match self {
            Self::TooLarge(limit) => {
                too_large(format!("the request line and the headers have more than {limit} bytes"), limit)
            }
            Self::TooManyLines(limit) => too_large(format!("there are more than {limit} headers"), limit),
            Self::TwoLengths => Problem::bad_request(
                "ambiguous_length",
                "both Content-Length and Transfer-Encoding are given; a request has one of them",
            ),
            Self::NoLength => {
                Problem::bad_request("invalid_content_length", "the Content-Length is not one number of bytes")
            }
        }
    }
}

/// A head that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    /// How many of the bytes that were looked at are before it.
    pub(crate) after: usize,
    /// Its answer has no body: the method is HEAD.
    pub(crate) is_head: bool,
}

/// Where in the bytes of a connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a head; empty lines may come first.
    Between,
    /// In the name of a header, or the beginning of the request line.
    Name,
    /// In the value of a `Content-Length`, with what was read of it and whether that has ended.
    Length(Option<u64>, bool),
    /// In a line that is of no interest from here on.
    Line,
    /// In a body, with this many bytes to come.
    Body(u64),
    /// In a body in chunks.
    Chunks(Chunks),
    /// Behind chunks that are not well formed. The HTTP library refuses them, and reads no other request.
    Lost,
}

/// Follows requests through the bytes of a connection, however these are cut into reads.
#[derive(Debug)]
pub(crate) struct HeadScan {
    max_bytes: usize,
    at: At,
    /// Of the head under way.
    bytes: usize,
    lines: usize,
    name: [u8; MAX_NAME],
    name_len: usize,
    is_head: bool,
    length: Option<u64>,
    is_encoded: bool,
}

impl HeadScan {
    /// Refuses heads of more than `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            at: At::Between,
            bytes: 0,
            lines: 0,
            name: [0; MAX_NAME],
            name_len: 0,
            is_head: false,
            length: None,
            is_encoded: false,
        }
    }

    /// Looks at bytes that came.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = bytes;
        // Where the head under way begins, if it does in these.
        let mut begin = 0;
        while !rest.is_empty() {
            let step = match self.at {
                At::Lost => return Ok(()),
                At::Body(left) => {
                    let step = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    match left - step as u64 {
                        0 => self.begin_head(),
                        left => self.at = At::Body(left),
                    }
                    step
                }
                At::Chunks(mut chunks) => match chunks.look(rest) {
                    Progress::Within => {
                        self.at = At::Chunks(chunks);
                        return Ok(());
                    }
                    Progress::End(step) => {
                        self.begin_head();
                        step
                    }
                    Progress::Malformed => {
                        self.at = At::Lost;
                        return Ok(());
                    }
                },
                At::Between if matches!(rest[0], b'\r' | b'\n') => 1,
                At::Between => {
                    begin = bytes.len() - rest.len();
                    self.begin_line();
                    0
                }
                At::Name | At::Length(..) | At::Line => {
                    let before = self.bytes;
                    let looked = self.look_at_line(rest);
                    let is_head = self.is_head;
                    let refuse = |why| Refused { why, after: begin, is_head };
                    let step = looked.map_err(refuse)?;
                    if before + step > self.max_bytes {
                        return Err(refuse(Refusal::TooLarge(self.max_bytes)));
                    }
                    // Unless it has ended: the next one is counted from its own beginning.
                    if matches!(self.at, At::Name | At::Length(..) | At::Line) {
                        self.bytes = before + step;
                    }
                    step
                }
            };
            rest = &rest[step..];
        }
        Ok(())
    }

    fn begin_head(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    fn begin_line(&mut self) {
        self.at = At::Name;
        self.name_len = 0;
    }

    /// Continues in a line, to its end at most; returns how many bytes that were.
    fn look_at_line(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self.at {
            At::Name => self.look_at_name(bytes),
            At::Length(mut length, mut is_over) => {
                for (at, &byte) in bytes.iter().enumerate() {
                    match byte {
                        b'\n' => {
                            let length = length.ok_or(Refusal::NoLength)?;
                            if self.length.is_some_and(|before| before != length) {
                                return Err(Refusal::NoLength);
                            }
                            self.length = Some(length);
                            self.end_line()?;
                            return Ok(at + 1);
                        }
                        b' ' | b'\t' | b'\r' => is_over = length.is_some(),
                        b'0'..=b'9' if !is_over => {
                            let more = length.unwrap_or(0).checked_mul(10);
                            let more = more.and_then(|more| more.checked_add(u64::from(byte - b'0')));
                            length = Some(more.ok_or(Refusal::NoLength)?);
                        }
                        _ => return Err(Refusal::NoLength),
                    }
                }
                self.at = At::Length(length, is_over);
                Ok(bytes.len())
            }
            _ => match end_of_line(bytes) {
                Some(end) => {
                    self.end_line()?;
                    Ok(end)
                }
                None => Ok(bytes.len()),
            },
        }
    }

    fn look_at_name(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.name_len == 0 => {
                    self.end_head();
                    return Ok(at + 1);
                }
                b'\n' => {
                    self.end_line()?;
                    return Ok(at + 1);
                }
                b'\r' if self.name_len == 0 => {}
                b':' => {
                    self.at = At::Line;
                    match &self.name[..self.name_len] {
                        b"content-length" => self.at = At::Length(None, false),
                        b"transfer-encoding" => self.is_encoded = true,
                        _ => {}
                    }
                    if self.is_encoded && (self.length.is_some() || self.at != At::Line) {
                        return Err(Refusal::TwoLengths);
                    }
                    return Ok(at + 1);
                }
                byte => {
                    // Most lines are told by their first byte: two names are looked for, and the method.
                    let first = byte.to_ascii_lowercase();
                    let may_be =
                        self.name_len > 0 || matches!(first, b'c' | b't') || (self.lines == 0 && first == b'h');
                    if !may_be || self.name_len == MAX_NAME {
                        self.at = At::Line;
                        return Ok(at);
                    }
                    self.name[self.name_len] = first;
                    self.name_len += 1;
                    self.is_head |= self.lines == 0 && self.name[..self.name_len] == *b"head ";
                }
            }
        }
        Ok(bytes.len())
    }

    fn end_line(&mut self) -> Result<(), Refusal> {
        // The request line is none of the headers.
        if self.lines > MAX_HEADER_LINES {
            return Err(Refusal::TooManyLines(MAX_HEADER_LINES));
        }
        self.lines += 1;
        self.begin_line();
        Ok(())
    }

    fn end_head(&mut self) {
        match (self.is_encoded, self.length) {
            // The HTTP library takes no other encoding of a whole body.
            (true, _) => self.at = At::Chunks(Chunks::new()),
            (false, None | Some(0)) => self.begin_head(),
            (false, Some(length)) => self.at = At::Body(length),
        }
    }
}

/// How many bytes there are to the end of the line.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    // The C library's search, which looks at many bytes at once.
    let skipped = std::io::BufRead::skip_until(&mut &*bytes, b'\n').unwrap_or_default();
    (skipped > 0 && bytes[skipped - 1] == b'\n').then_some(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    /// What comes of these bytes in reads of `size`, with the offset in all of them.
    fn look(bytes: &[u8], size: usize) -> Option<(Refusal, usize)> {
        let mut scan = HeadScan::new(MAX);
        let mut begin = 0;
        for part in bytes.chunks(size) {
            if let Err(refused) = scan.look(part) {
                return Some((refused.why, begin + refused.after));
            }
            begin += part.len();
        }
        None
    }

    #[test]
    fn what_is_plain_passes_however_it_is_cut() {
        let put = "PUT /v1/kv/k HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nCache-Control: x\r\nTE: x\r\n\r\n\r\nabc";
        let chunked = "POST /v1/batch HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let twice = "PUT /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length:1 \r\n\r\nx";
        let get = "\r\n\r\nGET /content-length:/transfer-encoding: HTTP/1.1\nx: content-length: 1\n\n";
        for whole in [put.to_owned(), twice.to_owned(), get.to_owned(), [put, get, twice, put, chunked].concat()] {
            for size in 1..=whole.len() {
                assert_eq!(look(whole.as_bytes(), size), None, "{size} bytes at once of {whole:?}");
            }
        }
    }

    #[test]
    fn two_lengths_are_found_wherever_they_stand() {
        let first = "PUT /a HTTP/1.1\r\ncontent-length: 43\r\n\r\ncontent-length: 1\r\ntransfer-encoding: chunk";
        let head = "PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\n";
        for (lengths, why) in [
            ("content-length: 5\r\ntransfer-encoding: chunked", Refusal::TwoLengths),
            ("Transfer-Encoding: chunked\r\nx: y\r\nCONTENT-LENGTH: 5", Refusal::TwoLengths),
            ("tRANSFER-eNCODING:chunked\ncontent-length:0", Refusal::TwoLengths),
            ("content-length: 5\r\ncontent-length: 6", Refusal::NoLength),
            ("content-length: 5, 5", Refusal::NoLength),
            ("content-length: +5", Refusal::NoLength),
            ("content-length: 5 5", Refusal::NoLength),
            ("content-length:", Refusal::NoLength),
            ("content-length: 18446744073709551616", Refusal::NoLength),
        ] {
            for before in ["", "\r\n", first] {
                let whole = format!("{before}{head}{lengths}\r\n\r\n");
                let begin = if before == first { first.len() } else { before.len() };
                // A head that came in several reads begins before those that show what is wrong with it.
                assert_eq!(look(whole.as_bytes(), whole.len()), Some((why, begin)), "{whole:?}");
                for size in 1..whole.len() {
                    let seen = look(whole.as_bytes(), size);
                    assert_eq!(seen.map(|(why, _)| why), Some(why), "{size} bytes at once of {whole:?}");
                }
            }
        }
    }

    #[test]
    fn a_head_has_a_limit_of_bytes_and_of_lines() {
        let of = |bytes: usize| {
            let head = "GET /k HTTP/1.1\r\nx: \r\n\r\n";
            head.replace("x: ", &format!("x: {}", "y".repeat(bytes - head.len())))
        };
        assert_eq!(look(of(MAX).as_bytes(), 100), None);
        let many = |lines: usize| format!("GET /k HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(lines));
        assert_eq!(look(many(MAX_HEADER_LINES).as_bytes(), 100), None);
        for size in [1, 100, 100_000] {
            assert_eq!(look(of(MAX + 1).as_bytes(), size).unwrap().0, Refusal::TooLarge(MAX));
            assert_eq!(look(&[b'x'; MAX + 1], size).unwrap().0, Refusal::TooLarge(MAX));
            assert_eq!(
                look(many(MAX_HEADER_LINES + 1).as_bytes(), size).unwrap().0,
                Refusal::TooManyLines(MAX_HEADER_LINES)
            );
        }
        let mut scan = HeadScan::new(MAX);
        let long = [b"HEAD /".as_slice(), &[b'x'; MAX]].concat();
        assert!(scan.look(&long).unwrap_err().is_head);
    }

    #[test]
    fn a_head_behind_chunks_is_looked_at_however_it_is_cut() {
        let chunked = "PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let bad = "PUT /b HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n";
        // A line of it by itself would be refused.
        let good = "PUT /c HTTP/1.1\r\nx: content-length: 5, 6\r\ncontent-length: 2\r\n\r\nab";
        let bodies = [
            "0\r\n\r\n".to_owned(),
            "3\r\nabc\r\n0\r\n\r\n".to_owned(),
            "3;name=\"value\"\r\nabc\r\n00 ;x\r\ncontent-length: x\r\nExpires: never\r\n\r\n".to_owned(),
            // A body that looks like a bad head.
            format!("{:X}\r\n{bad}\r\n1\t \r\n\n\r\n0\r\n\r\n", bad.len()),
        ];
        for body in bodies {
            let before = format!("{chunked}{body}");
            let passes = format!("{before}{good}{before}\r\n{good}");
            let fails = format!("{before}{good}{before}{bad}");
            assert_eq!(look(fails.as_bytes(), fails.len()), Some((Refusal::TwoLengths, fails.len() - bad.len())));
            for size in 1..=passes.len() {
                assert_eq!(look(passes.as_bytes(), size), None, "{size} bytes at once of {passes:?}");
                let why = look(fails.as_bytes(), size).map(|(why, _)| why);
                assert_eq!(why, Some(Refusal::TwoLengths), "{size} bytes at once of {fails:?}");
            }
            // Every place for one cut, and for the second of two.
            for cut in 1..passes.len() {
                let mut scan = HeadScan::new(MAX);
                let (first, rest) = passes.as_bytes().split_at(cut);
                let (second, third) = rest.split_at(rest.len() / 2);
                for part in [first, second, third] {
                    assert_eq!(scan.look(part), Ok(()), "cut at {cut} of {passes:?}");
                }
            }
        }
    }

    #[test]
    fn behind_chunks_that_are_not_well_formed_nothing_is_refused() {
        let bad = "PUT /b HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n";
        for body in
            ["\r\n", "x\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "10000000000000000\r\n", "0\r\n\rx"]
        {
            let whole = format!("PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{body}{bad}");
            for size in 1..=whole.len() {
                assert_eq!(look(whole.as_bytes(), size), None, "{size} bytes at once of {whole:?}");
            }
        }
    }
}
