//! Media types: which value a body is, and which body a value becomes.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use raftkv_kv::{Kind, Limits, Value};

use crate::problem::Problem;
use crate::reply::{JSON, MSGPACK, OCTETS, TEXT, reply};

/// A form in which a value is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    MsgPack,
    Octets,
}

impl Format {
    fn content_type(self) -> HeaderValue {
        match self {
            Self::Text => TEXT,
            Self::Json => JSON,
            Self::MsgPack => MSGPACK,
            Self::Octets => OCTETS,
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["text/plain"],
            Self::Json => &["application/json"],
            Self::MsgPack => &["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"],
            Self::Octets => &["application/octet-stream"],
        }
    }

    /// How exactly a media range names this form; `None` = not at all.
    fn specificity(self, range: &str) -> Option<u8> {
        if range == "*/*" {
            return Some(0);
        }
        self.names()
            .iter()
            .filter_map(|name| {
                if name.eq_ignore_ascii_case(range) {
                    return Some(2);
                }
                let group = range.strip_suffix("/*")?;
                let (main, _) = name.split_once('/')?;
                main.eq_ignore_ascii_case(group).then_some(1)
            })
            .max()
    }
}

/// The media type of a body, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Problem::unsupported_media_type("a body with Content-Encoding is not taken; send it plain"));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| Problem::unsupported_media_type("the Content-Type is not text"))?;
    let essence = text.split(';').next().unwrap_or_default().trim();
    Ok((!essence.is_empty()).then(|| essence.to_ascii_lowercase()))
}

/// Whether a media type is one of MsgPack's names.
pub(crate) fn is_msgpack(media_type: &str) -> bool {
    Format::MsgPack.names().contains(&media_type)
}

/// Refuses a body that says it is something else than JSON. No type, and the one that `curl -d` sends, pass.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers)?.as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => Ok(()),
        Some(other) if other.ends_with("+json") => Ok(()),
        Some(other) => {
            Err(Problem::unsupported_media_type(format!("{other} is not taken here; send application/json")))
        }
    }
}

/// The value that a body is, by its Content-Type.
///
/// `text/*` is a str, `application/json` the matching MsgPack value, MsgPack's own types that value itself, anything
/// else bin. No type at all, and `application/x-www-form-urlencoded`, which `curl -d` sends unasked, mean a str where
/// the body is UTF-8 and bin where not.
pub(crate) fn value_of_body(headers: &HeaderMap, body: Bytes, limits: &Limits) -> Result<Value, Problem> {
    let media_type = media_type(headers)?;
    Ok(match media_type.as_deref() {
        None | Some("application/x-www-form-urlencoded") => text_or_binary(&body, limits)?,
        Some("application/json") => Value::from_json(&body, limits)?,
        Some(name) if is_msgpack(name) => Value::from_msgpack(body, limits)?,
        Some(name) if name.starts_with("text/") => {
            require_utf8_charset(headers)?;
            let text = std::str::from_utf8(&body)
                .map_err(|e| Problem::bad_request("invalid_utf8", format!("the text is not UTF-8: {e}")))?;
            Value::text(text, limits)?
        }
        Some(_) => Value::binary(&body, limits)?,
    })
}

/// A str where the bytes are UTF-8, bin where not.
pub(crate) fn text_or_binary(body: &[u8], limits: &Limits) -> Result<Value, Problem> {
    Ok(match std::str::from_utf8(body) {
        Ok(text) => Value::text(text, limits)?,
        Err(_) => Value::binary(body, limits)?,
    })
}

fn require_utf8_charset(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    for parameter in content_type.split(';').skip(1) {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        let known = ["utf-8", "utf8", "us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known));
        if name.trim().eq_ignore_ascii_case("charset") && !known {
            return Err(Problem::unsupported_media_type(format!(
                "text in the charset {value} is not taken; send UTF-8"
            )));
        }
    }
    Ok(())
}

/// What a client accepts.
#[derive(Debug)]
pub(crate) enum Accept {
    Anything,
    /// Media ranges in lower case with their quality in thousandths.
    Ranges(Vec<(String, u16)>),
}

impl Accept {
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut ranges = Vec::new();
        for line in headers.get_all(header::ACCEPT) {
            let Ok(line) = line.to_str() else {
                continue;
            };
            if line == "*/*" {
                return Self::Anything;
            }
            ranges.extend(line.split(',').filter_map(media_range));
        }
        if ranges.is_empty() { Self::Anything } else { Self::Ranges(ranges) }
    }

    /// The best of what is offered; the first where the client does not care.
    pub(crate) fn choose(&self, offers: &[Format]) -> Option<Format> {
        let Self::Ranges(ranges) = self else {
            return offers.first().copied();
        };
        let mut best: Option<(u16, Format)> = None;
        for &offer in offers {
            let quality = ranges
                .iter()
                .filter_map(|(range, quality)| Some((offer.specificity(range)?, *quality)))
                .max()
                .map_or(0, |(_, quality)| quality);
            if quality > best.map_or(0, |(q, _)| q) {
                best = Some((quality, offer));
            }
        }
        best.map(|(_, format)| format)
    }
}

fn media_range(part: &str) -> Option<(String, u16)> {
    let mut pieces = part.split(';');
    let range = pieces.next()?.trim();
    if !range.contains('/') {
        return None;
    }
    let quality = pieces
        .filter_map(|p| p.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .map_or(1.0, |(_, q)| q.trim().parse::<f32>().unwrap_or(0.0));
    Some((range.to_ascii_lowercase(), (quality.clamp(0.0, 1.0) * 1000.0) as u16))
}

/// A value in the form that the client wants most of those that lose nothing.
pub(crate) fn value_response(value: Value, accept: &Accept) -> Result<Response, Problem> {
    let mut offers: &[Format] = match value.kind() {
        Kind::Str => &[Format::Text, Format::Json, Format::MsgPack, Format::Octets],
        Kind::Bin => &[Format::Octets, Format::MsgPack],
        _ => &[Format::Json, Format::MsgPack],
    };
    loop {
        let format = accept.choose(offers);
        let body: Option<Bytes> = match format {
            None => {
                let names: Vec<_> = offers.iter().map(|offer| offer.names()[0]).collect();
                return Err(Problem::not_acceptable(format!("this value is given as {}", names.join(" or "))));
            }
            Some(Format::Text | Format::Octets) => value.content(),
            Some(Format::Json) => value.to_json().map(Bytes::from),
            Some(Format::MsgPack) => Some(value.clone().into_msgpack()),
        };
        if let (Some(format), Some(body)) = (format, body) {
            return Ok(reply(StatusCode::OK, format.content_type(), body));
        }
        // JSON cannot say this value exactly.
        offers = &[Format::MsgPack];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    fn put(content_type: &'static str, body: &'static [u8]) -> Result<Value, Problem> {
        let headers = match content_type {
            "" => HeaderMap::new(),
            text => headers(header::CONTENT_TYPE, text),
        };
        value_of_body(&headers, Bytes::from_static(body), &Limits::default())
    }

    #[test]
    fn the_content_type_decides_what_a_body_is() {
        for (content_type, body, msgpack) in [
            ("text/plain", &b"hi"[..], &b"\xa2hi"[..]),
            ("Text/HTML; charset=UTF-8", b"hi", b"\xa2hi"),
            ("", b"hi", b"\xa2hi"),
            ("", b"\xff", b"\xc4\x01\xff"),
            ("", b"", b"\xa0"),
            ("application/x-www-form-urlencoded", b"hi", b"\xa2hi"),
            ("application/octet-stream", b"hi", b"\xc4\x02hi"),
            ("image/png", b"hi", b"\xc4\x02hi"),
            ("application/json; charset=utf-8", b"[1]", b"\x91\x01"),
            ("application/msgpack", b"\x91\x01", b"\x91\x01"),
            ("application/x-msgpack", b"\x01", b"\x01"),
            ("application/vnd.msgpack", b"\x01", b"\x01"),
        ] {
            assert_eq!(put(content_type, body).unwrap().as_msgpack(), msgpack, "{content_type}");
        }
        for (content_type, body, code) in [
            ("text/plain", &b"\xff"[..], "invalid_utf8"),
            ("text/plain; charset=latin1", b"hi", "unsupported_media_type"),
            ("application/json", b"{", "malformed_json"),
            ("application/json", b"", "malformed_json"),
            ("application/msgpack", b"\xc1", "malformed_msgpack"),
            ("application/msgpack", b"\x01\x01", "trailing_bytes"),
        ] {
            assert_eq!(put(content_type, body).unwrap_err().code, code, "{content_type}");
        }
        let encoded = headers(header::CONTENT_ENCODING, "gzip");
        assert_eq!(media_type(&encoded).unwrap_err().status, 415);
    }

    #[test]
    fn accept_decides_what_a_value_becomes() {
        let text = b"\xa2hi";
        let list = b"\x91\x01";
        let bin = b"\xc4\x02hi";
        let no_json = b"\x91\xc4\x01\xff";
        for (value, accept, content_type) in [
            (&text[..], "", "text/plain; charset=utf-8"),
            (text, "*/*", "text/plain; charset=utf-8"),
            (text, "application/json", "application/json"),
            (text, "application/*", "application/json"),
            (text, "text/html, application/xhtml+xml, */*;q=0.8", "text/plain; charset=utf-8"),
            (text, "text/plain;q=0.5, application/x-msgpack", "application/msgpack"),
            (text, "text/plain;q=0, */*", "application/json"),
            (bin, "", "application/octet-stream"),
            (bin, "application/msgpack", "application/msgpack"),
            (list, "", "application/json"),
            (list, "application/json;q=0.1, application/msgpack;q=0.9", "application/msgpack"),
            (no_json, "", "application/msgpack"),
            (no_json, "application/json, application/msgpack;q=0.1", "application/msgpack"),
            (list, "text/plain", ""),
            (bin, "application/json", ""),
            (no_json, "application/json", ""),
            (text, "image/png", ""),
            (text, "*/*;q=0", ""),
        ] {
            let headers = match accept {
                "" => HeaderMap::new(),
                accept => HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]),
            };
            let seen = match value_response(Value::from_stored(value), &Accept::parse(&headers)) {
                Ok(response) => response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned(),
                Err(problem) => {
                    assert_eq!(problem.status, 406);
                    String::new()
                }
            };
            assert_eq!(seen, content_type, "{value:x?} as {accept}");
        }
    }
}
