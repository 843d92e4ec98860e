//! What requests bring: parameters and JSON bodies, strictly read.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use percent_encoding::percent_decode;
use raftkv_http::Problem;
use serde::de::DeserializeOwned;

/// Largest body: room for a long list of slots.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest that a request waits for an operation.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The parameters after the question mark.
#[derive(Debug)]
pub(super) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    pub(super) fn of(parts: &Parts) -> Self {
        let raw = parts.uri.query().unwrap_or_default();
        let decode = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// Takes a parameter out. One that is empty, as out of an empty shell variable, or given twice is refused.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let is_named = |(known, _): &(Vec<u8>, Vec<u8>)| known == name.as_bytes();
        let Some(at) = self.0.iter().position(is_named) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        let wrong = |why| Problem::bad_request("invalid_parameter", format!("the parameter {name} {why}"));
        if value.is_empty() {
            return Err(wrong("must not be empty"));
        }
        if self.0.iter().any(is_named) {
            return Err(wrong("is given more than once"));
        }
        Ok(Some(value))
    }

    /// Takes a span of time out: `10s`, `500ms`, or a number of milliseconds.
    pub(super) fn take_wait(&mut self) -> Result<Duration, Problem> {
        let Some(text) = self.take("wait")? else { return Ok(Duration::ZERO) };
        let text = String::from_utf8_lossy(&text).into_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let factor = match &text[digits..] {
            "" | "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        match (text[..digits].parse::<u64>(), factor) {
            (Ok(number), Some(factor)) => Ok(Duration::from_millis(number.saturating_mul(factor)).min(MAX_WAIT)),
            _ => Err(Problem::bad_request("invalid_parameter", "the parameter wait is not like 500, 500ms, 10s or 1m")),
        }
    }

    /// Refuses what nobody took: a misspelt parameter must not silently mean nothing.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::bad_request(
                "unknown_parameter",
                format!("there is no parameter {:?} here", String::from_utf8_lossy(name)),
            )),
        }
    }
}

/// Reads a JSON body; with none, an empty object. Unknown members are refused by the types.
pub(super) async fn json<T: DeserializeOwned>(parts: &Parts, body: Body) -> Result<T, Problem> {
    let media_type = parts.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    // What `curl -d` says when it is not told.
    let is_fine = |name: &str| matches!(name, "application/json" | "application/x-www-form-urlencoded");
    if let Some(other) = media_type.filter(|name| !is_fine(name)) {
        let detail = format!("{other} is not taken here; send application/json");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let bytes = to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| Problem {
        limit: Some(MAX_BODY_BYTES as u64),
        ..Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body cannot be read; the limit is {MAX_BODY_BYTES} bytes: {error}"),
        )
    })?;
    let text: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| Problem::bad_request("malformed_json", format!("the body cannot be understood: {error}")))
}

/// For requests that say all in their path: no parameters, and no body but an empty object or null.
pub(super) async fn nothing_else(parts: &Parts, body: Body) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    Query::of(parts).finish()?;
    json::<Option<Nothing>>(parts, body).await.map(|_| ())
}

/// A number in the path.
pub(super) fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::bad_request("invalid_path", format!("{text:?} is not {what}")))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(uri: &str, media_type: Option<&str>) -> Parts {
        let mut request = Request::builder().uri(uri);
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn parameters_are_bytes_and_none_is_ignored() {
        let mut query = Query::of(&parts("/x?key=a+b%ff%2B&wait=2s&z", None));
        assert_eq!(query.take("key").unwrap().unwrap(), b"a b\xff+");
        assert_eq!(query.take_wait().unwrap(), Duration::from_secs(2));
        assert_eq!(query.finish().unwrap_err().code, "unknown_parameter");
        let wait = |text: &str| Query::of(&parts(&format!("/x?wait={text}"), None)).take_wait();
        assert_eq!(wait("999m").unwrap(), MAX_WAIT);
        for doubtful in ["key=", "key", "key=a&key=b"] {
            let taken = Query::of(&parts(&format!("/x?{doubtful}"), None)).take("key");
            assert_eq!(taken.unwrap_err().code, "invalid_parameter", "{doubtful}");
        }
        for bad in ["", "x", "-1", "1h"] {
            assert_eq!(wait(bad).unwrap_err().code, "invalid_parameter", "{bad}");
        }
    }

    #[tokio::test]
    async fn bodies_are_json_and_bounded() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wanted {
            #[serde(default)]
            number: u32,
        }
        for nothing in ["", "{}", "null"] {
            assert_eq!(nothing_else(&parts("/x", None), Body::from(nothing)).await, Ok(()), "{nothing:?}");
        }
        assert_eq!(nothing_else(&parts("/x?id=7", None), Body::empty()).await.unwrap_err().code, "unknown_parameter");
        let more = nothing_else(&parts("/x", None), Body::from(r#"{"dry_run":true}"#)).await;
        assert_eq!(more.unwrap_err().code, "malformed_json");
        let read = async |text: String, media_type| json::<Wanted>(&parts("/x", media_type), text.into()).await;
        assert_eq!(read(String::new(), None).await, Ok(Wanted { number: 0 }));
        let asked = read(r#"{"number":3}"#.to_owned(), Some("application/json; charset=utf-8")).await;
        assert_eq!(asked, Ok(Wanted { number: 3 }));
        for (text, media_type, status) in [
            ("{".to_owned(), None, 400),
            (r#"{"numbr":3}"#.to_owned(), None, 400),
            ("{}".to_owned(), Some("text/plain"), 415),
            (" ".repeat(MAX_BODY_BYTES + 1), None, 413),
        ] {
            assert_eq!(read(text, media_type).await.unwrap_err().status.as_u16(), status);
        }
    }
}
