//! Which group has which slots.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use raftkv_http::{Problem, ProblemBody};
use raftkv_kv::{SLOTS, slot_of};
use serde::Serialize;

use super::answer::{Refused, json};
use super::request::{Query, number};
use crate::control::document::records::GroupId;
use crate::control::document::state::ClusterState;
use crate::control::plane::ControlPlane;

/// All slots.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Slots {
    epoch: u64,
    /// Rising, without gaps.
    ranges: Vec<Range>,
}

/// Slots with one owner, both ends included.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
struct Range {
    first: u16,
    last: u16,
    /// `null` = nobody.
    group: Option<GroupId>,
}

/// One slot.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Slot {
    slot: u16,
    /// `null` = nobody.
    group: Option<GroupId>,
    /// The group that it is being moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    moving_to: Option<GroupId>,
    /// The key that was asked about, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// The owner of every slot; or with `key` the slot of a key and its owner. While the meta group does not answer, by the last
/// map that this router knows.
#[utoipa::path(
    get, path = "/v1/cluster/slots", tag = "cluster",
    params(("key" = Option<String>, Query, description = "A key, percent-encoded.")),
    responses((status = 200, description = "With `key` a `Slot`.", body = Slots))
)]
pub(super) async fn all(State(plane): State<ControlPlane>, request: Request) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    let mut query = Query::of(&parts);
    let key = query.take("key")?;
    query.finish()?;
    let (found, _) = super::look(&plane).await?;
    Ok(match key {
        Some(key) => {
            let slot = one_of(&found.state, slot_of(&key));
            json(StatusCode::OK, &Slot { key: String::from_utf8(key).ok(), ..slot })
        }
        None => json(StatusCode::OK, &Slots { epoch: found.state.epoch, ranges: ranges(&found.state) }),
    })
}

/// The owner of a slot.
#[utoipa::path(
    get, path = "/v1/cluster/slots/{slot}", tag = "cluster", params(("slot" = u16, Path)),
    responses(
        (status = 200, body = Slot),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn one(
    State(plane): State<ControlPlane>,
    Path(slot): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, _) = request.into_parts();
    Query::of(&parts).finish()?;
    let slot: u16 = number(&slot, "a slot")?;
    if slot >= SLOTS {
        let detail = format!("slot {slot} does not exist; the last is {}", SLOTS - 1);
        return Err(Problem::bad_request("invalid_path", detail).into());
    }
    let (found, _) = super::look(&plane).await?;
    Ok(json(StatusCode::OK, &one_of(&found.state, slot)))
}

fn one_of(state: &ClusterState, slot: u16) -> Slot {
    let moving = state.moving.as_ref().filter(|moving| moving.slots.contains(slot));
    let group = state.owner(slot).map(|group| group.id);
    Slot { slot, group, moving_to: moving.and_then(|moving| moving.to).filter(|to| Some(*to) != group), key: None }
}

fn ranges(state: &ClusterState) -> Vec<Range> {
    let owned = state.groups.values().flat_map(|group| {
        let ranges = group.slots.ranges().iter();
        ranges.map(|&(first, last)| Range { first, last, group: Some(group.id) })
    });
    let nobody = state.unowned();
    let nobody = nobody.ranges().iter().map(|&(first, last)| Range { first, last, group: None });
    let mut ranges: Vec<Range> = owned.chain(nobody).collect();
    ranges.sort_by_key(|range| range.first);
    ranges
}

#[cfg(test)]
mod tests {
    use raftkv_kv::SlotSet;

    use super::*;

    #[test]
    fn ranges_cover_every_slot_once() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        let range = |first, last, group| Range { first, last, group };
        assert_eq!(ranges(&state), [range(0, SLOTS - 1, Some(1))]);
        state.groups.get_mut(&1).unwrap().slots = SlotSet::range(10, 20);
        assert_eq!(ranges(&state), [range(0, 9, None), range(10, 20, Some(1)), range(21, SLOTS - 1, None)]);
        assert_eq!((one_of(&state, 15).group, one_of(&state, 9).group), (Some(1), None));
    }
}
