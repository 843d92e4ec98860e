//! [`Limits`]: how large things may be; [`MAX_REVISION`] and [`MAX_CLOCK_MS`]: how far a group may count.

/// The highest revision: integers up to it survive JSON in every language. At a million changes a second a group needs 285 years for it.
pub const MAX_REVISION: u64 = (1 << 53) - 1;
/// The latest time that a group's clock, or the time of a slot, may show, in milliseconds since the Unix epoch: the end of the year 9999.
pub const MAX_CLOCK_MS: u64 = 253_402_300_799_999;

/// Size limits, checked before anything is proposed. All in bytes or counts, inclusive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest key.
    pub max_key_bytes: usize,
    /// Largest value, as encoded MsgPack.
    pub max_value_bytes: usize,
    /// Deepest nesting of arrays and maps in a value.
    pub max_value_depth: usize,
    /// Most operations in one client batch.
    pub max_batch_ops: usize,
    /// Largest client batch, keys and values together.
    pub max_batch_bytes: usize,
    /// Most entries in one page of a listing.
    pub max_list_entries: usize,
    /// Largest page of a listing, keys and values together.
    pub max_list_bytes: usize,
    /// Longest `Idempotency-Key`.
    pub max_idempotency_key_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_key_bytes: 4 * 1024,
            max_value_bytes: 1024 * 1024,
            max_value_depth: 128,
            max_batch_ops: 1_000,
            max_batch_bytes: 8 * 1024 * 1024,
            max_list_entries: 10_000,
            max_list_bytes: 4 * 1024 * 1024,
            max_idempotency_key_bytes: 255,
        }
    }
}
