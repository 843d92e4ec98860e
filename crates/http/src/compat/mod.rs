//! The surfaces of four earlier systems: their paths and bodies, with honest statuses.

pub(crate) mod arima;
pub(crate) mod keva;
pub(crate) mod raftkv;
pub(crate) mod ravel;
