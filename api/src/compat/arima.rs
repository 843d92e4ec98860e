//! Arima: `/store` and `/raft`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use raftkv_kv::{Command, Key, Value};
use serde::Serialize;

use crate::Backend;
use crate::app::App;
use crate::body::read_body;
use crate::fields::{json_fields, key, malformed, text, value};
use crate::negotiate::require_json;
use crate::problem::Problem;
use crate::reply::{JSON, json, reply};

/// Where the keys are.
pub(crate) const PREFIX: &str = "/store/";

#[derive(Serialize)]
struct Reply<'a, T> {
    message: &'a str,
    data: T,
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
    let key = app.path_key(&parts, PREFIX);
    match parts.method {
        Method::GET | Method::HEAD => fetch_key(&app, &parts, key?).await,
        Method::DELETE => remove_key(&app, &parts, key?).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, DELETE")),
    }
}

/// `/raft/join`.
pub(crate) async fn join<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => raft_join(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/raft/remove`.
pub(crate) async fn remove<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => raft_remove(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/raft/stats`.
pub(crate) async fn stats<B: Backend>(app: Arc<App<B>>, parts: Parts, _body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::GET | Method::HEAD => raft_stats(&app, &parts).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}

/// Arima: stores a JSON value under a key, `{"key": …, "value": …}`.
#[utoipa::path(
    post, path = "/store", tag = "Arima",
    request_body(content = String, content_type = "application/json"),
    responses(
        (status = 200, description = "`{message, data: {key, value}}`"),
        (status = 422, description = "`{error}`: the request cannot be used."),
        (status = 503, description = "`{error}`: not now, definitely not applied."),
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
    app.write(ctx, parts, command, None).await?;
    entry_reply("success persisting data", &key, Some(&new))
}

/// Arima: reads a key.
#[utoipa::path(
    get, path = "/store/{key}", tag = "Arima",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses(
        (status = 200, description = "`{message, data: {key, value}}`"),
        (status = 422, description = "`{error}`: no such key, or its value has no JSON form."),
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
    responses((status = 200, description = "`{message, data: {key, value: null}}`"))
)]
pub(crate) async fn remove_key<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    app.write(ctx, parts, Command::Delete { key: key.clone() }, None).await?;
    entry_reply("success removing data", &key, None)
}

/// Arima: adds a node, `{"node_id": …, "raft_address": …}`.
#[utoipa::path(
    post, path = "/raft/join", tag = "Arima",
    request_body(content = String, content_type = "application/json"),
    responses((status = 200, description = "`{message, data}`"), (status = 422, description = "`{error}`"))
)]
pub(crate) async fn raft_join<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.patient_context(parts)?;
    require_json(&parts.headers)?;
    let body = read_body(body).await?;
    let [node_id, raft_address] = json_fields(&body, ["node_id", "raft_address"], app.limits())?;
    let name = not_empty(text(node_id, "node_id")?, "node_id")?;
    let address = not_empty(text(raft_address, "raft_address")?, "raft_address")?;
    let message = app.backend.join(ctx, name, address).await?;
    let stats = app.backend.membership(ctx).await.map(|m| m.stats).unwrap_or_default();
    Ok(json(StatusCode::OK, &Reply { message: &message, data: stats }))
}

/// Arima: removes a node, `{"node_id": …}`.
#[utoipa::path(
    post, path = "/raft/remove", tag = "Arima",
    request_body(content = String, content_type = "application/json"),
    responses((status = 200, description = "`{message, data}`"), (status = 422, description = "`{error}`"))
)]
pub(crate) async fn raft_remove<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.patient_context(parts)?;
    require_json(&parts.headers)?;
    let [node_id] = json_fields(&read_body(body).await?, ["node_id"], app.limits())?;
    let name = not_empty(text(node_id, "node_id")?, "node_id")?;
    let message = app.backend.remove(ctx, name).await?;
    let stats = app.backend.membership(ctx).await.map(|m| m.stats).unwrap_or_default();
    Ok(json(StatusCode::OK, &Reply { message: &message, data: stats }))
}

/// Arima: the state of consensus, names and values as text.
#[utoipa::path(
    get, path = "/raft/stats", tag = "Arima",
    responses((status = 200, description = "`{message, data}`"))
)]
pub(crate) async fn raft_stats<B: Backend>(app: &App<B>, parts: &Parts) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let membership = app.backend.membership(ctx).await?;
    Ok(json(StatusCode::OK, &Reply { message: "Here is the raft status", data: membership.stats }))
}

fn not_empty(text: String, name: &str) -> Result<String, Problem> {
    if text.is_empty() { Err(malformed(format!("the field {name} is empty"))) } else { Ok(text) }
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
