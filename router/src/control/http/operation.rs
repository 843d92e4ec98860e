//! Operations: shown, waited for, cancelled; and those that move slots.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use raftkv_http::{Problem, ProblemBody};
use raftkv_kv::{SlotSet, SlotSetError};
use serde::{Deserialize, Serialize};

use super::answer::{Refused, accepted, json, rejected, store};
use super::request::{self, Query, number};
use super::{ADMIN_TIMEOUT, answer};
use crate::control::document::plan;
use crate::control::document::records::{
    GroupId, MoveRecord, MoveStep, Operation, OperationId, OperationKind, OperationState,
};
use crate::control::document::rejected::Rejected;
use crate::control::document::state::ClusterState;
use crate::control::document::store::Versioned;
use crate::control::now_ms;
use crate::control::plane::ControlPlane;

/// An operation, as it stands.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(super) struct OperationView {
    pub(super) id: OperationId,
    /// `add_group`, `remove_group`, `rebalance` or `move_slots`.
    kind: &'static str,
    /// `pending`, `running`, `stalled`, `cancelling`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// The group that is added or removed, or that slots are moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupId>,
    /// How much of it is done, 0 to 100.
    percent: f64,
    /// The step of its move under way.
    step: Option<&'static str>,
    /// Slots moved and to be moved.
    slots_total: usize,
    /// Slots moved so far.
    slots_done: usize,
    /// Keys copied so far; changes of a key count again.
    keys: u64,
    /// Bytes copied so far.
    bytes: u64,
    /// On average since it began.
    bytes_per_second: u64,
    /// A guess by what it took so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_seconds: Option<u64>,
    /// When it was asked for.
    created: Option<String>,
    /// When it began.
    started: Option<String>,
    /// When it ended.
    ended: Option<String>,
    /// Why it does not get on at the moment; it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The longest time that slots were not served.
    longest_pause_ms: u64,
}

/// All operations that are remembered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Operations {
    /// By id.
    operations: Vec<OperationView>,
}

/// A request to share the slots by weight.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RebalanceRequest {
    /// Only say what would be moved.
    dry_run: bool,
    /// Copy no faster than this.
    rate_bytes_per_second: Option<u64>,
}

/// A request to move slots.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveRequest {
    /// Like `0-99,200`.
    slots: String,
    /// The group that is to own them.
    to: GroupId,
    /// Copy no faster than this.
    #[serde(default)]
    rate_bytes_per_second: Option<u64>,
}

/// What a rebalance would move.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Plan {
    moves: Vec<PlannedMoveView>,
    /// Slots in all.
    slots_total: usize,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PlannedMoveView {
    from: GroupId,
    to: GroupId,
    /// Like `0-99,200`.
    slots: String,
    count: usize,
}

impl OperationView {
    pub(super) fn of(operation: &Operation, moving: Option<&MoveRecord>, now_ms: u64) -> Self {
        let moving = moving.filter(|moving| moving.operation == operation.id);
        let keys = operation.keys + moving.map_or(0, |moving| moving.keys);
        let bytes = operation.bytes + moving.map_or(0, |moving| moving.bytes);
        let percent = percent(operation, moving);
        let until = if operation.ended_ms > 0 { operation.ended_ms } else { now_ms };
        let millis = if operation.started_ms > 0 { until.saturating_sub(operation.started_ms) } else { 0 };
        let is_going_on = operation.state == OperationState::Running && percent > 0.0;
        let pause = moving.map_or(0, |moving| moving.pause_ms);
        Self {
            id: operation.id,
            kind: operation.task.as_str(),
            state: match operation.state {
                OperationState::Pending => "pending",
                OperationState::Running if operation.stalled.is_some() => "stalled",
                OperationState::Running => "running",
                OperationState::Cancelling => "cancelling",
                OperationState::Done => "done",
                OperationState::Failed => "failed",
                OperationState::Cancelled => "cancelled",
            },
            group: match operation.task {
                OperationKind::AddGroup { group } | OperationKind::RemoveGroup { group, .. } => Some(group),
                OperationKind::MoveSlots { to, .. } => Some(to),
                OperationKind::Rebalance {} => None,
            },
            percent: (percent * 10.0).round() / 10.0,
            step: moving.map(|moving| moving.step.as_str()),
            slots_total: operation.slots_total,
            slots_done: operation.slots_done,
            keys,
            bytes,
            bytes_per_second: (bytes * 1_000).checked_div(millis).unwrap_or(0),
            remaining_seconds: is_going_on
                .then(|| (millis as f64 * (100.0 - percent) / percent / 1_000.0).ceil() as u64),
            created: answer::time(operation.created_ms),
            started: answer::time(operation.started_ms),
            ended: answer::time(operation.ended_ms),
            stalled: operation.stalled.clone(),
            error: operation.error.clone(),
            longest_pause_ms: operation.longest_pause_ms.max(pause),
        }
    }

    fn find(state: &ClusterState, id: OperationId) -> Result<Self, Problem> {
        match state.operations.get(&id) {
            Some(operation) => Ok(Self::of(operation, state.moving.as_ref(), now_ms())),
            None => Err(rejected(&Rejected::unknown_operation(id))),
        }
    }
}

/// By slots; within a move by keys, as far as their number is known.
fn percent(operation: &Operation, moving: Option<&MoveRecord>) -> f64 {
    match operation.state {
        OperationState::Done => return 100.0,
        OperationState::Pending => return 0.0,
        _ => {}
    }
    if operation.slots_total == 0 {
        return 0.0;
    }
    let of_move = moving.map_or(0.0, |moving| {
        let part = match moving.step {
            MoveStep::Copying if moving.keys_estimate == 0 => 0.5,
            MoveStep::Copying => (moving.keys as f64 / moving.keys_estimate as f64).min(0.95),
            MoveStep::Fencing => 0.95,
            MoveStep::Releasing | MoveStep::Purging => 0.98,
            MoveStep::Aborting | MoveStep::Claiming | MoveStep::Disowning => 0.0,
        };
        part * moving.slots.len() as f64
    });
    (100.0 * (operation.slots_done as f64 + of_move) / operation.slots_total as f64).min(99.9)
}

/// All operations that are remembered.
#[utoipa::path(get, path = "/v1/cluster/operations", tag = "cluster", responses((status = 200, body = Operations)))]
pub(super) async fn list(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    Query::of(&parts).finish()?;
    let found = super::read(&plane).await?;
    let state = &found.state;
    let view = |operation| OperationView::of(operation, state.moving.as_ref(), now_ms());
    Ok(json(StatusCode::OK, &Operations { operations: state.operations.values().map(view).collect() }))
}

/// One operation. With `wait` the answer comes when it is over, or when the time is.
#[utoipa::path(
    get, path = "/v1/cluster/operations/{id}", tag = "cluster",
    params(("id" = u64, Path), ("wait" = Option<String>, Query, description = "Like `10s`; a minute at most.")),
    responses(
        (status = 200, body = OperationView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    let mut query = Query::of(&parts);
    let wait = query.take_wait()?;
    query.finish()?;
    let id = number(&id, "the number of an operation")?;
    let mut found = super::read(&plane).await?;
    let until = Instant::now() + wait;
    while is_open(&found, id) && Instant::now() < until {
        tokio::select! {
            () = plane.stop().wait() => break,
            newer = plane.store().newer_than(found.version, until) => match newer {
                Some(newer) => found = newer,
                None => break,
            },
        }
    }
    Ok(json(StatusCode::OK, &OperationView::find(&found.state, id)?))
}

fn is_open(found: &Versioned, id: OperationId) -> bool {
    found.state.operations.get(&id).is_some_and(|operation| !operation.state.is_over())
}

/// Asks an operation to end without doing the rest. The move under way is undone, unless its target owns the slots
/// already; then that move is finished first.
#[utoipa::path(
    post, path = "/v1/cluster/operations/{id}/cancel", tag = "cluster", params(("id" = u64, Path)),
    responses(
        (status = 202, description = "It will end.", body = OperationView),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is over.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(plane): State<ControlPlane>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    request::nothing_else(&parts, body).await?;
    let id: OperationId = number(&id, "the number of an operation")?;
    let until = Instant::now() + ADMIN_TIMEOUT;
    let cancelled = plane.store().update(until, |state| state.cancel_operation(id, now_ms())).await;
    let (_, found) = cancelled.map_err(store)?;
    tracing::info!(operation = id, "operation: cancelled by request");
    plane.wake();
    Ok(accepted(id, &OperationView::find(&found.state, id)?))
}

/// Shares the slots among the groups by their weights, with the fewest moves.
#[utoipa::path(
    post, path = "/v1/cluster/rebalance", tag = "cluster", request_body = RebalanceRequest,
    responses(
        (status = 200, description = "With `dry_run`: what would be moved.", body = Plan),
        (status = 202, description = "Begun.", body = OperationView),
    )
)]
pub(super) async fn rebalance(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let asked: RebalanceRequest = read_body(&parts, body).await?;
    if !asked.dry_run {
        return enqueue(&plane, OperationKind::Rebalance {}, asked.rate_bytes_per_second).await;
    }
    let found = super::read(&plane).await?;
    let moves: Vec<PlannedMoveView> = plan::balance(&found.state.shares())
        .into_iter()
        .map(|planned| PlannedMoveView {
            from: planned.from,
            to: planned.to,
            count: planned.slots.len(),
            slots: planned.slots.to_string(),
        })
        .collect();
    let slots_total = moves.iter().map(|planned| planned.count).sum();
    Ok(json(StatusCode::OK, &Plan { moves, slots_total }))
}

/// Moves slots to a group.
#[utoipa::path(
    post, path = "/v1/cluster/moves", tag = "cluster", request_body = MoveRequest,
    responses(
        (status = 202, description = "Begun.", body = OperationView),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such group.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn move_slots(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let asked: MoveRequest = read_body(&parts, body).await?;
    let slots: SlotSet = asked
        .slots
        .parse()
        .map_err(|error: SlotSetError| Problem::bad_request("invalid_request", error.to_string()))?;
    enqueue(&plane, OperationKind::MoveSlots { slots, to: asked.to }, asked.rate_bytes_per_second).await
}

async fn read_body<T: serde::de::DeserializeOwned>(
    parts: &axum::http::request::Parts,
    body: Body,
) -> Result<T, Problem> {
    Query::of(parts).finish()?;
    request::json(parts, body).await
}

async fn enqueue(plane: &ControlPlane, task: OperationKind, rate: Option<u64>) -> Result<Response, Refused> {
    let until = Instant::now() + ADMIN_TIMEOUT;
    let enqueued = plane.store().update(until, |state| state.enqueue(task.clone(), rate, now_ms())).await;
    let (id, found) = enqueued.map_err(store)?;
    begun(plane, id, &found)
}

/// The answer to a request that began an operation.
pub(super) fn begun(plane: &ControlPlane, id: OperationId, found: &Versioned) -> Result<Response, Refused> {
    tracing::info!(operation = id, "operation: asked for");
    plane.wake();
    Ok(accepted(id, &OperationView::find(&found.state, id)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_slots_and_the_keys_of_the_move_under_way() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        let id = state.enqueue(OperationKind::Rebalance {}, None, 1_000).unwrap();
        let view = |state: &ClusterState, now| OperationView::of(&state.operations[&id], state.moving.as_ref(), now);
        assert_eq!((view(&state, 1_000).state, view(&state, 1_000).percent), ("pending", 0.0));

        state.start_operation(id, 2_000).unwrap();
        let operation = state.operations.get_mut(&id).unwrap();
        (operation.slots_done, operation.slots_total, operation.bytes) = (100, 400, 5_000);
        let mut moving = MoveRecord {
            id: 1,
            operation: id,
            from: Some(1),
            to: Some(2),
            slots: SlotSet::range(0, 199),
            step: MoveStep::Copying,
            started_ms: 3_000,
            fencing_ms: 0,
            keys: 50,
            bytes: 5_000,
            keys_estimate: 100,
            pause_ms: 0,
            failure: None,
        };
        let shown = OperationView::of(&state.operations[&id], Some(&moving), 12_000);
        assert_eq!((shown.percent, shown.step, shown.bytes_per_second), (50.0, Some("copying"), 1_000));
        assert_eq!(shown.remaining_seconds, Some(10));
        assert_eq!(shown.started.as_deref(), Some("1970-01-01T00:00:02.000Z"));
        moving.keys = 500;
        assert!(OperationView::of(&state.operations[&id], Some(&moving), 12_000).percent < 100.0, "an estimate");

        state.note_stalled(id, Some("group 2 does not answer")).unwrap();
        assert_eq!(view(&state, 12_000).state, "stalled");
        state.end_operation(id, OperationState::Done, None, 13_000).unwrap();
        let done = view(&state, 99_000);
        assert_eq!((done.state, done.percent, done.remaining_seconds), ("done", 100.0, None));
    }
}
