//! [`Endpoint`]: where a process listens or is reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them ends it.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// An address: `unix:/path/to.sock`, or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host name or IP address (IPv6 in brackets) with a port. Port 0 is for listening on any free one.
    Tcp(String),
}

/// Why a text is not an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither form.
    #[error("{0:?} is no address: expected host:port or unix:/path")]
    Malformed(String),
    /// The operating system cannot bind it.
    #[error("the socket path {path:?} has {len} bytes; the operating system allows {MAX_SOCKET_PATH_BYTES}: use a shorter directory", len = path.as_os_str().len())]
    PathTooLong {
        /// Which.
        path: PathBuf,
    },
}

impl Endpoint {
    /// A Unix socket at `path`, whose length is checked.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, EndpointError> {
        let path = path.into();
        if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            Err(EndpointError::PathTooLong { path })
        } else {
            Ok(Self::Unix(path))
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // Both `unix:/path` and the URI form `unix:///path` are in use.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(malformed()) } else { Self::unix(path) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_is_sound = !host.is_empty()
            && (bracketed || !host.contains(':'))
            && !host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c));
        if !host_is_sound || port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_written() {
        for text in ["unix:/var/lib/raftkv/engine.sock", "node1:8088", "127.0.0.1:0", "[::1]:50051"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
        assert_eq!("unix:///a.sock".parse(), Ok(Endpoint::Unix("/a.sock".into())));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "node1",
            "node1:",
            ":80",
            "node1:http",
            "node1:99999",
            "::1:80",
            "unix:",
            "http://a:80",
            "a b:1",
            "a:+1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_socket_path_the_system_cannot_bind_is_refused_early() {
        let path = format!("/{}", "d".repeat(MAX_SOCKET_PATH_BYTES));
        assert!(matches!(Endpoint::unix(&path), Err(EndpointError::PathTooLong { .. })));
        assert!(Endpoint::unix(&path[1..]).is_ok());
    }
}
