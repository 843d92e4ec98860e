//! The browser guard ([`raftkv_runtime::guard`]) at the management port.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use raftkv_runtime::guard::{CrossSite, Hosts, Takes, admit};

use crate::peers::management::Problem;

/// `routes`, all of them, with requests of browsers refused that pages of other sites may have caused. A browser may send requests to
/// `hosts`.
pub(super) fn guarded(routes: Router, hosts: Hosts) -> Router {
    routes.layer(from_fn(move |request: Request, next: Next| {
        let admitted = admit(request.method(), request.headers(), Takes::Requests, &hosts);
        async move {
            match admitted {
                Ok(()) => next.run(request).await,
                Err(why) => refused(why),
            }
        }
    }))
}

/// The answer to a request that is refused.
pub(super) fn refused(why: CrossSite) -> Response {
    metrics::counter!("raftkv_http_cross_site_total").increment(1);
    Problem::from(why).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Method, StatusCode};
    use tower::ServiceExt;

    use super::super::route::{CHANGE, JOIN, ORDER, READ, route};
    use super::*;

    fn routes() -> Router {
        let done = || std::future::ready("done");
        let routes = Router::new()
            .route("/join", route(JOIN, &["peerID"], done))
            .route("/leave", route(CHANGE, &["peerID"], done))
            .route("/kill", route(ORDER, &["peerID"], done))
            .route("/status", route(READ, &[], done));
        guarded(routes, Hosts::new(["node1.example:6000"], &[]))
    }

    async fn send(method: Method, path: &str, headers: &[(&str, &str)]) -> (StatusCode, bool) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status(), response.headers().get("deprecation").is_some_and(|value| value == "true"))
    }

    #[tokio::test]
    async fn programs_change_by_get_as_before_and_are_told_where_that_ends() {
        let host = [("host", "kv.internal.example:6000")];
        for (method, path, status, is_deprecated) in [
            (Method::GET, "/join?peerID=a", 200, false),
            (Method::POST, "/join?peerID=a", 200, false),
            (Method::GET, "/leave?peerID=a", 200, true),
            (Method::GET, "/leave?peer=a", 400, true),
            (Method::POST, "/leave?peerID=a", 200, false),
            (Method::HEAD, "/leave?peerID=a", 405, false),
            (Method::GET, "/kill", 405, false),
            (Method::POST, "/kill", 200, false),
            (Method::GET, "/status", 200, false),
        ] {
            let (answered, deprecated) = send(method.clone(), path, &host).await;
            assert_eq!((answered.as_u16(), deprecated), (status, is_deprecated), "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_browser_changes_nothing_by_get_and_nothing_for_other_sites() {
        let own = [("host", "node1.example:6000"), ("accept-language", "en")];
        let rebound = [("host", "rebound.example:6000"), ("accept-language", "en")];
        let foreign = [("host", "127.0.0.1:6000"), ("origin", "http://evil.example")];
        for (method, path, status) in [
            (Method::GET, "/join?peerID=a", 403),
            (Method::GET, "/leave?peerID=a", 403),
            (Method::GET, "/kill", 405),
            (Method::POST, "/leave?peerID=a", 200),
            (Method::POST, "/kill", 200),
            (Method::GET, "/status", 200),
            (Method::GET, "/nothing", 404),
        ] {
            assert_eq!(send(method.clone(), path, &own).await.0, status, "{method} {path}");
            assert_eq!(send(method.clone(), path, &rebound).await.0, 403, "rebound: {method} {path}");
            assert_eq!(send(method.clone(), path, &foreign).await.0, 403, "of another origin: {method} {path}");
        }
    }
}
