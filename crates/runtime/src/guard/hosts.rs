//! [`Hosts`]: the host names by which browsers may reach a process.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// Longest host name, in bytes: the bound of DNS.
pub const MAX_HOST_BYTES: usize = 253;
/// Most names in `RAFTKV_ALLOWED_HOSTS`. Each request of a browser is compared with all of them.
pub const MAX_ALLOWED_HOSTS: usize = 64;
/// Longest part of a host name between dots, in bytes: the bound of DNS.
const MAX_LABEL_BYTES: usize = 63;

/// A host name as a browser sends it, in lower case: no scheme, no port, no dot at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(Box<str>);

/// A text that is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a host name: write it as browsers show it, without scheme, port or wildcard, such as kv.example.com; addresses need not be named"
)]
pub struct NotAHostName;

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_sound = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(is_of_names);
        if name.len() > MAX_HOST_BYTES || !name.split('.').all(is_sound) {
            return Err(NotAHostName);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host names of a process, beside those by which no page of another site can reach it: IP addresses, `localhost` and names
/// without a dot, which are not resolved by the DNS of a stranger. Cloning shares them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(Arc<[HostName]>);

impl Hosts {
    /// The hosts of `advertised`, which are names or `host:port`, and the names in `allowed`. What is no name, such as an IP
    /// address with brackets, is left out.
    pub fn new<'a>(advertised: impl IntoIterator<Item = &'a str>, allowed: &[HostName]) -> Self {
        let host = |address: &'a str| address.rsplit_once(':').map_or(address, |(host, _)| host);
        let advertised = advertised.into_iter().filter_map(|address| host(address).parse().ok());
        let mut hosts: Vec<HostName> = Vec::new();
        for name in advertised.chain(allowed.iter().cloned()) {
            if !hosts.contains(&name) {
                hosts.push(name);
            }
        }
        Self(hosts.into())
    }

    /// Whether a browser may send a request with this host, which is a `Host` header without its port.
    pub fn admits(&self, host: &str) -> bool {
        let is_local = !host.is_empty() && host.bytes().all(is_of_names);
        is_local || is_address(host) || {
            let name = host.strip_suffix('.').unwrap_or(host);
            name.eq_ignore_ascii_case("localhost") || self.0.iter().any(|known| known.0.eq_ignore_ascii_case(name))
        }
    }
}

/// Letters of one part of a name.
fn is_of_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Browsers write other forms of an address, such as 127.1, as the system does.
fn is_address(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().expect(text)
    }

    #[test]
    fn a_name_is_as_browsers_send_it() {
        for (text, expected) in [
            ("KV.Example.com", "kv.example.com"),
            ("node1", "node1"),
            ("a_b-c.d.", "a_b-c.d"),
            ("xn--e1a.eu", "xn--e1a.eu"),
        ] {
            assert_eq!(name(text).to_string(), expected);
        }
        let (long_label, long_name) = ("a".repeat(MAX_LABEL_BYTES + 1), vec!["abc"; 64].join("."));
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a:80",
            "http://a",
            "*.example.com",
            "*",
            "a/b",
            "a b",
            "[::1]",
            "кв.example",
            &long_label,
            &long_name,
        ] {
            assert_eq!(text.parse::<HostName>(), Err(NotAHostName), "{text}");
        }
    }

    #[test]
    fn only_names_that_no_stranger_can_make_are_admitted() {
        let hosts =
            Hosts::new(["n1.example.com:8080", "node1", "[::1]:8080", "n1.example.com:6000"], &[name("kv.example")]);
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "[fe80::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "node7",
            "my_node-2",
            "n1.example.com",
            "N1.Example.Com",
            "n1.example.com.",
            "kv.example",
        ] {
            assert!(hosts.admits(host), "{host}");
        }
        for host in [
            "",
            ".",
            "evil.example",
            "evil.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "n1.example.com.evil.example",
            "sub.kv.example",
            "example",
            "node7.",
            "127.1",
            "127.0.0.1.",
            "[127.0.0.1]",
            "[]",
            "[evil.example]",
            "::1",
            "user@node1",
            "a b",
        ] {
            assert_eq!(hosts.admits(host), host == "example", "{host}");
        }
    }

    #[test]
    fn nothing_is_advertised_twice() {
        let hosts = Hosts::new(["a.b:1", "A.b:2", "a.b."], &[name("a.b")]);
        assert_eq!(hosts.0.len(), 1);
        assert!(!Hosts::default().admits("a.b"));
    }
}
