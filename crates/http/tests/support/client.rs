//! A client that writes bytes and reads answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts that it is a whole problem, and gives its code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["status"], status);
        let code = body["code"].as_str().unwrap().to_owned();
        assert_eq!(body["type"], format!("urn:raftkv:problem:{code}"));
        for text in ["title", "detail", "outcome"] {
            assert!(body[text].as_str().is_some_and(|t| !t.is_empty()), "{text} of {body}");
        }
        assert!(body["retryable"].is_boolean());
        code
    }
}

pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap(), read: Vec::new() }
    }

    /// From this address of the machine.
    pub(crate) async fn open_from(from: IpAddr, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        Self { stream: socket.connect(addr).await.unwrap(), read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let request = request(method, path, headers, body);
        // The server may answer, and close, before it has read everything.
        let _ = self.stream.write_all(&request).await;
        self.reply(method == "HEAD").await.expect("an answer")
    }

    /// The next answer; `None` when the connection ends first.
    pub(crate) async fn reply(&mut self, is_head: bool) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.read_reply(is_head)).await.expect("an answer or an end in time")
    }

    /// Asserts that the server sends nothing for a while and keeps the connection open.
    pub(crate) async fn stays_silent(&mut self, time: Duration) {
        let read = tokio::time::timeout(time, self.stream.read_buf(&mut self.read)).await;
        assert!(read.is_err(), "the server said {:?}", String::from_utf8_lossy(&self.read));
    }

    async fn read_reply(&mut self, is_head: bool) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.read.drain(..head_end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        let len = match reply.header("content-length") {
            Some(len) if !is_head => len.parse().unwrap(),
            _ => 0,
        };
        while self.read.len() < len {
            self.more().await?;
        }
        reply.body = self.read.drain(..len).collect();
        Some(reply)
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n").into_bytes();
    for (name, value) in headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}
