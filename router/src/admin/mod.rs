//! The HTTP interface of the control plane: `/v1/cluster`.
//!
//! It stands beside the surfaces of `raftkv_api` in the same server, with the same form of problems. Whoever may reach the
//! router may use it.

mod answer;
mod group;
mod node;
mod operation;
mod request;
mod slots;

use std::time::{Duration, Instant};

use answer::Refused;
use axum::Router;
use axum::routing::{delete, get, post};
use raftkv_api::Problem;
use utoipa::OpenApi;

use crate::cluster::ControlPlane;
use crate::cluster::store::Versioned;

/// A client's change of the document gets this long.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The description of this part of the interface.
#[derive(OpenApi)]
#[openapi(
    paths(
        group::cluster,
        group::list,
        group::add,
        group::remove,
        group::weigh,
        slots::all,
        slots::one,
        operation::list,
        operation::show,
        operation::cancel,
        operation::rebalance,
        operation::move_slots,
        node::register,
        node::list,
        node::forget,
    ),
    tags((name = "cluster", description = "Groups, slots and their moves: at routers only."))
)]
struct AdminDoc;

/// The description of `/v1/cluster`, to be merged into that of the other surfaces.
pub fn openapi() -> utoipa::openapi::OpenApi {
    AdminDoc::openapi()
}

/// The routes of `/v1/cluster`. Without a fallback of their own, so that they can be merged with others.
pub fn router(plane: ControlPlane) -> Router {
    let show = "GET, HEAD";
    Router::new()
        .route("/v1/cluster", get(group::cluster).fallback(not_allowed(show)))
        .route("/v1/cluster/slots", get(slots::all).fallback(not_allowed(show)))
        .route("/v1/cluster/slots/{slot}", get(slots::one).fallback(not_allowed(show)))
        .route("/v1/cluster/groups", get(group::list).post(group::add).fallback(not_allowed("GET, HEAD, POST")))
        .route("/v1/cluster/groups/{id}", delete(group::remove).fallback(not_allowed("DELETE")))
        .route("/v1/cluster/groups/{id}/weight", post(group::weigh).fallback(not_allowed("POST")))
        .route("/v1/cluster/rebalance", post(operation::rebalance).fallback(not_allowed("POST")))
        .route("/v1/cluster/moves", post(operation::move_slots).fallback(not_allowed("POST")))
        .route("/v1/cluster/operations", get(operation::list).fallback(not_allowed(show)))
        .route("/v1/cluster/operations/{id}", get(operation::show).fallback(not_allowed(show)))
        .route("/v1/cluster/operations/{id}/cancel", post(operation::cancel).fallback(not_allowed("POST")))
        .route("/v1/cluster/nodes", get(node::list).post(node::register).fallback(not_allowed("GET, HEAD, POST")))
        .route("/v1/cluster/nodes/{name}", delete(node::forget).fallback(not_allowed("DELETE")))
        .with_state(plane)
}

/// Answers whatever method a path does not know.
fn not_allowed(allow: &'static str) -> impl Fn() -> std::future::Ready<Refused> + Clone + Send + Sync + 'static {
    move || std::future::ready(Problem::method_not_allowed(allow).into())
}

async fn read(plane: &ControlPlane) -> Result<Versioned, Problem> {
    plane.store().read(Instant::now() + ADMIN_TIMEOUT).await.map_err(answer::store)
}

/// For people: milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
