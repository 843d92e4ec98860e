//! The native surface: `/v1/kv` and `/v1/batch`.

pub(crate) mod batch;
pub(crate) mod key;
pub(crate) mod list;
