//! [`Recorded`]: recorded request heads of browsers and HTTP libraries. `tests/fixtures/http-clients.http` was written
//! from the senders' documentation; `tests/fixtures/chromium.http` was captured by `make test-browser`.
//!
//! Used by the tests of this crate and, as a separate module, by the tests of the crates with an HTTP server.
#![allow(dead_code, unreachable_pub)] // Each user needs only a part.

/// Sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A browser, for a page of another site: refused everywhere.
    Stranger,
    /// A browser on direct request of the user, or without a stated origin: GET changes nothing.
    Browser,
    /// Not a browser: served as in version 0.1.0.
    Program,
}

/// A request without target and body.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Name of the request.
    pub name: &'static str,
    /// Sender.
    pub sender: Sender,
    /// HTTP method.
    pub method: &'static str,
    lines: Vec<(&'static str, &'static str)>,
}

impl Recorded {
    /// All recorded requests.
    pub fn all() -> Vec<Self> {
        let files = [include_str!("../fixtures/http-clients.http"), include_str!("../fixtures/chromium.http")];
        files.into_iter().flat_map(|text| text.split("### ").skip(1)).map(Self::parse).collect()
    }

    /// All requests of a sender with this method.
    pub fn of(sender: Sender, method: &str) -> Vec<Self> {
        let all = Self::all().into_iter();
        let found: Vec<Self> = all.filter(|request| request.sender == sender && request.method == method).collect();
        assert!(!found.is_empty(), "nothing is recorded of {sender:?} with {method}");
        found
    }

    /// Headers of the request to the server at `address`, which is `host:port`.
    pub fn headers(&self, address: &str) -> Vec<(String, String)> {
        let (_, port) = address.rsplit_once(':').unwrap_or((address, "80"));
        let put = |value: &str| value.replace("{address}", address).replace("{port}", port);
        self.lines.iter().map(|(name, value)| ((*name).to_owned(), put(value))).collect()
    }

    /// The complete request as sent on the wire; with `body` if the method allows a body.
    pub fn on_the_wire(&self, address: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        for (name, value) in self.headers(address) {
            head += &format!("{name}: {value}\r\n");
        }
        if matches!(self.method, "GET" | "HEAD" | "OPTIONS") {
            return [head.as_bytes(), b"\r\n"].concat();
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    /// Parses `SENDER: NAME`, the method, and the headers, one per line.
    fn parse(text: &'static str) -> Self {
        let mut lines = text.trim_end().lines();
        let (sender, name) = lines.next().and_then(|title| title.split_once(": ")).expect("SENDER: NAME");
        let sender = match sender {
            "stranger" => Sender::Stranger,
            "browser" => Sender::Browser,
            "program" => Sender::Program,
            other => panic!("{other} is no sender"),
        };
        let method = lines.next().expect("a method");
        let lines = lines.map(|line| line.split_once(": ").expect("NAME: VALUE")).collect();
        Self { name, sender, method, lines }
    }
}
