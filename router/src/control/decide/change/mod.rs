//! The transitions of [`ClusterState`](crate::control::document::state::ClusterState). Pure: each changes a copy, which is written by
//! compare-and-set, or refuses; what a refused one leaves behind is thrown away.

mod groups;
mod moves;
mod operations;
#[cfg(test)]
mod tests;

pub use groups::NewGroup;
pub(in crate::control) use groups::{check_address, check_group_name};
pub use moves::Progress;

use crate::control::document::state::MAX_REASON_BYTES;

/// A reason, cut to what the document takes.
fn cut(reason: &str) -> String {
    let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason[..end.unwrap_or(0)].to_owned()
}
