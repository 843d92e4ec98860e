//! Arima: `/store` and `/raft`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use raftkv_backend::{Backend, BackendError, RequestContext};
use raftkv_kv::{Command, Key, Value};
use serde::Serialize;

use crate::app::App;
use crate::body::read_body;
use crate::documented::{ArimaRead, ArimaWrite, ErrorBody};
use crate::fields::{json_fields, key, malformed, text, value};
use crate::negotiate::require_json;
use crate::problem::Problem;
use crate::reply::{JSON, json, reply};
use crate::routes::ARIMA_KEY;

/// The figures of `/raft/stats`, which a backend gives beside what every surface needs.
pub trait RaftStats {
    /// The state of consensus: names and values as text.
    fn raft_stats(
        &self,
        ctx: RequestContext,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, BackendError>> + Send;
}

#[derive(Serialize)]
struct Reply<'a, T> {
    message: &'a str,
    data: T,
}

/// A value for a key.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaStore)]
#[allow(dead_code)] // Describes the body, which is read field by field so that values stay as they are.
pub(crate) struct StoreRequest {
    /// The key.
    #[schema(min_length = 1)]
    key: String,
    /// Any value.
    value: serde_json::Value,
}

/// Of a key.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaEntry)]
#[allow(dead_code)] // Describes the body, which is written by hand because the value is already encoded.
pub(crate) struct EntryReply {
    /// What was done.
    message: String,
    data: EntryData,
}

/// A key with its value.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaEntryData)]
#[allow(dead_code)] // Describes the body.
pub(crate) struct EntryData {
    /// The key.
    key: String,
    /// Its value; null after a removal.
    #[schema(required = true)]
    value: Option<serde_json::Value>,
}

/// A node to add.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaJoin)]
#[allow(dead_code)] // Describes the body.
pub(crate) struct JoinRequest {
    /// Its name.
    #[schema(min_length = 1)]
    node_id: String,
    /// `host:port` of its raft listener, as the other nodes reach it.
    #[schema(pattern = "^[A-Za-z0-9.-]+:[1-9][0-9]{0,3}$")]
    raft_address: String,
}

/// A node to remove.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaRemove)]
#[allow(dead_code)] // Describes the body.
pub(crate) struct RemoveRequest {
    /// Its name.
    #[schema(min_length = 1)]
    node_id: String,
}

/// Of the group.
#[derive(utoipa::ToSchema)]
#[schema(as = ArimaStats)]
#[allow(dead_code)] // Describes the body.
pub(crate) struct StatsReply {
    /// What was done.
    message: String,
    /// The state of consensus, names and values as text.
    data: BTreeMap<String, String>,
}

/// `/store`.
pub(crate) async fn store<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => store_key(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/store/{key}`.
pub(crate) async fn handle<B: Backend>(app: Arc<App<B>>, parts: Parts, _body: Body) -> Result<Response, Problem> {
    let key = app.path_key(&parts, ARIMA_KEY);
    match parts.method {
        Method::GET | Method::HEAD => fetch_key(&app, &parts, key?).await,
        Method::DELETE => remove_key(&app, &parts, key?).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, DELETE")),
    }
}

/// `/raft/join`.
pub(crate) async fn join<B: Backend + RaftStats>(
    app: Arc<App<B>>,
    parts: Parts,
    body: Body,
) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => raft_join(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/raft/remove`.
pub(crate) async fn remove<B: Backend + RaftStats>(
    app: Arc<App<B>>,
    parts: Parts,
    body: Body,
) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => raft_remove(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/raft/stats`.
pub(crate) async fn stats<B: Backend + RaftStats>(
    app: Arc<App<B>>,
    parts: Parts,
    _body: Body,
) -> Result<Response, Problem> {
    match parts.method {
        Method::GET | Method::HEAD => raft_stats(&app, &parts).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}

/// Arima: stores a JSON value under a key, `{"key": …, "value": …}`.
#[utoipa::path(
    post, path = "/store", tag = "Arima",
    request_body(content = StoreRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "Stored.", body = EntryReply),
        ArimaWrite,
        (status = 422, description = "The request cannot be used: nothing was done.", body = ErrorBody),
    )
)]
pub(crate) async fn store_key<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    require_json(&parts.headers)?;
    let limits = app.limits();
    let [key_field, new] = json_fields(&read_body(body).await?, ["key", "value"], limits)?;
    let key = key(key_field, limits)?;
    let new = value(new.ok_or_else(|| malformed("the field value is missing"))?, limits)?;
    let command = Command::Set { key: key.clone(), value: new.clone(), expires_at_ms: 0 };
    let done = app.write(ctx, parts, command, None).await?;
    Ok(done.mark(entry_reply("success persisting data", &key, Some(&new))?))
}

/// Arima: reads a key.
#[utoipa::path(
    get, path = "/store/{key}", tag = "Arima",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses(
        (status = 200, description = "There it is.", body = EntryReply),
        ArimaRead,
        (status = 422, description = "No such key, or its value has no JSON form.", body = ErrorBody),
    )
)]
pub(crate) async fn fetch_key<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let entry = app.read(ctx, key.clone()).await?.value.ok_or_else(Problem::key_not_found)?;
    let value = entry.value.ok_or_else(|| Problem::internal("a read gave no value"))?;
    entry_reply("success fetching data", &key, Some(&value))
}

/// Arima: removes a key, or finds that it is not there.
#[utoipa::path(
    delete, path = "/store/{key}", tag = "Arima",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses(
        (status = 200, description = "It is not there any more; `value` is null.", body = EntryReply),
        ArimaWrite,
        (status = 422, description = "The request cannot be used: nothing was done.", body = ErrorBody),
    )
)]
pub(crate) async fn remove_key<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let done = app.write(ctx, parts, Command::Delete { key: key.clone() }, None).await?;
    Ok(done.mark(entry_reply("success removing data", &key, None)?))
}

/// Arima: adds a node, `{"node_id": …, "raft_address": …}`.
#[utoipa::path(
    post, path = "/raft/join", tag = "Arima",
    request_body(content = JoinRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The state after it.", body = StatsReply),
        ArimaWrite,
        (status = 422, description = "The request cannot be used, or is refused: nothing was done.", body = ErrorBody),
    )
)]
pub(crate) async fn raft_join<B: Backend + RaftStats>(
    app: &App<B>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    let ctx = app.patient_context(parts)?;
    require_json(&parts.headers)?;
    let body = read_body(body).await?;
    let [node_id, raft_address] = json_fields(&body, ["node_id", "raft_address"], app.limits())?;
    let name = not_empty(text(&node_id, "node_id")?, "node_id")?;
    let address = host_and_port(text(&raft_address, "raft_address")?)?;
    let message = app.backend.join(ctx, name, address).await?;
    let stats = app.backend.raft_stats(ctx).await.unwrap_or_default();
    Ok(json(StatusCode::OK, &Reply { message: &message, data: stats }))
}

/// Arima: removes a node, `{"node_id": …}`.
#[utoipa::path(
    post, path = "/raft/remove", tag = "Arima",
    request_body(content = RemoveRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The state after it.", body = StatsReply),
        ArimaWrite,
        (status = 422, description = "The request cannot be used, or is refused: nothing was done.", body = ErrorBody),
    )
)]
pub(crate) async fn raft_remove<B: Backend + RaftStats>(
    app: &App<B>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Problem> {
    let ctx = app.patient_context(parts)?;
    require_json(&parts.headers)?;
    let [node_id] = json_fields(&read_body(body).await?, ["node_id"], app.limits())?;
    let name = not_empty(text(&node_id, "node_id")?, "node_id")?;
    let message = app.backend.remove(ctx, name).await?;
    let stats = app.backend.raft_stats(ctx).await.unwrap_or_default();
    Ok(json(StatusCode::OK, &Reply { message: &message, data: stats }))
}

/// Arima: the state of consensus, names and values as text.
#[utoipa::path(
    get, path = "/raft/stats", tag = "Arima",
    responses(
        (status = 200, description = "The state.", body = StatsReply),
        ArimaRead,
        (status = 422, description = "The request cannot be used.", body = ErrorBody),
    )
)]
pub(crate) async fn raft_stats<B: Backend + RaftStats>(app: &App<B>, parts: &Parts) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let stats = app.backend.raft_stats(ctx).await?;
    Ok(json(StatusCode::OK, &Reply { message: "Here is the raft status", data: stats }))
}

fn not_empty(text: &str, name: &str) -> Result<String, Problem> {
    if text.is_empty() { Err(malformed(format!("the field {name} is empty"))) } else { Ok(text.to_owned()) }
}

/// An address that can be one: whether a node answers there is another question.
fn host_and_port(text: &str) -> Result<String, Problem> {
    let port = text.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
    let port = port.filter(|authority| !authority.host().is_empty()).and_then(|authority| authority.port_u16());
    match port {
        None | Some(0) => Err(malformed("the field raft_address is no host:port")),
        Some(_) => Ok(text.to_owned()),
    }
}

/// `{message, data: {key, value}}`, with the value as it is.
fn entry_reply(message: &str, key: &Key, value: Option<&Value>) -> Result<Response, Problem> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"message\":");
    raftkv_kv::write_json_string(message, &mut out);
    out.extend_from_slice(b",\"data\":{\"key\":");
    raftkv_kv::write_json_string(&String::from_utf8_lossy(key.as_bytes()), &mut out);
    out.extend_from_slice(b",\"value\":");
    match value {
        None => out.extend_from_slice(b"null"),
        Some(value) if value.write_json(&mut out) => {}
        Some(_) => {
            return Err(Problem::not_acceptable("this value has no JSON form; read it at /v1/kv"));
        }
    }
    out.extend_from_slice(b"}}");
    Ok(reply(StatusCode::OK, JSON, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["node4:8088", "10.0.0.4:1", "[::1]:65535", "a.b-c.example:8088"] {
            assert_eq!(host_and_port(good).unwrap(), good);
        }
        for bad in
            ["", "x", "x:", ":1", "x:0", "x:65536", "x:1/path", "http://x:1", "u@x:1", "\u{e9}:99999", "a b:1", "::1"]
        {
            assert_eq!(host_and_port(bad).unwrap_err().code, "malformed_request", "{bad}");
        }
    }
}
