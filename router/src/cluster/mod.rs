//! The control plane: the cluster document, its transitions, and the coordinator.
//!
//! - [`state`] is the document, [`change`] its pure transitions, [`store`] reads and writes it in the meta group.
//! - [`plan`] says which slots should go where, [`agenda`] what an operation needs next, [`step`] what a move needs next;
//!   all three are pure. The coordinator and the mover act on what they say, on whichever router holds the lease.
//! - [`placement`] says which group a new node belongs to.
//! - [`control`] starts it all.

pub mod agenda;
mod catch_up;
pub mod change;
pub mod control;
mod coordinator;
mod forming;
pub mod hold;
mod lease;
mod mover;
mod pace;
mod place;
pub mod placement;
pub mod plan;
pub(crate) mod presence;
pub mod records;
pub mod rejected;
pub mod state;
pub mod step;
pub mod store;

pub use control::{ClusterConfig, ControlPlane};
pub use hold::Hold;
pub use lease::RouterView;
pub use state::ClusterState;
