//! Keva: `/v1/storage/key/{key}`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use raftkv_backend::Backend;
use raftkv_kv::{Command, Key};
use serde::Serialize;

use crate::app::App;
use crate::body::read_body;
use crate::documented::{KevaRead, KevaWrite, Octets};
use crate::negotiate::{Accept, text_or_binary, value_response};
use crate::problem::Problem;
use crate::reply::json;
use crate::routes::KEVA_KEY;

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Done {
    /// Always the text `true`.
    done: &'static str,
}

const DONE: Done = Done { done: "true" };

/// All methods of the path.
pub(crate) async fn handle<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    let key = app.path_key(&parts, KEVA_KEY);
    match parts.method {
        Method::GET | Method::HEAD => get_key(&app, &parts, key?).await,
        Method::POST => post_key(&app, &parts, key?, body).await,
        Method::DELETE => delete_key(&app, &parts, key?).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, POST, DELETE")),
    }
}

/// Keva: reads a key. Text and bytes come raw, other values as JSON.
#[utoipa::path(
    get, path = "/v1/storage/key/{key}", tag = "Keva",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses(
        (status = 200, description = "The value.", content(
            (String = "text/plain"),
            (serde_json::Value = "application/json"),
            (serde_json::Value = "application/msgpack"),
            (Octets = "application/octet-stream"),
        )),
        (status = 204, description = "No such key."),
        KevaRead,
    )
)]
pub(crate) async fn get_key<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let Some(entry) = app.read(ctx, key).await?.value else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    let value = entry.value.ok_or_else(|| Problem::internal("a read gave no value"))?;
    value_response(value, &Accept::Anything)
}

/// Keva: stores the body, as text where it is UTF-8 and as bytes where not.
#[utoipa::path(
    post, path = "/v1/storage/key/{key}", tag = "Keva",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    request_body(content = String, content_type = "text/plain"),
    responses((status = 200, description = "Stored.", body = Done), KevaWrite)
)]
pub(crate) async fn post_key<B: Backend>(
    app: &App<B>,
    parts: &Parts,
    key: Key,
    body: Body,
) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let value = text_or_binary(&read_body(body).await?, app.limits())?;
    let done = app.write(ctx, parts, Command::Set { key, value, expires_at_ms: 0 }, None).await?;
    Ok(done.mark(json(StatusCode::OK, &DONE)))
}

/// Keva: removes a key, or finds that it is not there.
#[utoipa::path(
    delete, path = "/v1/storage/key/{key}", tag = "Keva",
    params(("key" = String, Path, description = "The key, percent-encoded.")),
    responses((status = 200, description = "It is not there any more.", body = Done), KevaWrite)
)]
pub(crate) async fn delete_key<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = app.plain_context(parts)?;
    let done = app.write(ctx, parts, Command::Delete { key }, None).await?;
    Ok(done.mark(json(StatusCode::OK, &DONE)))
}
