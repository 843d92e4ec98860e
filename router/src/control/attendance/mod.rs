//! The coordinator's lease and the presence of routers.

pub mod lease;
pub(in crate::control) mod presence;
