//! [`Proposal`]: the payload of a log entry.

use serde::{Deserialize, Serialize};

use crate::{Op, SystemCommand, codec};

/// Operations applied in order, in one log entry, exactly once.
///
/// For each session the state machine keeps the answers of all batches at or above `acknowledged_below`, and answers a
/// repeated (session, sequence) from the kept answers. A batch below the highest `acknowledged_below` seen is rejected
/// as stale: the sender already has the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// From [`Proposal::OpenSession`].
    pub session: u64,
    /// Chosen by the sender, rising from 1 within the session.
    pub sequence: u64,
    /// The sender has the answers of all lower sequences and will not repeat them.
    pub acknowledged_below: u64,
    /// The operations.
    pub ops: Vec<Op>,
}

/// The payload of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposal {
    /// Opens a session. A repeat opens a second session, harmless because unused sessions expire.
    OpenSession,
    /// Changes keys.
    Batch(Batch),
    /// Changes slot ownership or a system key. Not part of a session: the identical command may be repeated.
    System(SystemCommand),
}

impl Proposal {
    /// Encodes the proposal, version byte first.
    pub fn encode(&self) -> bytes::Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
