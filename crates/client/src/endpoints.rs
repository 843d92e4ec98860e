//! [`Endpoints`]: the addresses of a store.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Characters to percent-encode: all but the unreserved characters of RFC 3986 in a path segment or query value.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// HTTP addresses, at least one, separated by commas; `http://` is optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints(Vec<String>);

impl Endpoints {
    /// As `http://host:port`, without a trailing slash.
    pub fn urls(&self) -> &[String] {
        &self.0
    }

    /// As `host:port`.
    pub fn authorities(&self) -> Vec<String> {
        self.0.iter().map(|url| url.trim_start_matches("http://").to_owned()).collect()
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Endpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let urls: Result<Vec<_>, _> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(url).collect();
        let urls = urls?;
        if urls.is_empty() { Err("no address given".to_owned()) } else { Ok(Self(urls)) }
    }
}

fn url(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!("{text}: https is not supported; put a proxy in front"));
    }
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let url = format!("http://{authority}");
    let parsed: Uri = url.parse().map_err(|error| format!("{text}: {error}"))?;
    if parsed.path() != "/" || parsed.query().is_some() {
        return Err(format!("{text}: expected http://host:port, with no path"));
    }
    if parsed.port_u16().is_none() {
        return Err(format!("{text}: the port is missing"));
    }
    Ok(url)
}

/// Percent-encodes a path segment or query value.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    percent_encode(bytes.as_ref(), RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        let endpoints: Endpoints = "http://a:8080/, b:8081".parse().expect("two addresses");
        assert_eq!(endpoints.urls(), ["http://a:8080", "http://b:8081"]);
        assert_eq!(endpoints.authorities(), ["a:8080", "b:8081"]);
        for wrong in ["", ",", "https://a:1", "http://a:1/v1", "a", "a b:1"] {
            assert!(wrong.parse::<Endpoints>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_encoded_so_that_they_stay_one_segment() {
        assert_eq!(encode("a/b c?d%"), "a%2Fb%20c%3Fd%25");
        assert_eq!(encode([0xff, b'.', b'.']), "%FF..");
    }
}
