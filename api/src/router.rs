//! [`router`]: which path leads to which handler.

use std::sync::Arc;

use axum::Router;

use crate::app::App;
use crate::compat::{arima, keva, raftkv, ravel};
use crate::native::{batch, key, list};
use crate::surface::Surface;
use crate::{ApiConfig, Backend, operations};

/// All surfaces over `backend`.
///
/// The router decides what a request means; how long and how large one may be is decided by [`serve`](crate::serve).
/// Metrics are recorded with the recorder installed when a kind of request is first met: install it before serving.
pub fn router<B: Backend>(backend: B, config: ApiConfig) -> Router {
    let app = Arc::new(App::new(backend, config));
    let native = Surface::Native;
    // A path that ends where the key should begin has an empty key, which is answered as such.
    Router::new()
        .route("/v1/kv", app.endpoint(native, list::handle))
        .route("/v1/kv/", app.endpoint(native, key::handle))
        .route("/v1/kv/{*key}", app.endpoint(native, key::handle))
        .route("/v1/batch", app.endpoint(native, batch::handle))
        .route("/insert-val", app.endpoint(Surface::RaftKv, raftkv::insert))
        .route("/get-val", app.endpoint(Surface::RaftKv, raftkv::get))
        .route("/v1/storage/key/", app.endpoint(Surface::Keva, keva::handle))
        .route("/v1/storage/key/{*key}", app.endpoint(Surface::Keva, keva::handle))
        .route("/store", app.endpoint(Surface::Arima, arima::store))
        .route("/store/", app.endpoint(Surface::Arima, arima::handle))
        .route("/store/{*key}", app.endpoint(Surface::Arima, arima::handle))
        .route("/raft/join", app.endpoint(Surface::Arima, arima::join))
        .route("/raft/remove", app.endpoint(Surface::Arima, arima::remove))
        .route("/raft/stats", app.endpoint(Surface::Arima, arima::stats))
        .route("/put", app.endpoint(Surface::Ravel, ravel::put))
        .route("/get", app.endpoint(Surface::Ravel, ravel::get))
        .route("/delete", app.endpoint(Surface::Ravel, ravel::delete))
        .route("/healthz", app.endpoint(Surface::Operations, operations::healthz))
        .route("/livez", app.endpoint(Surface::Operations, operations::healthz))
        .route("/readyz", app.endpoint(Surface::Operations, operations::readyz))
        .route("/metrics", app.endpoint(Surface::Operations, operations::metrics))
        .route("/openapi.json", app.endpoint(Surface::Operations, operations::openapi))
        .fallback_service(app.endpoint(native, operations::unknown))
}
