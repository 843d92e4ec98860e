//! The routes of the management API.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use openraft::ServerState;
use openraft::metrics::WaitError;
use raftkv_proto::{EXPIRY_HEADER, Expiry};
use raftkv_runtime::deadlines;
use raftkv_runtime::guard::{Hosts, is_browser};
use raftkv_runtime::scrapes::Scrapes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::browsers::guarded;
use super::route::{CHANGE, JOIN, ORDER, READ, route};
use super::{Json, upgrade};
use crate::lead::leadership::{Leadership, TransferError};
use crate::lead::membership::{Membership, MembershipError, MembershipOutcome};
use crate::life::kill::{Killed, Killer};
use crate::life::lifecycle::Lifecycle;
use crate::node::metrics::metrics_of;
use crate::node::{Group, Node};
use crate::peers::management::{
    BOOTSTRAP_CLAIM_HEADER, CallError, Changed, FORWARDED_HEADER, JOINER_HEADER, Joiner, ManagementClient, Pass,
    Problem, StatusDocument,
};
use crate::raft::types::TypeConfig;
use crate::serve::status::{not_ready, status_document};

/// After this a change answers 202 and goes on.
const CHANGE_DEADLINE: Duration = deadlines::CHANGE;
/// For handing leadership over.
const TRANSFER_DEADLINE: Duration = deadlines::TRANSFER;
/// For the engine to make its state durable.
const SNAPSHOT_DEADLINE: Duration = deadlines::SNAPSHOT;
/// How often it is asked to.
const SNAPSHOT_AGAIN: Duration = Duration::from_millis(100);

/// What the routes need. Cheap to clone.
#[derive(Clone)]
pub struct Management {
    /// This node.
    pub node: Node,
    /// For what it says while it waits.
    pub lifecycle: Arc<Lifecycle>,
    /// For joining and leaving.
    pub membership: Arc<Membership>,
    /// For transfers.
    pub leadership: Leadership,
    /// For the end of this node.
    pub killer: Killer,
    /// For forwarding.
    pub client: ManagementClient,
    /// For metrics.
    pub scrapes: Arc<Scrapes>,
}

/// What `confirm` has to say where all keys go.
const DELETE_ALL_KEYS: &str = "delete-all-keys";

/// All routes: methods, parameters, handler. Browsers may send requests to `hosts`.
pub fn router(management: Management, hosts: Hosts) -> axum::Router {
    let routes = axum::Router::new()
        .route("/join", route(JOIN, &["peerID", "peerAddress"], join))
        .route("/leave", route(CHANGE, &["peerID", "force"], leave))
        .route("/transfer-leader", route(CHANGE, &["to"], transfer))
        .route("/snapshot", route(CHANGE, &[], snapshot))
        .route("/kill", route(ORDER, &["peerID", "confirm"], kill))
        .route("/upgrade", route(READ, &[], upgrade::show))
        .route("/upgrade/hold", route(ORDER, &[], upgrade::hold))
        .route("/upgrade/release", route(ORDER, &[], upgrade::release))
        .route("/upgrade/finish", route(ORDER, &[], upgrade::finish))
        .route("/status", route(READ, &[], status))
        .route("/health", route(READ, &[], ready))
        .route("/readyz", route(READ, &[], ready))
        .route("/livez", route(READ, &[], live))
        .route("/metrics", route(READ, &[], metrics))
        .fallback(not_found)
        .with_state(management);
    guarded(routes, hosts)
}

pub(super) type Answer<T> = Result<T, Problem>;

#[derive(Debug, Deserialize)]
struct JoinQuery {
    #[serde(rename = "peerID")]
    peer_id: Option<String>,
    #[serde(rename = "peerAddress")]
    peer_address: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LeaveQuery {
    #[serde(rename = "peerID")]
    peer_id: Option<String>,
    force: Option<String>,
}

#[derive(Debug, Deserialize)]
struct KillQuery {
    #[serde(rename = "peerID")]
    peer_id: Option<String>,
    confirm: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TransferQuery {
    to: Option<String>,
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

async fn join(
    State(at): State<Management>,
    headers: HeaderMap,
    query: Result<Query<JoinQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let query = parameters(query)?;
    let (name, address) = (required("peerID", query.peer_id)?, required("peerAddress", query.peer_address)?);
    check_address(&address)?;
    let deadline = deadline(&at, &headers, CHANGE_DEADLINE)?;
    let outcome = match is_forwarded(&headers) {
        true => at.membership.join_forwarded(&name, &address, joiner(&headers), deadline).await,
        false => at.membership.join(&name, &address, joiner(&headers), deadline).await,
    };
    Ok(changed(&name, outcome.map_err(|error| error.to_problem())?))
}

async fn leave(
    State(at): State<Management>,
    headers: HeaderMap,
    query: Result<Query<LeaveQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let query = parameters(query)?;
    let name = required("peerID", query.peer_id)?;
    let force = match query.force.as_deref() {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        Some(_) => return Err(bad_request("force is true or false")),
    };
    let deadline = deadline(&at, &headers, CHANGE_DEADLINE)?;
    let outcome = match is_forwarded(&headers) {
        true => at.membership.remove_forwarded(&name, force, deadline).await,
        false => at.membership.remove(&name, force, deadline).await,
    };
    Ok(changed(&name, outcome.map_err(|error| error.to_problem())?))
}

/// Takes a node out of its group and wipes it; without a name, this one. Another one is asked itself.
async fn kill(
    State(at): State<Management>,
    headers: HeaderMap,
    query: Result<Query<KillQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Response> {
    let query = parameters(query)?;
    let confirmed = match query.confirm.as_deref() {
        None => false,
        Some(DELETE_ALL_KEYS) => true,
        Some(_) => return Err(bad_request(format!("confirm is {DELETE_ALL_KEYS}, or not there"))),
    };
    let deadline = deadline(&at, &headers, CHANGE_DEADLINE)?;
    let identity = &at.node.identity;
    let name = query.peer_id.unwrap_or_else(|| identity.name.clone());
    if name != identity.name && name != identity.raft_id.to_string() {
        return forward_kill(&at, &name, confirmed, is_forwarded(&headers), deadline).await;
    }
    let done = at.killer.kill(confirmed, deadline).await;
    let (status, result) = match done.map_err(|error| error.to_problem())? {
        Killed::Done => (
            StatusCode::OK,
            format!("{} is no member any more; its data is wiped at its next start at the latest", identity.name),
        ),
        Killed::Pending => (StatusCode::ACCEPTED, format!("{} is being killed", identity.name)),
    };
    Ok((status, Json(Changed { result, pending: status == StatusCode::ACCEPTED })).into_response())
}

async fn forward_kill(
    at: &Management,
    name: &str,
    confirmed: bool,
    forwarded: bool,
    deadline: Instant,
) -> Answer<Response> {
    let group = running(&at.node)?;
    in_service(&at.node)?;
    let metrics = metrics_of(&group);
    let mut members = metrics.membership_config.nodes();
    let target = members.find(|(id, member)| member.name == name || id.to_string() == name);
    let Some((raft_id, member)) = target.filter(|_| !forwarded) else {
        let detail = format!("no member is called {name:?}; a node that is in no group has to be asked itself");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_member", detail));
    };
    let confirm = confirmed.then_some(DELETE_ALL_KEYS);
    let unreachable = |why: String| {
        let detail =
            format!("{why}; nothing was done. A node that cannot be reached can be removed, but not wiped from here");
        Problem::new(StatusCode::BAD_GATEWAY, "unreachable", detail)
    };
    // A node that stands still must not find the order when it comes back.
    let status = at.client.status(&member.management_address, None).await;
    let status = status.map_err(|error| unreachable(error.to_string()))?;
    if status.node.raft_id != *raft_id {
        let address = &member.management_address;
        return Err(unreachable(format!("{address} belongs to {:?} now", status.node.name)));
    }
    let pass = Pass::until(deadline, &status);
    match at.client.kill(&member.management_address, name, confirm, &pass).await {
        Ok(changed) => {
            let status = if changed.pending { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok((status, Json(changed)).into_response())
        }
        Err(CallError::Refused(problem)) => Err(said_by(&member.name, problem)),
        Err(error @ CallError::NotSent { .. }) => Err(unreachable(error.to_string())),
        Err(error @ CallError::NoAnswer { .. }) => Err(unknown(format!("{} was asked: {error}", member.name))),
    }
}

pub(super) fn said_by(name: &str, mut problem: Problem) -> Problem {
    problem.detail = format!("{name} answers: {}", problem.detail);
    problem
}

pub(super) fn unknown(why: String) -> Problem {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "unknown", format!("outcome unknown: {why}"))
}

async fn transfer(
    State(at): State<Management>,
    headers: HeaderMap,
    query: Result<Query<TransferQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<Changed>> {
    let to = parameters(query)?.to;
    let deadline = deadline(&at, &headers, TRANSFER_DEADLINE)?;
    let group = running(&at.node)?;
    in_service(&at.node)?;
    let before = metrics_of(&group);
    if before.state != ServerState::Leader {
        if is_forwarded(&headers) {
            return Err(no_leader());
        }
        let pass = at.membership.pass_to_leader(&group, deadline).await;
        let (leader, pass) = pass.map_err(|error| error.to_problem())?;
        let asked = at.client.transfer(&leader.management_address, to.as_deref(), &pass).await;
        return asked.map(Json).map_err(|error| match error {
            CallError::Refused(problem) => said_by(&format!("the leader {}", leader.name), problem),
            CallError::NotSent { .. } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", format!("{error}; nothing was done"))
            }
            CallError::NoAnswer { .. } => unknown(format!("the leader {} was asked: {error}", leader.name)),
        });
    }
    if let Some(to) = &to
        && before.membership_config.get_node(&before.id).is_some_and(|me| me.name == *to)
    {
        return Ok(Json(Changed { result: format!("{to} leads already"), pending: false }));
    }
    match at.leadership.transfer(to.as_deref(), deadline.saturating_duration_since(Instant::now())).await {
        Ok(leader) => {
            let name = before
                .membership_config
                .get_node(&leader)
                .map_or_else(|| leader.to_string(), |member| member.name.clone());
            Ok(Json(Changed { result: format!("{name} leads"), pending: false }))
        }
        Err(TransferError::NotLeader) => Err(no_leader()),
        Err(error @ TransferError::UnknownSuccessor(_)) => {
            Err(Problem::new(StatusCode::NOT_FOUND, "no_such_member", error.to_string()))
        }
        Err(error @ TransferError::NoSuccessor) => {
            Err(Problem::new(StatusCode::CONFLICT, "no_successor", error.to_string()))
        }
        Err(error @ TransferError::TimedOut) => {
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "unknown", error.to_string()))
        }
    }
}

/// On this node only: each has its own copy of the data.
async fn snapshot(State(at): State<Management>) -> Answer<Json<Changed>> {
    let group = running(&at.node)?;
    let applied = metrics_of(&group).last_applied;
    let Some(target) = applied else {
        return Ok(Json(Changed { result: "nothing is applied yet".to_owned(), pending: false }));
    };
    make_durable(&group, at.node.engine.connected(), target.index()).await?;
    Ok(Json(Changed { result: format!("the state is durable up to index {}", target.index()), pending: false }))
}

/// Has the engine make its state durable, until that reaches `target`. At once an error when the engine does not answer: then it
/// could only be waited for.
async fn make_durable(group: &Group, mut engine: watch::Receiver<bool>, target: u64) -> Answer<()> {
    let is_durable = |metrics: &openraft::RaftMetrics<TypeConfig>| {
        metrics.snapshot.as_ref().is_some_and(|snapshot| snapshot.index() >= target)
    };
    if is_durable(&metrics_of(group)) {
        return Ok(());
    }
    let asked = async {
        loop {
            // Not heard while the engine is at it already, maybe since before `target` was applied: so it is said again.
            group.raft.trigger().snapshot().await.map_err(|error| stopping(&error))?;
            match group.raft.wait(Some(SNAPSHOT_AGAIN)).metrics(is_durable, "snapshot on request").await {
                Ok(_) => return Ok(()),
                Err(WaitError::Timeout(..)) => {}
                Err(error @ WaitError::ShuttingDown) => return Err(stopping(&error)),
            }
        }
    };
    tokio::select! {
        // First: what is asked of an engine that is gone would wait in it until it is back.
        biased;
        _ = engine.wait_for(|answers| !answers) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "engine_gone",
            "the engine of this node does not answer, so nothing can be made durable: try again when it does",
        )),
        done = tokio::time::timeout(SNAPSHOT_DEADLINE, asked) => done.unwrap_or_else(|_| {
            let detail = format!("the state is not durable up to index {target} after {SNAPSHOT_DEADLINE:?}");
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "unknown", detail))
        }),
    }
}

/// Consensus has stopped, which ends the process elsewhere. Why is for the log: nobody who asks can use it.
fn stopping(error: &dyn std::fmt::Display) -> Problem {
    tracing::debug!(%error, "asked while consensus stops");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this node is stopping")
}

async fn status(State(at): State<Management>, headers: HeaderMap) -> Json<StatusDocument> {
    // The claim is noted, and a browser changes nothing by GET.
    let claimant = headers.get(BOOTSTRAP_CLAIM_HEADER).filter(|_| !is_browser(&headers));
    let claimant = claimant.and_then(|value| value.to_str().ok()?.parse().ok());
    let waiting = at.lifecycle.waiting(claimant);
    Json(status_document(&at.node, &at.lifecycle, waiting).await)
}

async fn ready(State(at): State<Management>) -> Response {
    match not_ready(&at.node, &at.lifecycle) {
        None => Json(Health { status: "ok", detail: None }).into_response(),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "unavailable", detail: Some(why) })).into_response()
        }
    }
}

async fn live() -> Json<Health> {
    Json(Health { status: "ok", detail: None })
}

async fn metrics(State(at): State<Management>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, at.scrapes.text().await).into_response()
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", "there is nothing at this path")
}

fn changed(name: &str, outcome: MembershipOutcome) -> Response {
    let pending = outcome.is_pending();
    let status = if pending { StatusCode::ACCEPTED } else { StatusCode::OK };
    (status, Json(Changed { result: outcome.told_of(name), pending })).into_response()
}

pub(super) fn running(node: &Node) -> Answer<Arc<Group>> {
    node.group()
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "waiting", "this node is in no cluster yet"))
}

/// A node that was removed, or has a twin, changes nothing but itself.
pub(super) fn in_service(node: &Node) -> Answer<()> {
    match node.standing.barred() {
        Some((bar, why)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, bar.code(), why)),
        None => Ok(()),
    }
}

pub(super) fn no_leader() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", "no leader is known")
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

/// Until when a change may begin: `own` time, or less where the request says so.
///
/// Fails when that is over: the request lay here while this process stood still, or was meant for its predecessor.
pub(super) fn deadline(at: &Management, headers: &HeaderMap, own: Duration) -> Answer<Instant> {
    let Some(expiry) = headers.get(EXPIRY_HEADER) else { return Ok(Instant::now() + own) };
    let expiry: Option<Expiry> = expiry.to_str().ok().and_then(|expiry| expiry.parse().ok());
    let expiry = expiry.ok_or_else(|| bad_request(format!("the header {EXPIRY_HEADER} is not INCARNATION:AGE_MS")))?;
    match at.node.life.left_of(&expiry) {
        Some(left) => Ok(Instant::now() + left.min(own)),
        None => Err(MembershipError::Expired.to_problem()),
    }
}

/// Who asks to become a member itself. Operators, and nodes of version 0.1.0, do not say it.
fn joiner(headers: &HeaderMap) -> Option<Joiner> {
    headers.get(JOINER_HEADER).and_then(|value| Joiner::parse(value.to_str().ok()?))
}

pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_HEADER)
}

fn parameters<T>(query: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Answer<T> {
    query.map(|Query(query)| query).map_err(|error| bad_request(error.body_text()))
}

fn required(name: &str, value: Option<String>) -> Answer<String> {
    value.ok_or_else(|| bad_request(format!("the parameter {name} is missing")))
}

fn check_address(address: &str) -> Answer<()> {
    match address.parse() {
        Ok(raftkv_runtime::grpc::Endpoint::Tcp(_)) => match raftkv_runtime::settings::unreachable(address) {
            Some(why) => Err(bad_request(format!("peerAddress {address:?}: {why}"))),
            None => Ok(()),
        },
        _ => Err(bad_request(format!("peerAddress {address:?} is not host:port"))),
    }
}
