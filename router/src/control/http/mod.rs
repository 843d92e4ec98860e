//! The HTTP interface of the control plane: `/v1/cluster`.
//!
//! It stands beside the surfaces of `raftkv_http` in the same server, with the same form of problems. Whoever may reach
//! the router may use it.

mod answer;
mod group;
mod node;
mod operation;
mod request;
mod slots;
mod upgrade;

use std::time::{Duration, Instant};

use answer::Refused;
use axum::Router;
use axum::http::header;
use axum::routing::{delete, get, post};
use raftkv_http::Problem;
use utoipa::OpenApi;

use crate::control::document::store::{StoreError, Versioned};
use crate::control::plane::ControlPlane;

/// The meta group gets this long to say how things are; then the last that is known is shown.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// A client's change of the document gets this long.
const ADMIN_TIMEOUT: Duration = raftkv_runtime::deadlines::ROUTER_DOCUMENT;

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
        upgrade::show,
        upgrade::hold,
        upgrade::release,
        upgrade::finish,
    ),
    tags((name = "cluster", description = "Groups, slots and their moves: at routers only."))
)]
struct AdminDoc;

/// The description of the whole interface of a router: what a node has, and `/v1/cluster`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (mut whole, mut own) = (raftkv_http::openapi(), AdminDoc::openapi());
    raftkv_http::describe_browsers(&mut own);
    whole.merge(own);
    whole
}

/// `router`, with [`openapi`] at `/openapi.json`.
pub fn described(router: Router) -> Router {
    // A document made of texts always has a JSON form.
    let document = bytes::Bytes::from(openapi().to_json().unwrap_or_default());
    let show = move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], document.clone()));
    Router::new().route("/openapi.json", get(show).fallback(not_allowed("GET, HEAD"))).fallback_service(router)
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
        .route("/v1/cluster/upgrade", get(upgrade::show).fallback(not_allowed(show)))
        .route("/v1/cluster/upgrade/hold", post(upgrade::hold).fallback(not_allowed("POST")))
        .route("/v1/cluster/upgrade/release", post(upgrade::release).fallback(not_allowed("POST")))
        .route("/v1/cluster/upgrade/finish", post(upgrade::finish).fallback(not_allowed("POST")))
        .with_state(plane)
}

/// Answers whatever method a path does not know.
fn not_allowed(allow: &'static str) -> impl Fn() -> std::future::Ready<Refused> + Clone + Send + Sync + 'static {
    move || std::future::ready(Problem::method_not_allowed(allow).into())
}

async fn read(plane: &ControlPlane) -> Result<Versioned, Problem> {
    plane.store().read(Instant::now() + ADMIN_TIMEOUT).await.map_err(answer::store)
}

/// The document for who only looks at it: the newest, and whether the meta group has answered. Where it has not, or its document cannot be
/// used, the last that this router could use: its requests are routed by that, too.
async fn look(plane: &ControlPlane) -> Result<(Versioned, bool), Problem> {
    match plane.store().read(Instant::now() + LOOK_TIMEOUT).await {
        Ok(found) => Ok((found, true)),
        Err(error) => match plane.store().latest() {
            Some(latest) => Ok((latest, matches!(error, StoreError::State(_)))),
            None => Err(answer::store(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_holds_both_parts() {
        let document: serde_json::Value = serde_json::from_str(&openapi().to_json().unwrap()).unwrap();
        for path in ["/v1/kv/{key}", "/v1/batch", "/v1/cluster", "/v1/cluster/operations/{id}", "/v1/cluster/nodes"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        for schema in ["ClusterView", "OperationView", "Assignment", "ProblemBody"] {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
    }

    #[test]
    fn every_request_may_come_from_a_page_of_another_site() {
        let document: serde_json::Value = serde_json::from_str(&openapi().to_json().unwrap()).unwrap();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap().iter().filter(|(_, it)| it.is_object()) {
                assert!(operation["responses"]["403"].is_object(), "{method} {path}");
            }
        }
        let refused = &document["paths"]["/v1/cluster/groups"]["post"]["responses"]["403"];
        assert!(refused["content"]["application/problem+json"]["schema"].is_object(), "{refused}");
    }

    #[test]
    fn the_page_of_limits_has_those_of_the_control_plane() {
        use raftkv_runtime::limits_page::{Part, bytes, count, time};

        use crate::control::attendance::presence;
        use crate::control::document::state;
        let limits = [
            ("body", bytes(request::MAX_BODY_BYTES)),
            ("longest `?wait=`", time(request::MAX_WAIT)),
            ("wait for the document", time(ADMIN_TIMEOUT)),
            ("groups", count(state::MAX_GROUPS)),
            ("removed groups", count(state::MAX_REMOVED_GROUPS)),
            ("nodes", count(state::MAX_NODES)),
            ("members of a group", count(state::MAX_MEMBERS)),
            ("routers", count(presence::MAX_ROUTERS)),
            ("name or address", bytes(state::MAX_TEXT_BYTES)),
            ("name of a group", bytes(state::MAX_GROUP_NAME_BYTES)),
            ("weight", count(state::MAX_WEIGHT as usize)),
            ("operations under way", count(state::MAX_OPEN_OPERATIONS)),
            ("operations that are over", count(state::MAX_PAST_OPERATIONS)),
            ("moves that are over", count(state::MAX_PAST_MOVES)),
            ("ranges of a move", count(state::MAX_ASKED_RANGES)),
            ("slots of a move", count(state::MAX_SLOTS_PER_MOVE)),
            ("reason that is written down", bytes(state::MAX_REASON_BYTES)),
        ];
        let part = Part::of(include_str!("../../../../docs/reference/limits.md"), "Cluster administration");
        assert_eq!(part.differences(&limits), [""; 0]);
        assert_eq!(part.unknown_metrics(&[include_str!("../../../../crates/http/src/body.rs")]), [""; 0]);
    }
}
