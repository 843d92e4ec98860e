//! [`ApiConfig`]: what the HTTP surfaces may be told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use raftkv_kv::Limits;
use raftkv_runtime::scrapes::Scrapes;

/// How long a request may take when it does not say: longer than an election, shorter than a client's patience.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest `?timeout=` that is granted; a longer one is refused, 400.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the outcome of a request with an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What the surfaces are told. The limits of connections and bodies are in [`HttpLimits`](crate::HttpLimits).
#[derive(Clone)]
pub struct ApiConfig {
    /// Sizes of keys, values, batches and pages.
    pub limits: Limits,
    /// Deadline of a request that does not say.
    pub default_timeout: Duration,
    /// The longest deadline a request may ask for.
    pub max_timeout: Duration,
    /// What `/metrics` answers; without it there is no such path.
    pub metrics: Option<Arc<Scrapes>>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), default_timeout: DEFAULT_TIMEOUT, max_timeout: MAX_TIMEOUT, metrics: None }
    }
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig")
            .field("limits", &self.limits)
            .field("default_timeout", &self.default_timeout)
            .field("max_timeout", &self.max_timeout)
            .field("metrics", &self.metrics.is_some())
            .finish()
    }
}
