//! [`ProposalRef`]: a proposal with borrowed keys and values.
//!
//! The encoding is the same as for [`Proposal`](crate::Proposal), where the fields are documented. The state machine
//! decodes this type to read a proposal without copying; senders encode this type without cloning operations.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Command, Op, Precondition, SystemCommand, codec};

/// Approximate size of an operation without key and value.
const OP_OVERHEAD: usize = 32;

/// Borrowed form of [`Proposal`](crate::Proposal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ProposalRef<'a> {
    OpenSession,
    #[serde(borrow)]
    Batch(BatchRef<'a>),
    System(SystemCommand),
}

/// Borrowed form of [`Batch`](crate::Batch).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BatchRef<'a> {
    pub session: u64,
    pub sequence: u64,
    pub acknowledged_below: u64,
    #[serde(borrow)]
    pub ops: Vec<OpRef<'a>>,
}

/// Borrowed form of [`Op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct OpRef<'a> {
    #[serde(borrow)]
    pub command: CommandRef<'a>,
    pub precondition: Option<Precondition>,
    #[serde(borrow)]
    pub idempotency: Option<IdempotencyRef<'a>>,
}

/// Borrowed form of [`Command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CommandRef<'a> {
    Set {
        #[serde(with = "codec::borrowed_bin", borrow)]
        key: &'a [u8],
        #[serde(with = "codec::borrowed_bin", borrow)]
        value: &'a [u8],
        expires_at_ms: u64,
    },
    Delete {
        #[serde(with = "codec::borrowed_bin", borrow)]
        key: &'a [u8],
    },
}

/// Borrowed form of [`Idempotency`](crate::Idempotency).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct IdempotencyRef<'a> {
    #[serde(with = "codec::borrowed_bin", borrow)]
    pub key: &'a [u8],
    pub fingerprint: u64,
    pub keep_ms: u64,
}

impl<'a> ProposalRef<'a> {
    /// Same encoding as [`Proposal::encode`](crate::Proposal::encode).
    pub fn encode(&self) -> Bytes {
        let size = match self {
            ProposalRef::Batch(batch) => batch.ops.iter().map(OpRef::size).sum(),
            ProposalRef::OpenSession | ProposalRef::System(_) => 0,
        };
        codec::encode_sized(self, size + OP_OVERHEAD)
    }

    /// Decodes the output of [`Proposal::encode`](crate::Proposal::encode), borrowing keys and values from `bytes`.
    /// Never panics.
    ///
    /// # Errors
    /// The errors of [`Proposal::decode`](crate::Proposal::decode).
    pub fn decode(bytes: &'a [u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}

impl OpRef<'_> {
    /// Approximate encoded size.
    fn size(&self) -> usize {
        let value = match self.command {
            CommandRef::Set { value, .. } => value.len(),
            CommandRef::Delete { .. } => 0,
        };
        self.command.key().len() + value + OP_OVERHEAD
    }
}

impl<'a> CommandRef<'a> {
    /// Returns the key changed by the command.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            CommandRef::Set { key, .. } | CommandRef::Delete { key } => key,
        }
    }
}

impl<'a> From<&'a Op> for OpRef<'a> {
    fn from(op: &'a Op) -> Self {
        let command = match &op.command {
            Command::Set { key, value, expires_at_ms } => {
                CommandRef::Set { key: key.as_bytes(), value: value.as_msgpack(), expires_at_ms: *expires_at_ms }
            }
            Command::Delete { key } => CommandRef::Delete { key: key.as_bytes() },
        };
        let idempotency = op.idempotency.as_ref().map(|idempotency| IdempotencyRef {
            key: &idempotency.key,
            fingerprint: idempotency.fingerprint,
            keep_ms: idempotency.keep_ms,
        });
        Self { command, precondition: op.precondition, idempotency }
    }
}
