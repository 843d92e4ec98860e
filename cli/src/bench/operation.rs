//! [`Operation`]: what a client asks, and [`Trouble`]: why it got no good answer.

use std::fmt;

/// A request to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Stores new values under these keys, in one request.
    Put(Vec<Put>),
    /// Reads the key of this index.
    Get(usize),
}

/// One value of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: usize,
    /// Makes the value one of its kind.
    pub(super) nonce: u64,
}

impl Operation {
    /// How many it counts for.
    pub(super) fn count(&self) -> u64 {
        match self {
            Operation::Put(puts) => puts.len() as u64,
            Operation::Get(_) => 1,
        }
    }
}

/// Kinds of failure, as they are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The answer's HTTP status.
    Http(u16),
    /// The answer's gRPC status.
    Grpc(&'static str),
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The answer is not one.
    Malformed,
    /// A key that was written is not there.
    Missing,
    /// A value that nobody wrote under that key.
    WrongValue,
}

impl Trouble {
    /// Worse than no answer.
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Trouble::Missing | Trouble::WrongValue | Trouble::Malformed)
    }

    /// Whether the connection can be used no more.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Trouble::Connection | Trouble::Timeout)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Http(status) => write!(f, "HTTP {status}"),
            Trouble::Grpc(code) => write!(f, "gRPC: {code}"),
            Trouble::Connection => f.write_str("connection lost"),
            Trouble::Timeout => f.write_str("timeout"),
            Trouble::Malformed => f.write_str("malformed answer"),
            Trouble::Missing => f.write_str("missing key"),
            Trouble::WrongValue => f.write_str("wrong value"),
        }
    }
}
