//! The cluster version, for operators: `GET /upgrade` shows it, `POST /upgrade/hold`, `/release` and `/finish` change it. Asked of any
//! node, answered by the leader.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use openraft::ServerState;
use raftkv_proto::consensus::{Member, UpgradeAction, UpgradeRequest, UpgradeStatus};
use raftkv_runtime::{deadlines, reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Json;
use super::handlers::{Answer, Management, deadline, in_service, is_forwarded, no_leader, running, said_by, unknown};
use crate::node::metrics::metrics_of;
use crate::peers::management::{CallError, Problem};

/// For the engine to have it committed.
const DEADLINE: std::time::Duration = deadlines::TRANSFER;

/// The cluster version of a group, and what is in the way of the next one. Fields are added, never renamed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeDocument {
    /// The cluster version.
    pub version: u32,
    /// The next one; null = it is the highest that the leader speaks.
    pub next: Option<u32>,
    /// It does not rise until it is released.
    pub held: bool,
    /// Why it does not rise; null = nothing is in the way.
    pub blocked: Option<String>,
    /// In how long it rises by itself; null = it does not.
    pub due_in_ms: Option<u64>,
    /// What all routers speak; null = none has said so, or there is none.
    pub routers: Option<Spoken>,
    /// The members.
    pub members: Vec<MemberVersions>,
}

/// A range of cluster versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

/// What a member speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberVersions {
    /// Its NODE_ID.
    pub name: String,
    /// Null: it has not answered lately.
    pub spoken: Option<Spoken>,
}

impl Spoken {
    fn of(min: u32, max: u32) -> Option<Self> {
        (max != 0).then_some(Self { min, max })
    }
}

impl From<UpgradeStatus> for UpgradeDocument {
    fn from(status: UpgradeStatus) -> Self {
        let rises = status.next != 0 && status.blocked.is_empty();
        let member = |Member { name, version_min, version_max, .. }| MemberVersions {
            name,
            spoken: Spoken::of(version_min, version_max),
        };
        Self {
            version: status.version,
            next: (status.next != 0).then_some(status.next),
            held: status.is_held,
            due_in_ms: rises.then_some(status.due_in_ms),
            blocked: Some(status.blocked).filter(|why| !why.is_empty()),
            routers: Spoken::of(status.router_min, status.router_max),
            members: status.members.into_iter().map(member).collect(),
        }
    }
}

pub(super) async fn show(State(at): State<Management>, headers: HeaderMap) -> Answer<Json<UpgradeDocument>> {
    act(at, headers, UpgradeAction::Show).await
}

pub(super) async fn hold(State(at): State<Management>, headers: HeaderMap) -> Answer<Json<UpgradeDocument>> {
    act(at, headers, UpgradeAction::Hold).await
}

pub(super) async fn release(State(at): State<Management>, headers: HeaderMap) -> Answer<Json<UpgradeDocument>> {
    act(at, headers, UpgradeAction::Release).await
}

pub(super) async fn finish(State(at): State<Management>, headers: HeaderMap) -> Answer<Json<UpgradeDocument>> {
    act(at, headers, UpgradeAction::Finish).await
}

/// The path of an action, for the node that passes it on.
fn path(action: UpgradeAction) -> &'static str {
    match action {
        UpgradeAction::Show => "upgrade",
        UpgradeAction::Hold => "upgrade/hold",
        UpgradeAction::Release => "upgrade/release",
        UpgradeAction::Finish => "upgrade/finish",
    }
}

async fn act(at: Management, headers: HeaderMap, action: UpgradeAction) -> Answer<Json<UpgradeDocument>> {
    let deadline = deadline(&at, &headers, DEADLINE)?;
    let group = running(&at.node)?;
    in_service(&at.node)?;
    if metrics_of(&group).state == ServerState::Leader {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = UpgradeRequest {
            action: action.into(),
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        let done = tokio::time::timeout_at(deadline, at.node.engine.upgrade(request)).await;
        let late = || Status::deadline_exceeded("the engine of the leader did not answer in time");
        return done
            .unwrap_or_else(|_| Err(late()))
            .map(|status| Json(status.into()))
            .map_err(|status| problem(&status));
    }
    if is_forwarded(&headers) {
        return Err(no_leader());
    }
    let pass = at.membership.pass_to_leader(&group, deadline).await;
    let (leader, pass) = pass.map_err(|error| error.to_problem())?;
    let asked = match action {
        UpgradeAction::Show => at.client.show(&leader.management_address, path(action), &pass).await,
        _ => at.client.order(&leader.management_address, path(action), &pass).await,
    };
    asked.map(Json).map_err(|error| match error {
        CallError::Refused(problem) => said_by(&format!("the leader {}", leader.name), problem),
        CallError::NotSent { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", format!("{error}; nothing was done"))
        }
        CallError::NoAnswer { .. } => unknown(format!("the leader {} was asked: {error}", leader.name)),
    })
}

/// What the engine's refusal means to an operator.
fn problem(status: &Status) -> Problem {
    let text = reason::call(status, "");
    match status.code() {
        Code::FailedPrecondition => Problem::new(StatusCode::CONFLICT, "version_blocked", text),
        Code::Unimplemented => Problem::new(
            StatusCode::CONFLICT,
            "version_blocked",
            "the engine of the leader is of version 0.1.0, which knows nothing of cluster versions",
        ),
        Code::Unavailable => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", text),
        Code::Internal | Code::DataLoss => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text),
        // Asked for and not answered: the same order again does no harm.
        _ => unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_when_it_rises_or_why_it_does_not() {
        let member = Member { name: "n1".to_owned(), version_min: 1, version_max: 2, ..Member::default() };
        let silent = Member { name: "n2".to_owned(), ..Member::default() };
        let status = UpgradeStatus {
            version: 1,
            next: 2,
            due_in_ms: 7,
            members: vec![member, silent],
            ..UpgradeStatus::default()
        };
        let document = UpgradeDocument::from(status.clone());
        assert_eq!((document.next, document.due_in_ms, document.blocked.as_deref()), (Some(2), Some(7), None));
        assert_eq!(document.members[0].spoken, Some(Spoken { min: 1, max: 2 }));
        assert_eq!((document.members[1].spoken, document.routers), (None, None));
        let blocked = UpgradeDocument::from(UpgradeStatus { blocked: "it is held".to_owned(), ..status.clone() });
        assert_eq!((blocked.due_in_ms, blocked.blocked.as_deref()), (None, Some("it is held")));
        let newest = UpgradeDocument::from(UpgradeStatus { version: 2, next: 0, ..status });
        assert_eq!((newest.next, newest.due_in_ms), (None, None));
    }

    #[test]
    fn a_refusal_of_the_engine_keeps_its_meaning() {
        for (status, expected) in [
            (Status::failed_precondition("it is held"), (409, "version_blocked")),
            (Status::unimplemented(""), (409, "version_blocked")),
            (Status::unavailable("this node does not lead"), (503, "no_leader")),
            (Status::unknown("lost"), (504, "unknown")),
            (Status::deadline_exceeded("late"), (504, "unknown")),
        ] {
            let problem = problem(&status);
            assert_eq!((problem.status, problem.code.as_str()), expected, "{status}");
        }
    }
}
