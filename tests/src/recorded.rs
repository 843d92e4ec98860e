//! [`Recorded`]: heads of requests as browsers and HTTP libraries send them: those of `tests/fixtures/http-clients.http`, which were written
//! after the documentation of the senders, and those of `tests/fixtures/chromium.http`, which `make test-browser` took off the wire.
//!
//! Used by this crate's tests and, as a module of their own, by those of the crates that serve HTTP.
#![allow(dead_code, unreachable_pub)] // Each of them uses its part.

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A browser, for a page of another site: refused everywhere.
    Stranger,
    /// A browser whose user asks for it, or that does not say which page does: changes nothing by GET.
    Browser,
    /// No browser: served as in version 0.1.0.
    Program,
}

/// A request without its target and its body.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What it is.
    pub name: &'static str,
    /// Who sends it.
    pub sender: Sender,
    /// Its method.
    pub method: &'static str,
    lines: Vec<(&'static str, &'static str)>,
}

impl Recorded {
    /// All that there are, of all senders.
    pub fn all() -> Vec<Self> {
        let files = [include_str!("../fixtures/http-clients.http"), include_str!("../fixtures/chromium.http")];
        files.into_iter().flat_map(|text| text.split("### ").skip(1)).map(Self::parse).collect()
    }

    /// Those of one sender with one method.
    pub fn of(sender: Sender, method: &str) -> Vec<Self> {
        let all = Self::all().into_iter();
        let found: Vec<Self> = all.filter(|request| request.sender == sender && request.method == method).collect();
        assert!(!found.is_empty(), "nothing is recorded of {sender:?} with {method}");
        found
    }

    /// Its headers, sent to the server at `address`, which is `host:port`.
    pub fn headers(&self, address: &str) -> Vec<(String, String)> {
        let (_, port) = address.rsplit_once(':').unwrap_or((address, "80"));
        let put = |value: &str| value.replace("{address}", address).replace("{port}", port);
        self.lines.iter().map(|(name, value)| ((*name).to_owned(), put(value))).collect()
    }

    /// The whole of it as it is on the wire; with `body` where the method has one.
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

    /// `SENDER: NAME`, the method, and the headers, one a line.
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
