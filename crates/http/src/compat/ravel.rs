//! Ravel: `POST /put`, `/get` and `/delete`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use raftkv_backend::Backend;
use raftkv_kv::Command;
use serde::Serialize;

use crate::app::App;
use crate::body::read_body;
use crate::documented::{RavelRead, RavelWrite};
use crate::fields::{json_fields, key, malformed, value};
use crate::negotiate::require_json;
use crate::problem::Problem;
use crate::reply::{JSON, json, reply};

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Message {
    /// Always `ok`.
    msg: &'static str,
}

const OK: Message = Message { msg: "ok" };

/// A value for a key.
#[derive(utoipa::ToSchema)]
#[schema(as = RavelPut)]
#[allow(dead_code)] // Describes the body, which is read field by field so that values stay as they are.
pub(crate) struct PutRequest {
    /// The key.
    #[schema(min_length = 1)]
    key: String,
    /// Any value. Its other name is `value`; one of the two is there.
    val: Option<serde_json::Value>,
    /// The same as `val`.
    value: Option<serde_json::Value>,
}

/// A key.
#[derive(utoipa::ToSchema)]
#[schema(as = RavelKey)]
#[allow(dead_code)] // Describes the body.
pub(crate) struct KeyRequest {
    /// The key.
    #[schema(min_length = 1)]
    key: String,
}

/// A key with its value.
#[derive(utoipa::ToSchema)]
#[schema(as = RavelValue)]
#[allow(dead_code)] // Describes the body, which is written by hand because the value is already encoded.
pub(crate) struct KeyAndValue {
    /// The key.
    key: String,
    /// Its value.
    val: serde_json::Value,
}

/// `/put`.
pub(crate) async fn put<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    require_post(&parts)?;
    put_key(&app, &parts, body).await
}

/// `/get`.
pub(crate) async fn get<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    require_post(&parts)?;
    get_key(&app, &parts, body).await
}

/// `/delete`.
pub(crate) async fn delete<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    require_post(&parts)?;
    delete_key(&app, &parts, body).await
}

fn require_post(parts: &Parts) -> Result<(), Problem> {
    if parts.method == Method::POST { Ok(()) } else { Err(Problem::method_not_allowed("POST")) }
}

/// Ravel: stores a JSON value, `{"key": …, "val": …}` (or `value`). Its type is kept.
#[utoipa::path(
    post, path = "/put", tag = "Ravel",
    request_body(content = PutRequest, content_type = "application/json"),
    responses((status = 200, description = "Stored.", body = Message), RavelWrite)
)]
pub(crate) async fn put_key<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    require_json(&parts.headers)?;
    let limits = app.limits();
    let [key_field, val, long] = json_fields(&read_body(body).await?, ["key", "val", "value"], limits)?;
    let key = key(key_field, limits)?;
    let new = match (val, long) {
        (Some(new), None) | (None, Some(new)) => value(new, limits)?,
        (None, None) => return Err(malformed("the field val is missing")),
        (Some(_), Some(_)) => return Err(malformed("both val and value are given")),
    };
    let done = app.write(ctx, parts, Command::Set { key, value: new, expires_at_ms: 0 }, None).await?;
    Ok(done.mark(json(StatusCode::OK, &OK)))
}

/// Ravel: reads a key, `{"key": …}`.
#[utoipa::path(
    post, path = "/get", tag = "Ravel",
    request_body(content = KeyRequest, content_type = "application/json"),
    responses((status = 200, description = "There it is.", body = KeyAndValue), RavelRead)
)]
pub(crate) async fn get_key<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    require_json(&parts.headers)?;
    let [key_field] = json_fields(&read_body(body).await?, ["key"], app.limits())?;
    let key = key(key_field, app.limits())?;
    let entry = app.read(ctx, key.clone()).await?.value.ok_or_else(Problem::key_not_found)?;
    let value = entry.value.ok_or_else(|| Problem::internal("a read gave no value"))?;
    let mut out = Vec::with_capacity(64 + value.as_msgpack().len());
    out.extend_from_slice(b"{\"key\":");
    raftkv_kv::write_json_string(&String::from_utf8_lossy(key.as_bytes()), &mut out);
    out.extend_from_slice(b",\"val\":");
    if !value.write_json(&mut out) {
        return Err(Problem::not_acceptable("this value has no JSON form; read it at /v1/kv"));
    }
    out.push(b'}');
    Ok(reply(StatusCode::OK, JSON, out))
}

/// Ravel: removes a key, `{"key": …}`, or finds that it is not there.
#[utoipa::path(
    post, path = "/delete", tag = "Ravel",
    request_body(content = KeyRequest, content_type = "application/json"),
    responses((status = 200, description = "It is not there any more.", body = Message), RavelWrite)
)]
pub(crate) async fn delete_key<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    require_json(&parts.headers)?;
    let [key_field] = json_fields(&read_body(body).await?, ["key"], app.limits())?;
    let key = key(key_field, app.limits())?;
    let done = app.write(ctx, parts, Command::Delete { key }, None).await?;
    Ok(done.mark(json(StatusCode::OK, &OK)))
}
