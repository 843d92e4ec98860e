//! [`Route`]: the table of all paths. Routing, surfaces, forwarding to routers and the browser guard read this table.

use axum::http::Method;

use crate::surface::Surface;

/// Path of lists.
pub(crate) const LIST: &str = "/v1/kv";
/// Path of a key, in front of the key.
pub(crate) const KEY: &str = "/v1/kv/";
/// Path of a key for clients of Keva, in front of the key.
pub(crate) const KEVA_KEY: &str = "/v1/storage/key/";
/// Path of a key for clients of Arima, in front of the key.
pub(crate) const ARIMA_KEY: &str = "/store/";

/// A path, or a path that a key follows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The path. In the routes of [`KEYS`] the key follows.
    pub(crate) path: &'static str,
    pub(crate) surface: Surface,
    pub(crate) span: Span,
    pub(crate) handler: Handler,
    /// The methods that the OpenAPI document describes, in lower case. Empty for an alias of another path.
    pub(crate) described: &'static [&'static str],
    /// Whether a POST changes nothing: Ravel's clients read by POST.
    pub(crate) post_reads: bool,
}

/// The groups that a request may concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// None: the request is about the node.
    Node,
    /// The group of a key, which may be another group than the node's.
    Key,
    /// Several groups.
    Keys,
}

/// The handler of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    Key,
    List,
    Batch,
    RaftKvInsert,
    RaftKvGet,
    KevaKey,
    ArimaKey,
    ArimaStore,
    ArimaJoin,
    ArimaRemove,
    ArimaStats,
    RavelPut,
    RavelGet,
    RavelDelete,
    Health,
    Ready,
    Metrics,
    OpenApi,
}

const fn route(
    path: &'static str,
    surface: Surface,
    span: Span,
    handler: Handler,
    described: &'static [&'static str],
) -> Route {
    Route { path, surface, span, handler, described, post_reads: false }
}

/// Routes whose path ends in a key. Nearly all requests have one of these, so they come first.
pub(crate) const KEYS: [Route; 3] = [
    route(KEY, Surface::Native, Span::Key, Handler::Key, &["get", "head", "put", "delete"]),
    route(KEVA_KEY, Surface::Keva, Span::Key, Handler::KevaKey, &["get", "post", "delete"]),
    route(ARIMA_KEY, Surface::Arima, Span::Key, Handler::ArimaKey, &["get", "delete"]),
];

/// All other routes.
pub(crate) const PATHS: [Route; 16] = [
    route(LIST, Surface::Native, Span::Keys, Handler::List, &["get"]),
    route("/v1/batch", Surface::Native, Span::Keys, Handler::Batch, &["post"]),
    route("/insert-val", Surface::RaftKv, Span::Key, Handler::RaftKvInsert, &["post"]),
    route("/get-val", Surface::RaftKv, Span::Key, Handler::RaftKvGet, &["get"]),
    route("/store", Surface::Arima, Span::Key, Handler::ArimaStore, &["post"]),
    route("/raft/join", Surface::Arima, Span::Node, Handler::ArimaJoin, &["post"]),
    route("/raft/remove", Surface::Arima, Span::Node, Handler::ArimaRemove, &["post"]),
    route("/raft/stats", Surface::Arima, Span::Node, Handler::ArimaStats, &["get"]),
    route("/put", Surface::Ravel, Span::Key, Handler::RavelPut, &["post"]),
    Route { post_reads: true, ..route("/get", Surface::Ravel, Span::Key, Handler::RavelGet, &["post"]) },
    route("/delete", Surface::Ravel, Span::Key, Handler::RavelDelete, &["post"]),
    route("/healthz", Surface::Operations, Span::Node, Handler::Health, &["get"]),
    route("/livez", Surface::Operations, Span::Node, Handler::Health, &[]),
    route("/readyz", Surface::Operations, Span::Node, Handler::Ready, &["get"]),
    route("/metrics", Surface::Operations, Span::Node, Handler::Metrics, &["get"]),
    route("/openapi.json", Surface::Operations, Span::Node, Handler::OpenApi, &["get"]),
];

/// Unknown paths that begin like the paths of a surface get that surface's form of problems.
const FAMILIES: [(&str, Surface); 2] = [("/raft/", Surface::Arima), ("/v1/storage/", Surface::Keva)];

impl Route {
    /// The route of a path that ends in a key.
    pub(crate) fn of_key(path: &str) -> Option<&'static Self> {
        static ROUTES: [Route; KEYS.len()] = KEYS;
        ROUTES.iter().find(|route| path.starts_with(route.path))
    }

    /// The route of a path; `None` for an unknown path.
    pub(crate) fn of(path: &str) -> Option<&'static Self> {
        static ROUTES: [Route; PATHS.len()] = PATHS;
        Self::of_key(path).or_else(|| ROUTES.iter().find(|route| route.path == path))
    }

    /// The surface of a path, known or not, for problems before routing.
    pub(crate) fn surface_of(path: &str) -> Surface {
        match Self::of(path) {
            Some(route) => route.surface,
            None => FAMILIES
                .iter()
                .find(|(prefix, _)| path.starts_with(prefix))
                .map_or(Surface::Native, |(_, surface)| *surface),
        }
    }

    /// Whether a request changes nothing, so that it can be refused until its answer begins.
    pub(crate) fn only_reads(method: &Method, path: &str) -> bool {
        matches!(*method, Method::GET | Method::HEAD) || Self::of(path).is_some_and(|route| route.post_reads)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_path_belongs_to_one_surface() {
        for (path, surface) in [
            ("/v1/kv/store/x", Surface::Native),
            ("/", Surface::Native),
            ("/storehouse", Surface::Native),
            ("/insert-val", Surface::RaftKv),
            ("/v1/storage/key/a", Surface::Keva),
            ("/v1/storage/other", Surface::Keva),
            ("/store", Surface::Arima),
            ("/store/a", Surface::Arima),
            ("/raft/join", Surface::Arima),
            ("/raft/other", Surface::Arima),
            ("/put", Surface::Ravel),
            ("/readyz", Surface::Operations),
        ] {
            assert_eq!(Route::surface_of(path), surface, "{path}");
        }
    }

    #[test]
    fn only_requests_that_other_groups_may_answer_have_a_span() {
        for (path, span) in [
            ("/v1/kv", Span::Keys),
            ("/v1/batch", Span::Keys),
            ("/v1/kv/a/b", Span::Key),
            ("/insert-val", Span::Key),
            ("/get-val", Span::Key),
            ("/v1/storage/key/x", Span::Key),
            ("/store", Span::Key),
            ("/store/x", Span::Key),
            ("/get", Span::Key),
            ("/raft/stats", Span::Node),
            ("/readyz", Span::Node),
            ("/metrics", Span::Node),
        ] {
            assert_eq!(Route::of(path).map(|route| route.span), Some(span), "{path}");
        }
        assert_eq!(Route::of("/v1/kvx"), None);
    }

    #[test]
    fn ravel_reads_by_post() {
        assert!(Route::only_reads(&Method::POST, "/get") && Route::only_reads(&Method::GET, "/v1/kv/a"));
        assert!(!Route::only_reads(&Method::POST, "/put") && !Route::only_reads(&Method::POST, "/other"));
    }

    #[test]
    fn the_openapi_document_describes_every_route_and_no_other() {
        let document = serde_json::to_value(crate::openapi()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let methods = ["get", "head", "put", "post", "delete", "patch", "options"];
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let known = methods.iter().filter(|method| item.get(**method).is_some());
                known.map(|method| (path.clone(), (*method).to_owned()))
            })
            .collect();
        let of = |route: &Route, path: String| {
            route.described.iter().map(move |method| (path.clone(), (*method).to_owned())).collect::<Vec<_>>()
        };
        let keys = KEYS.iter().flat_map(|route| of(route, format!("{}{{key}}", route.path)));
        let table: BTreeSet<_> = keys.chain(PATHS.iter().flat_map(|route| of(route, route.path.to_owned()))).collect();
        assert_eq!(described, table);
    }
}
