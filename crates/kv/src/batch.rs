//! [`Proposal`]: what one entry of the replicated log carries.

use serde::{Deserialize, Serialize};

use crate::{Op, SystemCommand, codec};

/// Operations that are applied in order, in one log entry, exactly once.
///
/// The state machine keeps, per session, the answers of all batches at or above `acknowledged_below`, and answers a
/// repeat of (session, sequence) from there. A batch below the mark it has already seen is refused as stale: its
/// sender has its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// From [`Proposal::OpenSession`].
    pub session: u64,
    /// Chosen by the sender, rising from 1 within the session.
    pub sequence: u64,
    /// The sender has the answers of every batch below this one and will not repeat them.
    pub acknowledged_below: u64,
    /// The operations.
    pub ops: Vec<Op>,
}

/// The payload of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposal {
    /// Makes a session. A repeat makes another one, which expires unused: harmless.
    OpenSession,
    /// Changes keys.
    Batch(Batch),
    /// Changes what the group owns, or a system key. In no session: it may be repeated as it is.
    System(SystemCommand),
}

impl Proposal {
    /// Encodes it, version first.
    pub fn encode(&self) -> bytes::Bytes {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) made. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
