//! [`Front`]: what answers requests.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::MethodRouter;
use raftkv_backend::Backend;
use tower::Service;

use crate::app::App;
use crate::compat::arima::{self, RaftStats};
use crate::compat::{keva, raftkv, ravel};
use crate::native::{batch, key, list};
use crate::routes::{Handler, PATHS, Route};
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
            // A path that ends where the key should begin has an empty key, which is answered as such.
            let Some(route) = Route::of_key(request.uri().path()) else { return others.answer(request) };
            match route.handler {
                Handler::KevaKey => Box::pin(app.answer(route.surface, keva::handle, request)),
                Handler::ArimaKey => Box::pin(app.answer(route.surface, arima::handle, request)),
                _ => Box::pin(app.answer(route.surface, key::handle, request)),
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

/// The routes of all paths that do not end in a key.
fn routes<B: Backend + RaftStats>(app: &Arc<App<B>>) -> Router {
    let routes = PATHS.iter().fold(Router::new(), |routes, route| routes.route(route.path, endpoint(app, route)));
    routes.fallback_service(app.endpoint(Surface::Native, operations::unknown))
}

fn endpoint<B: Backend + RaftStats>(app: &Arc<App<B>>, route: &Route) -> MethodRouter {
    let surface = route.surface;
    match route.handler {
        Handler::Key => app.endpoint(surface, key::handle),
        Handler::KevaKey => app.endpoint(surface, keva::handle),
        Handler::ArimaKey => app.endpoint(surface, arima::handle),
        Handler::List => app.endpoint(surface, list::handle),
        Handler::Batch => app.endpoint(surface, batch::handle),
        Handler::RaftKvInsert => app.endpoint(surface, raftkv::insert),
        Handler::RaftKvGet => app.endpoint(surface, raftkv::get),
        Handler::ArimaStore => app.endpoint(surface, arima::store),
        Handler::ArimaJoin => app.endpoint(surface, arima::join),
        Handler::ArimaRemove => app.endpoint(surface, arima::remove),
        Handler::ArimaStats => app.endpoint(surface, arima::stats),
        Handler::RavelPut => app.endpoint(surface, ravel::put),
        Handler::RavelGet => app.endpoint(surface, ravel::get),
        Handler::RavelDelete => app.endpoint(surface, ravel::delete),
        Handler::Health => app.endpoint(surface, operations::healthz),
        Handler::Ready => app.endpoint(surface, operations::readyz),
        Handler::Metrics => app.endpoint(surface, operations::metrics),
        Handler::OpenApi => app.endpoint(surface, operations::openapi),
    }
}
