//! Health, metrics and the description of the interface.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use raftkv_backend::Backend;
use utoipa::OpenApi;

use crate::app::App;
use crate::documented::Operations;
use crate::openapi::ApiDoc;
use crate::problem::{Problem, ProblemBody};
use crate::reply::{JSON, TEXT, reply};

const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| {
    // A document made of texts always has a JSON form.
    ApiDoc::openapi().to_json().unwrap_or_default().into()
});

/// Whether the process answers at all. The same at `/livez`.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It is alive.", body = String, content_type = "text/plain"), Operations)
)]
pub(crate) async fn healthz<B: Backend>(_: Arc<App<B>>, parts: Parts, _: Body) -> Result<Response, Problem> {
    require_get(&parts)?;
    Ok(reply(StatusCode::OK, TEXT, "ok\n"))
}

/// Whether requests can be answered now.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 503, description = "Not now.", body = ProblemBody, content_type = "application/problem+json"),
        Operations,
    )
)]
pub(crate) async fn readyz<B: Backend>(app: Arc<App<B>>, parts: Parts, _: Body) -> Result<Response, Problem> {
    require_get(&parts)?;
    app.backend.ready().await?;
    Ok(reply(StatusCode::OK, TEXT, "ready\n"))
}

/// The metrics of the process, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "All metrics.", body = String, content_type = "text/plain"),
        (status = 404, description = "It keeps none.", body = ProblemBody, content_type = "application/problem+json"),
        Operations,
    )
)]
pub(crate) async fn metrics<B: Backend>(app: Arc<App<B>>, parts: Parts, _: Body) -> Result<Response, Problem> {
    require_get(&parts)?;
    match &app.config.metrics {
        Some(scrapes) => Ok(reply(StatusCode::OK, PROMETHEUS, scrapes.text().await)),
        None => Err(Problem::unknown_path()),
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI.", body = serde_json::Value), Operations)
)]
pub(crate) async fn openapi<B: Backend>(_: Arc<App<B>>, parts: Parts, _: Body) -> Result<Response, Problem> {
    require_get(&parts)?;
    Ok(reply(StatusCode::OK, JSON, OPENAPI.clone()))
}

/// Whatever has no path of its own.
pub(crate) async fn unknown<B: Backend>(_: Arc<App<B>>, _: Parts, _: Body) -> Result<Response, Problem> {
    Err(Problem::unknown_path())
}

fn require_get(parts: &Parts) -> Result<(), Problem> {
    match parts.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}
