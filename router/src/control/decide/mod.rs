//! Decisions about the cluster document, as pure functions.

pub mod agenda;
pub mod change;
pub mod placement;
pub mod step;
