//! The leader's lease: for how long nobody else can have been elected, so that a read of the leader's engine needs to ask
//! nobody. ARCHITECTURE.md has the argument.

mod acks;
mod keeper;
mod leader;

pub use acks::{Ack, Acks};
pub use keeper::{EngineStream, Keeper};
pub use leader::{ConfirmError, LeaderLease};
