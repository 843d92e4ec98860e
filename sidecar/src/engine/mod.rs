//! The engine of this node: the connection to it, its versions and its disk, and the state machine that it is.

mod chunk;
pub mod client;
pub mod disk;
mod feeder;
pub mod state_machine;
pub mod versions;
