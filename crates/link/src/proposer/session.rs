//! [`Session`]: under which number batches are proposed.

use std::time::Instant;

/// The engine's session with the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// None, or the last one expired.
    Closed,
    /// Asked for under this proposal id; an answer is expected by then.
    Opening { id: u64, answer_by: Instant },
    /// Batches can be numbered.
    Open { session: u64, next_sequence: u64 },
}

impl Session {
    /// Whether it was asked for under `id`.
    pub(super) fn is_opening_as(&self, id: u64) -> bool {
        matches!(self, Session::Opening { id: asked, .. } if *asked == id)
    }

    /// Whether batches are numbered under `session`.
    pub(super) fn is(&self, session: u64) -> bool {
        matches!(self, Session::Open { session: open, .. } if *open == session)
    }
}
