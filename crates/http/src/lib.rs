//! The HTTP front door of RaftKV over a [`Backend`](raftkv_backend::Backend): the native `/v1` surface and the four
//! compatible ones.
//!
//! An engine serves it over its own group, the shard router over many groups; a request means the same in both.
//!
//! [`Front`] says what requests mean, [`serve`] how they are received: with limits on everything, and a drain.

// A test that unwraps says where it failed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod app;
mod body;
mod browsers;
mod chunks;
mod compat;
mod conditions;
mod config;
mod cursor;
mod documented;
mod door;
mod elsewhere;
mod fields;
mod fingerprint;
mod front;
mod head;
pub mod limits;
#[cfg(test)]
mod limits_page;
mod native;
mod negotiate;
mod observe;
mod once;
mod openapi;
mod operations;
mod pace;
mod pieces;
mod places;
mod problem;
mod query;
mod reply;
mod room;
mod routes;
mod server;
mod surface;
mod watch;

pub use compat::arima::RaftStats;
pub use config::{ApiConfig, DEFAULT_TIMEOUT, IDEMPOTENCY_KEEP, MAX_TIMEOUT};
pub use door::{Door, DoorArgs, DoorSettings};
pub use elsewhere::Elsewhere;
pub use front::Front;
pub use limits::HttpLimits;
pub use problem::{Problem, ProblemBody, ProblemOutcome};
pub use server::serve;

/// The description of the interface, as served at `/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    <openapi::ApiDoc as utoipa::OpenApi>::openapi()
}

/// Adds the refusal of browsers to all requests that a description has: the guard stands before all of them.
pub fn describe_browsers(description: &mut utoipa::openapi::OpenApi) {
    documented::describe_browsers(description);
}
