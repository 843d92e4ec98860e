//! The consensus process of a RaftKV node: Raft (openraft) over a write-ahead log, driving a state machine behind gRPC.
//!
//! The modules are floors. A module imports from floors below only; `xtask tidy` checks the imports. From top to bottom:
//!
//! | floor | contents |
//! | --- | --- |
//! | [`run`], [`config`] | the assembly of the process, and the settings of the operator |
//! | [`serve`] | the gRPC services for the engine and for peers, the management API, the status |
//! | [`life`] | the way into a cluster and out of it: bootstrap, registration, joining, removal, reseed, kill |
//! | [`lead`] | elections and leadership, membership changes, proposals, read barriers, compaction |
//! | [`node`] | the node and its group as all floors above see them, with identity, elections, metrics and twins |
//! | [`propose`] | the combiner of proposals and the leader lease |
//! | [`engine`] | the client of the engine, and the state machine over it |
//! | [`peers`] | connections to other members: the client of openraft, forwarding, the management client |
//! | [`raft`] | types, wire format, log store, lease keeper, acknowledgements, progress, timing |
//! | [`wal`] | the write-ahead log |

pub mod config;
pub mod engine;
pub mod lead;
pub mod life;
#[cfg(test)]
mod limits_page;
pub mod node;
pub mod peers;
pub mod propose;
pub mod raft;
pub mod run;
pub mod serve;
pub mod wal;
