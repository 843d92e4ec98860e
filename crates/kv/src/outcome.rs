//! [`Answer`]: the result of applying a [`Proposal`](crate::Proposal).

use serde::{Deserialize, Deserializer, Serialize};

use crate::{SystemAnswer, codec};

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The value is stored.
    Set {
        /// The new revision of the key.
        revision: u64,
        /// Whether the key was created.
        created: bool,
    },
    /// The key does not exist any more.
    Deleted {
        /// Revision of the deletion; 0 if the key did not exist.
        revision: u64,
        /// Whether the key existed.
        existed: bool,
    },
    /// The precondition failed; nothing changed.
    PreconditionFailed {
        /// The current revision of the key; 0 = the key does not exist.
        current: u64,
    },
    /// The `Idempotency-Key` was used with a different request; nothing changed.
    IdempotencyMismatch,
    /// The group does not own the slot of the key; nothing changed.
    WrongGroup,
    /// The outcome of an earlier request with the same `Idempotency-Key`, never itself a replay; nothing changed now.
    Replayed(#[serde(deserialize_with = "not_replayed")] Box<Outcome>),
    /// The table of kept outcomes is full and no entry has expired; nothing changed. Never kept as an outcome. From
    /// [`STRICT_VERSION`](crate::STRICT_VERSION) on.
    OutcomesFull,
}

/// Outcomes allowed in [`Outcome::Replayed`]. Decoding uses a separate type because the decoder does not limit the
/// depth of enums: endlessly nested replays would overflow the stack.
#[derive(Deserialize)]
enum Original {
    Set { revision: u64, created: bool },
    Deleted { revision: u64, existed: bool },
    PreconditionFailed { current: u64 },
    IdempotencyMismatch,
    WrongGroup,
}

fn not_replayed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Outcome>, D::Error> {
    Original::deserialize(deserializer).map(|original| {
        Box::new(match original {
            Original::Set { revision, created } => Outcome::Set { revision, created },
            Original::Deleted { revision, existed } => Outcome::Deleted { revision, existed },
            Original::PreconditionFailed { current } => Outcome::PreconditionFailed { current },
            Original::IdempotencyMismatch => Outcome::IdempotencyMismatch,
            Original::WrongGroup => Outcome::WrongGroup,
        })
    })
}

/// The result of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A session was opened.
    SessionOpened {
        /// Session id, never 0 and never reused in the group.
        session: u64,
    },
    /// One outcome per operation, in order.
    Applied(Vec<Outcome>),
    /// The session is unknown or expired; nothing changed now. An earlier attempt may have been applied.
    SessionExpired,
    /// The sequence is below the sender's `acknowledged_below`; nothing changed now.
    Stale,
    /// The answer to a system command.
    System(SystemAnswer),
    /// The proposal cannot be applied, and no member applied the proposal. From
    /// [`STRICT_VERSION`](crate::STRICT_VERSION) on.
    Rejected {
        /// Human-readable reason.
        reason: String,
    },
}

impl Answer {
    /// Encodes the answer, version byte first.
    pub fn encode(&self) -> bytes::Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
