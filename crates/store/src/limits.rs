//! [`StateLimits`]: the bounds of the replicated state.

/// How much the replicated state keeps, and how long. The same on every replica of a group, always: a difference is a
/// difference of state. Set otherwise in tests only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// A session not used for longer than this, by the replicated clock, is expired.
    pub session_ms: u64,
    /// Most sessions; the least recently used goes first.
    pub sessions: usize,
    /// Most answers of one session. Its sender says which ones it has, so only a broken one gets here; what is dropped
    /// then counts as acknowledged.
    pub answers_per_session: usize,
    /// The longest an outcome is kept for an `Idempotency-Key`, whatever the request says.
    pub idempotency_ms: u64,
    /// Most outcomes kept. From [`STRICT_VERSION`](raftkv_kv::STRICT_VERSION) on a write that needs one more is refused until one has expired; below it the one that
    /// expires first goes.
    pub idempotency: u64,
    /// Most expired values, and most expired outcomes, and most expired sessions removed with one entry: an entry
    /// stays cheap when a million of them expire at once. Until they are removed they are invisible.
    pub sweep: usize,
}

/// An hour. A proposer repeats a batch for a minute at most.
const SESSION_MS: u64 = 60 * 60 * 1000;
/// An engine or a router opens a session at its start, so the table holds the starts of an hour.
const SESSIONS: usize = 10_000;
/// Far more than the batches that a proposer has in flight.
const ANSWERS_PER_SESSION: usize = 1_024;
/// A week. Admission bounds a request to a day.
const IDEMPOTENCY_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Outcomes of 11.5 keyed writes a second, each kept for a day.
const IDEMPOTENCY_OUTCOMES: u64 = 1_000_000;
/// Small, so that an entry stays cheap when a million deadlines pass at the same time.
const SWEEP: usize = 128;

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            session_ms: SESSION_MS,
            sessions: SESSIONS,
            answers_per_session: ANSWERS_PER_SESSION,
            idempotency_ms: IDEMPOTENCY_MS,
            idempotency: IDEMPOTENCY_OUTCOMES,
            sweep: SWEEP,
        }
    }
}
