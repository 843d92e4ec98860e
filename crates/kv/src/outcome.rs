//! [`Answer`]: what applying a [`Proposal`](crate::Proposal) gave.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{SystemAnswer, codec};

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The value is stored.
    Set {
        /// Of the key, from now on.
        revision: u64,
        /// Whether the key did not exist before.
        created: bool,
    },
    /// The key is gone.
    Deleted {
        /// Of the deletion; 0 when there was nothing to delete.
        revision: u64,
        /// Whether there was something to delete.
        existed: bool,
    },
    /// The precondition did not hold; nothing changed.
    PreconditionFailed {
        /// The key's revision at that moment; 0 = no such key.
        current: u64,
    },
    /// The `Idempotency-Key` was used with another request; nothing changed.
    IdempotencyMismatch,
    /// This group does not own the key's slot; nothing changed.
    WrongGroup,
    /// An earlier request with the same `Idempotency-Key` had this outcome, which is never itself a replay; nothing
    /// changed now.
    Replayed(#[serde(deserialize_with = "not_replayed")] Box<Outcome>),
    /// The group keeps as many outcomes as it may, and none of them is to be forgotten yet; nothing changed. Never itself kept. From
    /// [`STRICT_VERSION`](crate::STRICT_VERSION) on.
    OutcomesFull,
}

/// What may stand in [`Outcome::Replayed`]. Decoding goes through it because the decoder counts no depth for enums: a
/// replay within a replay without end would exhaust the stack.
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

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The session is open under this id.
    SessionOpened {
        /// Never 0, never used before in this group.
        session: u64,
    },
    /// One per operation, in order.
    Applied(Vec<Outcome>),
    /// The session is not known (any more); nothing changed now. An earlier attempt may have been applied.
    SessionExpired,
    /// The sequence is below what the sender said it has the answers of; nothing changed now.
    Stale,
    /// Of a system command.
    System(SystemAnswer),
    /// What was proposed cannot be applied, and was not, by any member. From [`STRICT_VERSION`](crate::STRICT_VERSION) on.
    Rejected {
        /// What is wrong with it, for people.
        reason: String,
    },
}

impl Answer {
    /// Encodes it, version first.
    pub fn encode(&self) -> bytes::Bytes {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) made. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
