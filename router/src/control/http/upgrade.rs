//! The cluster version of all groups: how it stands, holding it, raising it.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::future::join_all;
use raftkv_backend::BackendError;
use raftkv_http::{Problem, ProblemBody};
use raftkv_proto::consensus::{Member, UpgradeAction, UpgradeStatus};
use serde::Serialize;

use super::ADMIN_TIMEOUT;
use super::answer::{Refused, json};
use super::request;
use crate::control::attendance::lease::RouterView;
use crate::control::document::records::{GroupId, GroupRecord, GroupState};
use crate::control::plane::ControlPlane;

/// The cluster versions of a store.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct UpgradeView {
    groups: Vec<GroupUpgrade>,
    /// All routers that are known: those that are gone count until they are forgotten, after ten minutes.
    routers: Vec<RouterView>,
}

/// The cluster version of a group.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct GroupUpgrade {
    id: GroupId,
    name: String,
    /// The cluster version; null = the group does not answer.
    version: Option<u32>,
    /// The next one; null = it is the highest that the group's leader speaks.
    next: Option<u32>,
    /// It does not rise until it is released.
    held: bool,
    /// Why it does not rise; null = nothing is in the way.
    blocked: Option<String>,
    /// In how long it rises by itself, in milliseconds; null = it does not.
    due_in_ms: Option<u64>,
    members: Vec<MemberVersions>,
    /// Why nothing is known of it, or why it was not done there.
    error: Option<String>,
}

/// The cluster versions that a member speaks.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct MemberVersions {
    name: String,
    /// The lowest; null = it has not said so lately.
    version_min: Option<u32>,
    /// The highest.
    version_max: Option<u32>,
}

impl GroupUpgrade {
    fn of(group: &GroupRecord, asked: Result<UpgradeStatus, BackendError>) -> Self {
        let error = asked.as_ref().err().map(BackendError::reason);
        let status = asked.ok();
        let known = status.is_some();
        let status = status.unwrap_or_default();
        let rises = status.next != 0 && status.blocked.is_empty();
        let told = |number: u32| (number != 0).then_some(number);
        let member = |Member { name, version_min, version_max, .. }| MemberVersions {
            name,
            version_min: told(version_min),
            version_max: told(version_max),
        };
        Self {
            id: group.id,
            name: group.name.clone(),
            version: known.then_some(status.version),
            next: told(status.next),
            held: status.is_held,
            due_in_ms: rises.then_some(status.due_in_ms),
            blocked: Some(status.blocked).filter(|why| !why.is_empty()),
            members: status.members.into_iter().map(member).collect(),
            error,
        }
    }
}

/// How the cluster version of each group stands.
#[utoipa::path(get, path = "/v1/cluster/upgrade", tag = "cluster", responses((status = 200, body = UpgradeView)))]
pub(super) async fn show(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    request::Query::of(&parts).finish()?;
    let groups = ask(&plane, UpgradeAction::Show).await?;
    Ok(json(StatusCode::OK, &UpgradeView { groups, routers: plane.routers() }))
}

/// Holds the cluster version of all groups.
#[utoipa::path(
    post, path = "/v1/cluster/upgrade/hold", tag = "cluster",
    responses((status = 200, body = UpgradeView), (status = 409, body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn hold(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    order(plane, request, UpgradeAction::Hold).await
}

/// Lets the cluster version of all groups rise again.
#[utoipa::path(
    post, path = "/v1/cluster/upgrade/release", tag = "cluster",
    responses((status = 200, body = UpgradeView), (status = 409, body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn release(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    order(plane, request, UpgradeAction::Release).await
}

/// Raises the cluster version of all groups now.
#[utoipa::path(
    post, path = "/v1/cluster/upgrade/finish", tag = "cluster",
    responses((status = 200, body = UpgradeView), (status = 409, body = ProblemBody, content_type = "application/problem+json"))
)]
pub(super) async fn finish(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    order(plane, request, UpgradeAction::Finish).await
}

async fn order(plane: ControlPlane, request: Request, action: UpgradeAction) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    request::nothing_else(&parts, body).await?;
    let groups = ask(&plane, action).await?;
    let (failed, done): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.error.is_some());
    if failed.is_empty() {
        tracing::info!(?action, "the cluster version, by request");
        return Ok(json(StatusCode::OK, &UpgradeView { groups, routers: plane.routers() }));
    }
    let why = failed.iter().map(|group| format!("{}: {}", group.name, group.error.as_deref().unwrap_or_default()));
    let why = why.collect::<Vec<_>>().join("; ");
    let done = match done.as_slice() {
        [] => "not done anywhere".to_owned(),
        done => format!("done in {}", done.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")),
    };
    Err(Problem::new(StatusCode::CONFLICT, "version_blocked", format!("{done}; {why}")).into())
}

/// Asks all groups that own slots, or may, at once.
async fn ask(plane: &ControlPlane, action: UpgradeAction) -> Result<Vec<GroupUpgrade>, Problem> {
    let (found, _) = super::look(plane).await?;
    let map = plane.store().map();
    let until = Instant::now() + ADMIN_TIMEOUT;
    let asked = found.state.groups.values().filter(|group| group.state != GroupState::Removed).map(|group| {
        let client = map.as_ref().and_then(|map| plane.groups().client(map, group.id));
        async move {
            let asked = match client {
                Some(client) => client.upgrade(action, until).await,
                None => Err(BackendError::Unavailable("it is being formed".to_owned())),
            };
            GroupUpgrade::of(group, asked)
        }
    });
    Ok(join_all(asked).await)
}
