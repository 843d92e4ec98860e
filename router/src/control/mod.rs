//! The control plane: the cluster document, the decisions about it, and the coordinator. Imports point down this list:
//!
//! - [`http`] is the interface for operators, [`plane`] starts the control plane.
//! - [`act`]: the coordinator and the mover carry out decisions, on the router that holds the coordinator's lease.
//! - [`attendance`]: the coordinator's lease, and the routers that are present.
//! - [`decide`]: pure functions: the next step of an operation ([`decide::agenda`]) and of a move ([`decide::step`]), the group of a new
//!   node ([`decide::placement`]), the transitions of the document ([`decide::change`]).
//! - [`document`]: the cluster document ([`document::state`]), which [`document::store`] reads and writes in the meta group, and the plan of
//!   slots ([`document::plan`]).

pub mod act;
pub mod attendance;
pub mod decide;
pub mod document;
pub mod http;
pub mod plane;

/// Milliseconds since the Unix epoch by the clock of this router, for operators: no decision depends on them.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
