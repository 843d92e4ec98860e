//! `/v1/kv/{key}`: one key.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use hyper::body::Body as _;
use raftkv_backend::{Backend, RequestContext};
use raftkv_kv::{Command, Key};
use serde::Serialize;

use crate::app::App;
use crate::body::read_body;
use crate::conditions::{ReadConditions, Verdict, write_precondition};
use crate::documented::{NativeAbsent, NativeHead, NativeRead, NativeTyped, NativeWrite, Octets};
use crate::negotiate::{Accept, value_of_body, value_response};
use crate::problem::Problem;
use crate::query::Query;
use crate::reply::{CONSISTENCY, CREATE_REVISION, REVISION, consistency_name, json, revision};
use crate::routes::KEY;

/// What a put did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PutResult {
    /// The key's revision from now on; the same as in the ETag.
    revision: u64,
    /// Whether the key did not exist before.
    created: bool,
}

/// What a delete did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeleteResult {
    /// The revision of the deletion.
    revision: u64,
    /// Always true: deleting what is not there is answered with 404.
    existed: bool,
}

/// All methods of the path.
pub(crate) async fn handle<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    let key = app.path_key(&parts, KEY);
    match parts.method {
        Method::GET => get_value(&app, &parts, key?).await,
        Method::HEAD => head_value(&app, &parts, key?).await,
        Method::PUT => put_value(&app, &parts, key?, body).await,
        Method::DELETE => delete_value(&app, &parts, key?).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, PUT, DELETE")),
    }
}

/// Reads a value.
///
/// The form is negotiated by `Accept`; without it a str comes as `text/plain`, bin as `application/octet-stream`, and
/// everything else as JSON, or as MsgPack where JSON would lose something.
#[utoipa::path(
    get, path = "/v1/kv/{key}", tag = "native",
    params(
        ("key" = String, Path, description = "Percent-encoded bytes; slashes may be encoded or not."),
        ("consistency" = Option<String>, Query, description = "`linearizable` (default), `quorum` (assumes nothing about clocks) or `stale`."),
        ("timeout" = Option<String>, Query, description = "Like `500ms`, `2s` or `1m`; a bare number is milliseconds. More than the server grants, a minute by default, is 400."),
        ("If-None-Match" = Option<String>, Header, description = "ETags the client has: 304 when one is current."),
        ("If-Match" = Option<String>, Header, description = "ETags of which the value must have one, or `*`; a weak one never matches: else 412."),
    ),
    responses(
        (status = 200, description = "The value. `ETag` is its revision.", content(
            (String = "text/plain"),
            (serde_json::Value = "application/json"),
            (serde_json::Value = "application/msgpack"),
            (Octets = "application/octet-stream"),
        )),
        (status = 304, description = "The client has it already."),
        NativeRead,
    )
)]
pub(crate) async fn get_value<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = key_context(app, parts)?;
    let conditions = ReadConditions::parse(&parts.headers)?;
    let read = app.read(ctx, key).await?;
    let consistency = HeaderValue::from_static(consistency_name(read.consistency));
    let verdict = conditions.check(read.value.as_ref().map(|entry| entry.revision));
    let Some(entry) = read.value else {
        let problem = match verdict {
            Verdict::Failed => Problem::precondition_failed(0),
            Verdict::Full | Verdict::NotModified => Problem::key_not_found(),
        };
        let mut response = problem.into_native_response();
        response.headers_mut().insert(CONSISTENCY, consistency);
        return Ok(response);
    };
    let mut response = match verdict {
        Verdict::Failed => Problem::precondition_failed(entry.revision).into_native_response(),
        Verdict::NotModified => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        Verdict::Full => {
            let value = entry.value.ok_or_else(|| Problem::internal("a read gave no value"))?;
            value_response(value, &Accept::parse(&parts.headers))?
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONSISTENCY, consistency);
    if verdict == Verdict::Failed {
        return Ok(response);
    }
    let (tag, number) = revision(entry.revision);
    headers.insert(header::ETAG, tag);
    headers.insert(REVISION, number);
    headers.insert(CREATE_REVISION, HeaderValue::from(entry.create_revision));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The headers of a read, without the value.
#[utoipa::path(
    head, path = "/v1/kv/{key}", tag = "native",
    params(("key" = String, Path, description = "As for GET.")),
    responses(
        (status = 200, description = "It exists."),
        (status = 304, description = "The client has it already."),
        NativeHead,
    )
)]
pub(crate) async fn head_value<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    // The server leaves the body out and keeps its length, unless that is zero.
    let mut response = get_value(app, parts, key).await?;
    if response.status() == StatusCode::OK && response.body().is_end_stream() {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    }
    Ok(response)
}

/// Stores a value.
///
/// What the body is depends on `Content-Type`: `text/*` is a str, `application/json` the matching value,
/// `application/msgpack` that value itself, anything else bin; no type, or the one `curl -d` sends, a str where the
/// body is UTF-8 and bin where not. Answers 200 whether the key was created or replaced.
#[utoipa::path(
    put, path = "/v1/kv/{key}", tag = "native",
    params(
        ("key" = String, Path, description = "Percent-encoded bytes; slashes may be encoded or not."),
        ("timeout" = Option<String>, Query, description = "Like `500ms`, `2s` or `1m`; a bare number is milliseconds. More than the server grants, a minute by default, is 400."),
        ("If-Match" = Option<String>, Header, description = "The ETag the key must have, or `*`: it must exist."),
        ("If-None-Match" = Option<String>, Header, description = "Only `*`: the key must not exist."),
        ("Idempotency-Key" = Option<String>, Header, description = "Requests with the same one are applied once."),
    ),
    request_body(content(
        (String = "text/plain"),
        (serde_json::Value = "application/json"),
        (serde_json::Value = "application/msgpack"),
        (Octets = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "Stored, durable on a majority.", body = PutResult),
        NativeWrite,
        NativeTyped,
    )
)]
pub(crate) async fn put_value<B: Backend>(
    app: &App<B>,
    parts: &Parts,
    key: Key,
    body: Body,
) -> Result<Response, Problem> {
    let ctx = key_context(app, parts)?;
    let precondition = write_precondition(&parts.headers)?;
    let value = value_of_body(&parts.headers, read_body(body).await?, app.limits())?;
    let command = Command::Set { key, value, expires_at_ms: 0 };
    let done = app.write(ctx, parts, command, precondition).await?;
    let mut response = json(StatusCode::OK, &PutResult { revision: done.revision, created: done.flag });
    let (tag, number) = revision(done.revision);
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(REVISION, number);
    Ok(done.mark(response))
}

/// Removes a key.
#[utoipa::path(
    delete, path = "/v1/kv/{key}", tag = "native",
    params(
        ("key" = String, Path, description = "Percent-encoded bytes; slashes may be encoded or not."),
        ("timeout" = Option<String>, Query, description = "Like `500ms`, `2s` or `1m`; a bare number is milliseconds. More than the server grants, a minute by default, is 400."),
        ("If-Match" = Option<String>, Header, description = "The ETag the key must have."),
        ("Idempotency-Key" = Option<String>, Header, description = "Requests with the same one are applied once."),
    ),
    responses(
        (status = 200, description = "Removed.", body = DeleteResult),
        NativeWrite,
        NativeAbsent,
    )
)]
pub(crate) async fn delete_value<B: Backend>(app: &App<B>, parts: &Parts, key: Key) -> Result<Response, Problem> {
    let ctx = key_context(app, parts)?;
    let precondition = write_precondition(&parts.headers)?;
    let done = app.write(ctx, parts, Command::Delete { key }, precondition).await?;
    if done.flag {
        let mut response = json(StatusCode::OK, &DeleteResult { revision: done.revision, existed: true });
        response.headers_mut().insert(REVISION, HeaderValue::from(done.revision));
        return Ok(done.mark(response));
    }
    Err(Problem { replayed: done.replayed, ..Problem::key_not_found() })
}

fn key_context<B: Backend>(app: &App<B>, parts: &Parts) -> Result<RequestContext, Problem> {
    let mut query = Query::of(parts)?;
    let ctx = app.context(parts, &mut query)?;
    query.finish()?;
    Ok(ctx)
}
