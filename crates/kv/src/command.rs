//! [`Command`]: what a client wants changed; [`Op`]: a command with its conditions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Key, Value};

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores a value, replacing any other.
    Set {
        /// Where.
        key: Key,
        /// What.
        value: Value,
        /// When it expires by the replicated clock, in milliseconds since the Unix epoch; 0 = never.
        expires_at_ms: u64,
    },
    /// Removes a key. Removing what is not there is no error.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Command {
    /// The key it changes.
    pub fn key(&self) -> &Key {
        match self {
            Command::Set { key, .. } | Command::Delete { key } => key,
        }
    }
}

/// What must hold at the moment of applying; otherwise nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The key does not exist (`If-None-Match: *`).
    Absent,
    /// The key exists (`If-Match: *`).
    Present,
    /// The key exists at exactly this revision (`If-Match: "revision"`).
    Revision(u64),
}

/// A client's promise that two requests with the same key are one.
///
/// The state machine keeps the outcome under `key` until the replicated clock passes `expires_at_ms` of the first,
/// and answers a repeat from there without applying it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The client's key, with the position of the operation in its batch where there is one.
    #[serde(with = "crate::codec::bin")]
    pub key: Bytes,
    /// A hash of the request: the same key with another request is refused.
    pub fingerprint: u64,
    /// How long the outcome is kept after it was applied, in milliseconds of the replicated clock.
    pub keep_ms: u64,
}

/// One operation of a batch. It succeeds or fails by itself: a batch is not a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// The change.
    pub command: Command,
    /// What must hold for it.
    pub precondition: Option<Precondition>,
    /// Set when the client sent an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

impl From<Command> for Op {
    fn from(command: Command) -> Self {
        Self { command, precondition: None, idempotency: None }
    }
}
