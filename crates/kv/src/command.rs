//! [`Command`]: a change of one key; [`Op`]: a command with conditions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Key, Value};

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores a value, replacing any existing value.
    Set {
        /// The key.
        key: Key,
        /// The value.
        value: Value,
        /// Expiry time on the replicated clock, in milliseconds since the Unix epoch; 0 = never.
        expires_at_ms: u64,
    },
    /// Removes a key. Removing a missing key is not an error.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Command {
    /// Returns the key changed by the command.
    pub fn key(&self) -> &Key {
        match self {
            Command::Set { key, .. } | Command::Delete { key } => key,
        }
    }
}

/// A condition checked when the operation is applied; on failure nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The key does not exist (`If-None-Match: *`).
    Absent,
    /// The key exists (`If-Match: *`).
    Present,
    /// The key exists at exactly this revision (`If-Match: "revision"`).
    Revision(u64),
}

/// Idempotency information of a request: two requests with the same key count as one request.
///
/// The state machine keeps the outcome under `key` for `keep_ms` of the replicated clock after the first request, and
/// answers a repeat with the kept outcome without applying the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The client's key; in a batch, followed by the position of the operation.
    #[serde(with = "crate::codec::bin")]
    pub key: Bytes,
    /// Hash of the request: the same key with a different request is rejected.
    pub fingerprint: u64,
    /// Retention time of the outcome after the operation is applied, in milliseconds of the replicated clock.
    pub keep_ms: u64,
}

/// One operation of a batch. Each operation succeeds or fails separately: a batch is not a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// The change.
    pub command: Command,
    /// Precondition of the change.
    pub precondition: Option<Precondition>,
    /// Set when the client sent an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

impl From<Command> for Op {
    fn from(command: Command) -> Self {
        Self { command, precondition: None, idempotency: None }
    }
}
