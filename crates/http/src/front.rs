//! [`Front`]: what answers requests.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use raftkv_backend::Backend;
use tower::Service;

use crate::app::App;
use crate::compat::arima::{self, RaftStats};
use crate::compat::{keva, raftkv, ravel};
use crate::native::{batch, key, list};
use crate::surface::Surface;
use crate::{ApiConfig, operations};

/// An answer under way.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers requests: says what one means. How long and how large one may be is decided by [`serve`](crate::serve). Cloning
/// shares everything.
///
/// Nearly all requests are for one key, whose path ends in it. These go to their handlers at once, which take the key from
/// the path; everything else is routed by axum. Routed as well, a get took 15,400 instructions from its head to its
/// response and not 10,400: axum decodes and boxes the end of the path, and boxes what answers more than once.
#[derive(Clone)]
pub struct Front(Arc<dyn Fn(Request) -> Answer + Send + Sync>);

impl Front {
    /// All surfaces over `backend`, and what `more` adds to the routes of requests that are not for one key.
    ///
    /// Metrics are recorded with the recorder installed when a kind of request is first met: install it before serving.
    pub fn new<B: Backend + RaftStats>(backend: B, config: ApiConfig, more: impl FnOnce(Router) -> Router) -> Self {
        let app = Arc::new(App::new(backend, config));
        let others = Self::from(more(routes(&app)));
        Self::answering(move |request| {
            let app = Arc::clone(&app);
            let path = request.uri().path();
            // A path that ends where the key should begin has an empty key, which is answered as such.
            if path.starts_with(key::PREFIX) {
                Box::pin(app.answer(Surface::Native, key::handle, request))
            } else if path.starts_with(keva::PREFIX) {
                Box::pin(app.answer(Surface::Keva, keva::handle, request))
            } else if path.starts_with(arima::PREFIX) {
                Box::pin(app.answer(Surface::Arima, arima::handle, request))
            } else {
                others.answer(request)
            }
        })
    }

    /// Answers by this function.
    pub(crate) fn answering(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    /// The answer to one request.
    pub fn answer(&self, request: Request) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        (self.0)(request)
    }
}

impl From<Router> for Front {
    /// Answers as the routes do.
    fn from(routes: Router) -> Self {
        Self::answering(move |request| {
            let answer = routes.clone().call(request);
            Box::pin(async { answer.await.unwrap_or_else(|never| match never {}) })
        })
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

/// Which path leads to which handler, but for paths that end in a key.
fn routes<B: Backend + RaftStats>(app: &Arc<App<B>>) -> Router {
    let native = Surface::Native;
    Router::new()
        .route("/v1/kv", app.endpoint(native, list::handle))
        .route("/v1/batch", app.endpoint(native, batch::handle))
        .route("/insert-val", app.endpoint(Surface::RaftKv, raftkv::insert))
        .route("/get-val", app.endpoint(Surface::RaftKv, raftkv::get))
        .route("/store", app.endpoint(Surface::Arima, arima::store))
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
