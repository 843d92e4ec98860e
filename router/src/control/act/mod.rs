//! The tasks that carry out decisions: the coordinator, the mover, the forming of groups.

mod catch_up;
pub(in crate::control) mod coordinator;
pub(in crate::control) mod forming;
pub mod hold;
pub(in crate::control) mod mover;
mod pace;
