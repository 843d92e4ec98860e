//! Groups: shown, added, weighed, removed.

use std::time::{Duration, Instant};

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::future::join_all;
use raftkv_backend::BackendError;
use raftkv_http::{Problem, ProblemBody};
use raftkv_kv::Ownership;
use raftkv_proto::group::Description;
use serde::{Deserialize, Serialize};

use super::answer::{Refused, json, no_store, rejected, store};
use super::operation::begun;
use super::request::{self, Query, number};
use super::{ADMIN_TIMEOUT, LOOK_TIMEOUT, answer};
use crate::control::attendance::lease::RouterView;
use crate::control::decide::change::NewGroup;
use crate::control::document::records::{GroupId, GroupRecord, GroupState, MoveRecord};
use crate::control::document::rejected::{Rejected, RejectedCode};
use crate::control::document::state::ClusterState;
use crate::control::now_ms;
use crate::control::plane::ControlPlane;
use crate::data::group::GroupClient;

/// A group that is to be added gets this long.
const ADD_TIMEOUT: Duration = raftkv_runtime::deadlines::ROUTER_LOOK;

/// What the store is made of.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ClusterView {
    /// Its id.
    store: String,
    /// Rises with every change of slots or groups.
    epoch: u64,
    /// Of the cluster document.
    version: u64,
    /// Nodes that a group is to have.
    replicas: usize,
    /// Whether the meta group answers; otherwise this is the last that is known.
    meta_reachable: bool,
    /// Why the document in the meta group cannot be used; then this is the last good one, and nothing can be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document_unusable: Option<String>,
    groups: Vec<GroupView>,
    /// The move under way.
    #[serde(rename = "move")]
    moving: Option<MoveView>,
    routers: Vec<RouterView>,
}

/// A group.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct GroupView {
    id: GroupId,
    name: String,
    state: GroupState,
    /// Its part of the slots, relative to the other groups.
    weight: u32,
    /// How many slots it owns.
    slots: usize,
    /// How many keys it holds, if it answers.
    keys: Option<u64>,
    members: Vec<MemberView>,
    /// The leader's name, if one is known.
    leader: Option<String>,
    /// Whether a node of it answers that knows a leader.
    reachable: bool,
    /// Where routers look for it.
    addresses: Vec<String>,
}

/// A member of a group.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct MemberView {
    name: String,
    voter: bool,
    management_address: String,
    group_address: String,
}

/// The groups.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Groups {
    groups: Vec<GroupView>,
}

/// The move under way.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct MoveView {
    id: u64,
    operation: u64,
    from: Option<GroupId>,
    to: Option<GroupId>,
    /// Like `0-99,200`.
    slots: String,
    count: usize,
    step: &'static str,
    keys: u64,
    bytes: u64,
    started: Option<String>,
}

/// A group to add. Its nodes are a group of their own already, without keys.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddRequest {
    /// For people; `group<id>` by default.
    #[serde(default)]
    name: Option<String>,
    /// `host:port` of the group service of at least one node.
    addresses: Vec<String>,
    /// Its part of the slots, relative to the other groups; 1 by default.
    #[serde(default)]
    weight: Option<u32>,
}

/// Another weight.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightRequest {
    /// 0 = no slots.
    weight: u32,
}

impl GroupView {
    fn of(group: &GroupRecord, described: Option<Description>) -> Self {
        let seen = described.as_ref();
        let leader = seen.map(|seen| seen.leader.clone()).filter(|leader| !leader.is_empty());
        let members = group.members.iter().map(|member| MemberView {
            name: member.name.clone(),
            voter: member.voter,
            management_address: member.management_address.clone(),
            group_address: member.group_address.clone(),
        });
        Self {
            id: group.id,
            name: group.name.clone(),
            state: group.state,
            weight: group.weight,
            slots: group.slots.len(),
            keys: seen.map(|seen| seen.keys),
            members: members.collect(),
            reachable: leader.is_some(),
            leader,
            addresses: group.reachable_at(),
        }
    }
}

impl From<&MoveRecord> for MoveView {
    fn from(moving: &MoveRecord) -> Self {
        Self {
            id: moving.id,
            operation: moving.operation,
            from: moving.from,
            to: moving.to,
            slots: moving.slots.to_string(),
            count: moving.slots.len(),
            step: moving.step.as_str(),
            keys: moving.keys,
            bytes: moving.bytes,
            started: answer::time(moving.started_ms),
        }
    }
}

/// The store: its groups, who leads them and what they hold, the move under way, the routers.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", responses((status = 200, body = ClusterView)))]
pub(super) async fn cluster(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    Query::of(&parts).finish()?;
    let (found, meta_reachable) = super::look(&plane).await?;
    let state = &found.state;
    let view = ClusterView {
        store: format!("{:016x}", state.store),
        epoch: state.epoch,
        version: found.version,
        replicas: state.replicas,
        meta_reachable,
        document_unusable: plane.store().unusable(),
        groups: views(&plane, state).await,
        moving: state.moving.as_ref().map(MoveView::from),
        routers: plane.routers(),
    };
    Ok(json(StatusCode::OK, &view))
}

/// The groups, those that were removed last, too.
#[utoipa::path(get, path = "/v1/cluster/groups", tag = "cluster", responses((status = 200, body = Groups)))]
pub(super) async fn list(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    Query::of(&parts).finish()?;
    let (found, _) = super::look(&plane).await?;
    Ok(json(StatusCode::OK, &Groups { groups: views(&plane, &found.state).await }))
}

async fn views(plane: &ControlPlane, state: &ClusterState) -> Vec<GroupView> {
    let map = plane.store().map();
    let views = state.groups.values().map(|group| {
        // One that is not adopted yet knows no identity to be asked by; one that was removed is not asked any more.
        let is_asked = matches!(group.state, GroupState::Active | GroupState::Draining);
        let client = map.as_ref().filter(|_| is_asked).and_then(|map| plane.groups().client(map, group.id));
        async move {
            let described = match client {
                Some(client) => client.describe(Instant::now() + LOOK_TIMEOUT).await.ok(),
                None => None,
            };
            GroupView::of(group, described)
        }
    });
    join_all(views).await
}

/// Adds a group: once it is part of the store its share of the slots is moved to it.
///
/// At least one of the addresses must answer. The group must hold no keys and be in no other store; one that was removed
/// from this store comes back under its id.
#[utoipa::path(
    post, path = "/v1/cluster/groups", tag = "cluster", request_body = AddRequest,
    responses(
        (status = 202, description = "Begun.", body = super::operation::OperationView),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is in a store, or holds keys.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "None of the addresses answers.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn add(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    Query::of(&parts).finish()?;
    let asked: AddRequest = request::json(&parts, body).await?;
    let new = NewGroup {
        name: asked.name,
        addresses: asked.addresses,
        weight: asked.weight.unwrap_or(1),
        cluster_id: String::new(),
    };
    // What can be refused without asking anybody is refused first.
    let found = super::read(&plane).await?;
    (*found.state).clone().add_group(new.clone(), 0).map_err(|reason| rejected(&reason))?;
    let described = look_at(&plane, &new.addresses).await?;
    let ownership = Ownership::decode(&described.ownership)
        .map_err(|error| BackendError::Internal(format!("the group's ownership is not understood: {error}")))?;
    let conflict = |why: String| rejected(&Rejected::conflict(why));
    let new = NewGroup { cluster_id: described.cluster_id, ..new };
    let is_ours = ownership.store == found.state.store;
    if ownership.is_sharded() && !is_ours {
        let (group, store) = (ownership.group, ownership.store);
        return Err(conflict(format!("these nodes are group {group} of store {store:016x}")).into());
    }
    if !ownership.is_sharded() && described.keys > 0 {
        let keys = described.keys;
        return Err(conflict(format!("the group holds {keys} keys; only an empty group can be added")).into());
    }
    let until = Instant::now() + ADMIN_TIMEOUT;
    let added = plane.store().update(until, |state| match is_ours {
        true => state.revive_group(ownership.group, new.addresses.clone(), now_ms()),
        false => state.add_group(new.clone(), now_ms()).map(|(_, operation)| operation),
    });
    let (operation, found) = added.await.map_err(store)?;
    begun(&plane, operation, &found)
}

/// Asks nodes that may become a group who they are. All that answer must be in one cluster.
async fn look_at(plane: &ControlPlane, addresses: &[String]) -> Result<Description, Problem> {
    let (client, tasks) = GroupClient::start("group to add", addresses.to_vec(), None, plane.stop());
    let described = client.describe_all(Instant::now() + ADD_TIMEOUT).await;
    client.stop();
    tasks.ended().await;
    // Nodes that the others told of are theirs.
    let asked = described.into_iter().filter(|(address, _)| addresses.contains(address));
    let mut found: Option<Description> = None;
    let mut silent = Vec::new();
    for (address, described) in asked {
        match (described, &found) {
            (Err(error), _) => silent.push(format!("{address}: {error}")),
            (Ok(described), _) if described.cluster_id.is_empty() => {
                silent.push(format!("{address}: the node is in no group yet"));
            }
            (Ok(described), Some(first)) if first.cluster_id != described.cluster_id => {
                let why = format!("the nodes {} and {} are not in one group", first.node, described.node);
                return Err(rejected(&Rejected::conflict(why)));
            }
            (Ok(described), Some(first)) if first.role == "leader" || described.role != "leader" => {}
            (Ok(described), _) => found = Some(described),
        }
    }
    found.ok_or_else(|| Problem {
        retryable: true,
        ..Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "group_unreachable",
            format!("none of the nodes can be asked: {}", silent.join("; ")),
        )
    })
}

/// The group with that id, or the one of that name that takes part: a removed group keeps its name, and is in nobody's way.
async fn id_of(plane: &ControlPlane, id_or_name: &str) -> Result<GroupId, Problem> {
    if let Ok(id) = number(id_or_name, "the id of a group") {
        return Ok(id);
    }
    let found = super::read(plane).await?;
    let named = found.state.groups.values().find(|group| group.is_live() && group.name == id_or_name);
    named.map(|group| group.id).ok_or_else(|| {
        rejected(&Rejected::new(RejectedCode::UnknownGroup, format!("there is no group {id_or_name:?}")))
    })
}

/// Removes a group: its slots are moved away first. The last one is removed with all keys, if that is confirmed.
#[utoipa::path(
    delete, path = "/v1/cluster/groups/{id}", tag = "cluster",
    params(("id" = String, Path, description = "Its id, or its name."), ("confirm" = Option<String>, Query, description = "`delete-all-keys`, for the last group.")),
    responses(
        (status = 202, description = "Begun; asked again, the same operation.", body = super::operation::OperationView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Not possible, or not confirmed.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    let mut query = Query::of(&parts);
    let confirmed = match query.take("confirm")?.as_deref() {
        None => false,
        Some(b"delete-all-keys") => true,
        Some(_) => {
            let detail = "the parameter confirm is delete-all-keys or left out";
            return Err(Problem::bad_request("invalid_parameter", detail).into());
        }
    };
    query.finish()?;
    let id = id_of(&plane, &id).await?;
    let until = Instant::now() + ADMIN_TIMEOUT;
    let removed = plane.store().update(until, |state| state.remove_group(id, confirmed, now_ms())).await;
    let (operation, found) = removed.map_err(store)?;
    begun(&plane, operation, &found)
}

/// Gives a group another weight. Slots move by it at the next rebalance.
#[utoipa::path(
    post, path = "/v1/cluster/groups/{id}/weight", tag = "cluster",
    params(("id" = String, Path, description = "Its id, or its name.")),
    request_body = WeightRequest,
    responses(
        (status = 200, body = GroupView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn weigh(
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    Query::of(&parts).finish()?;
    let id = id_of(&plane, &id).await?;
    let asked: WeightRequest = request::json(&parts, body).await?;
    let until = Instant::now() + ADMIN_TIMEOUT;
    let weighed = plane.store().update(until, |state| state.set_weight(id, asked.weight)).await;
    let (_, found) = weighed.map_err(store)?;
    let group = found.state.groups.get(&id).ok_or_else(no_store)?;
    let client = plane.store().map().and_then(|map| plane.groups().client(&map, id));
    let described = match client {
        Some(client) => client.describe(Instant::now() + LOOK_TIMEOUT).await.ok(),
        None => None,
    };
    Ok(json(StatusCode::OK, &GroupView::of(group, described)))
}
