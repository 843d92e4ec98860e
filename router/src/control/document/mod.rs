//! The cluster document, and its place in the meta group.

mod place;
pub mod plan;
pub mod records;
pub mod rejected;
pub mod state;
pub mod store;
