//! [`Session`]: the session for numbering batches.

use std::time::Instant;

/// The engine's session with the replicated state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// No session yet, or the last session has expired.
    Closed,
    /// Requested under proposal `id`; the answer is expected by `answer_by`.
    Opening { id: u64, answer_by: Instant },
    /// Open: batches can be numbered.
    Open { session: u64, next_sequence: u64 },
}

impl Session {
    /// Whether the session was requested under `id`.
    pub(super) fn is_opening_as(&self, id: u64) -> bool {
        matches!(self, Session::Opening { id: asked, .. } if *asked == id)
    }

    /// Whether the open session is `session`.
    pub(super) fn is(&self, session: u64) -> bool {
        matches!(self, Session::Open { session: open, .. } if *open == session)
    }
}
