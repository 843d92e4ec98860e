//! RaftKV: `POST /insert-val` and `GET /get-val`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use raftkv_backend::Backend;
use raftkv_kv::{Command, Key, Kind, Value};

use crate::app::App;
use crate::body::read_body;
use crate::documented::{Octets, TextRead, TextWrite};
use crate::fields::{Unknown, envelope_limits, fields, key, malformed, text, value};
use crate::negotiate::{Accept, is_msgpack, media_type, value_response};
use crate::problem::Problem;
use crate::query::Query;
use crate::reply::{TEXT, reply};

/// A change.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // Describes the body, which is read field by field so that values stay as they are.
pub(crate) struct InsertRequest {
    /// What to do.
    op: InsertOp,
    /// The key, as str or bin.
    #[schema(min_length = 1)]
    key: String,
    /// What to store, any value.
    value: Option<serde_json::Value>,
}

/// What a change does.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
#[allow(dead_code)]
pub(crate) enum InsertOp {
    /// Stores `value`.
    Set,
    /// Removes the key.
    Delete,
}

/// `/insert-val`.
pub(crate) async fn insert<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => insert_val(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// `/get-val`.
pub(crate) async fn get<B: Backend>(app: Arc<App<B>>, parts: Parts, _body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::GET | Method::HEAD => get_val(&app, &parts).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}

/// RaftKV: sets or deletes a key.
///
/// The body is a MsgPack map: `op` (`SET` or `DELETE`), `key` (str or bin) and, for `SET`, `value` (any value).
#[utoipa::path(
    post, path = "/insert-val", tag = "RaftKV",
    request_body(content = InsertRequest, content_type = "application/msgpack"),
    responses((status = 200, description = "`ok`", body = String, content_type = "text/plain"), TextWrite)
)]
pub(crate) async fn insert_val<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    // Old clients send no type, or the one their library sends unasked.
    match media_type(&parts.headers)?.as_deref() {
        None | Some("application/octet-stream" | "application/x-www-form-urlencoded") => {}
        Some(name) if is_msgpack(name) => {}
        Some(name) => {
            let detail = format!("{name} is not taken here; send application/msgpack");
            return Err(Problem::unsupported_media_type(detail));
        }
    }
    let limits = app.limits();
    let message = Value::from_msgpack(read_body(body).await?, &envelope_limits(limits))?;
    let [op, key_field, value_field] = fields(&message, ["op", "key", "value"], Unknown::Ignore)?;
    let op = text(&op, "op")?;
    let key = key(key_field, limits)?;
    let command = match op {
        "SET" => {
            let new = value_field.ok_or_else(|| malformed("the field value is missing"))?;
            Command::Set { key, value: value(new, limits)?, expires_at_ms: 0 }
        }
        "DELETE" => Command::Delete { key },
        _ => {
            let detail = format!("unknown op {op:.64?}; there are SET and DELETE");
            return Err(Problem::bad_request("unknown_op", detail));
        }
    };
    let done = app.write(ctx, parts, command, None).await?;
    Ok(done.mark(reply(StatusCode::OK, TEXT, "ok")))
}

/// RaftKV: reads a key.
///
/// A str comes raw as `text/plain`, another value in the form that `Accept` asks for.
#[utoipa::path(
    get, path = "/get-val", tag = "RaftKV",
    params(("key" = String, Query, description = "The key, percent-encoded.")),
    responses(
        (status = 200, description = "The value.", content(
            (String = "text/plain"),
            (serde_json::Value = "application/json"),
            (serde_json::Value = "application/msgpack"),
            (Octets = "application/octet-stream"),
        )),
        TextRead,
    )
)]
pub(crate) async fn get_val<B: Backend>(app: &App<B>, parts: &Parts) -> Result<Response, Problem> {
    let mut query = Query::of(parts)?;
    let ctx = app.context(parts, &mut query)?;
    let key = query.take("key")?.ok_or_else(|| malformed("the parameter key is missing"))?;
    let key = Key::new(key, app.limits())?;
    let entry = app.read(ctx, key).await?.value.ok_or_else(Problem::key_not_found)?;
    let value = entry.value.ok_or_else(|| Problem::internal("a read gave no value"))?;
    let accept = match value.kind() {
        Kind::Str => Accept::Anything,
        _ => Accept::parse(&parts.headers),
    };
    value_response(value, &accept)
}
