//! [`Limits`]: size limits; [`MAX_REVISION`] and [`MAX_CLOCK_MS`]: bounds of revisions and clocks.

/// Highest revision: JSON preserves integers up to this bound in every language. At a million changes per second a
/// group would take 285 years to reach the bound.
pub const MAX_REVISION: u64 = (1 << 53) - 1;
/// Latest time of a group clock or a slot, in milliseconds since the Unix epoch: the end of the year 9999.
pub const MAX_CLOCK_MS: u64 = 253_402_300_799_999;

/// Size limits, checked before a request is proposed. All limits are inclusive and in bytes or counts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum key length.
    pub max_key_bytes: usize,
    /// Maximum value size as encoded MsgPack.
    pub max_value_bytes: usize,
    /// Maximum nesting of arrays and maps in a value.
    pub max_value_depth: usize,
    /// Maximum operations in one client batch.
    pub max_batch_ops: usize,
    /// Maximum size of a client batch, keys and values together.
    pub max_batch_bytes: usize,
    /// Maximum entries in one page of a listing.
    pub max_list_entries: usize,
    /// Maximum size of a page of a listing, keys and values together.
    pub max_list_bytes: usize,
    /// Maximum length of an `Idempotency-Key`.
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
