//! Nodes: where they belong, which are known.

use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use raftkv_http::ProblemBody;
use raftkv_proto::{SPOKEN, VersionRange};
use serde::Serialize;

use super::ADMIN_TIMEOUT;
use super::answer::{Refused, json, store};
use super::request::{self, Query};
use crate::control::decide::placement::{Assignment, Registration};
use crate::control::document::records::{GroupId, NodeRecord};
use crate::control::now_ms;
use crate::control::plane::ControlPlane;

/// The nodes that registered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Nodes {
    nodes: Vec<NodeView>,
}

/// A node that registered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct NodeView {
    name: String,
    group: GroupId,
    /// It began the group.
    bootstrap: bool,
    raft_address: String,
    management_address: String,
    group_address: String,
    /// Whether it was a member when the group was last seen.
    member: bool,
}

/// Tells a node that is in no cluster where it belongs. The same node asking again gets the same answer.
#[utoipa::path(
    post, path = "/v1/cluster/nodes", tag = "cluster", request_body = Registration,
    responses(
        (status = 200, description = "Begin a group, or join one.", body = Registered),
        (status = 202, description = "Wait, and ask again in a second.", body = Registered),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    Query::of(&parts).finish()?;
    let node: Registration = request::json(&parts, body).await?;
    let until = Instant::now() + ADMIN_TIMEOUT;
    let registered = plane.store().update(until, |state| state.register(&node, now_ms())).await;
    let (assignment, _) = registered.map_err(store)?;
    let status = match &assignment {
        Assignment::Wait { .. } => StatusCode::ACCEPTED,
        assignment => {
            tracing::info!(node = node.name, assignment = ?assignment, "node: registered");
            StatusCode::OK
        }
    };
    let spoken = plane.routers_speak().map_or(SPOKEN, |all| VersionRange::from_wire(all.min, all.max));
    Ok(json(status, &Registered { assignment, version_min: spoken.min, version_max: spoken.max }))
}

/// Where a node belongs, and who is in front of it there.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Registered {
    #[serde(flatten)]
    assignment: Assignment,
    /// The lowest cluster version that all routers speak.
    version_min: u32,
    /// The highest one.
    version_max: u32,
}

/// The nodes that registered.
#[utoipa::path(get, path = "/v1/cluster/nodes", tag = "cluster", responses((status = 200, body = Nodes)))]
pub(super) async fn list(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    Query::of(&parts).finish()?;
    let (found, _) = super::look(&plane).await?;
    let view = |(name, node): (&String, &NodeRecord)| NodeView {
        name: name.clone(),
        group: node.group,
        bootstrap: node.bootstrap,
        raft_address: node.raft_address.clone(),
        management_address: node.management_address.clone(),
        group_address: node.group_address.clone(),
        member: found
            .state
            .groups
            .get(&node.group)
            .is_some_and(|group| group.members.iter().any(|member| member.name == *name)),
    };
    Ok(json(StatusCode::OK, &Nodes { nodes: found.state.nodes.iter().map(view).collect() }))
}

/// Forgets that a node registered. It stays a member of its group as long as it is not removed there.
#[utoipa::path(
    delete, path = "/v1/cluster/nodes/{name}", tag = "cluster", params(("name" = String, Path)),
    responses(
        (status = 204, description = "Forgotten."),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn forget(
    State(plane): State<ControlPlane>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    request::nothing_else(&parts, body).await?;
    let until = Instant::now() + ADMIN_TIMEOUT;
    plane.store().update(until, |state| state.forget_node(&name)).await.map_err(store)?;
    tracing::info!(node = name, "node: forgotten by request");
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
