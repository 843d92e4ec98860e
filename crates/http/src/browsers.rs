//! [`check`]: the browser guard ([`raftkv_runtime::guard`]) for the HTTP surfaces.

use axum::http::Request;
use raftkv_runtime::guard::{self, Hosts, Takes};

use crate::problem::Problem;
use crate::routes::{KEVA_KEY, KEY};

/// Refuses requests of browsers that pages of other sites may have caused, before anything of them is done.
///
/// Programs pay for one look at the names of their headers.
pub(crate) fn check<B>(request: &Request<B>, hosts: &Hosts) -> Result<(), Problem> {
    let headers = request.headers();
    if !guard::is_browser(headers) {
        return Ok(());
    }
    guard::admit(request.method(), headers, takes(request.uri().path()), hosts).map_err(|why| {
        metrics::counter!("raftkv_http_cross_site_total").increment(1);
        Problem::cross_site(why)
    })
}

/// What the route at this path does with bodies.
fn takes(path: &str) -> Takes {
    match path.starts_with(KEY) || path.starts_with(KEVA_KEY) {
        true => Takes::Values,
        false => Takes::Requests,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::routes::Route;

    fn post(path: &str, host: &str, media_type: &str) -> Result<(), Problem> {
        let request = Request::builder().method(Method::POST).uri(path).header("host", host).header("cookie", "a=b");
        check(&request.header("content-type", media_type).body(()).unwrap(), &Hosts::default())
    }

    #[test]
    fn a_form_may_be_a_value_and_nothing_else() {
        let form = "application/x-www-form-urlencoded";
        for path in ["/v1/kv/k", "/v1/storage/key/k"] {
            assert_eq!(post(path, "node1", form), Ok(()), "{path}");
        }
        for path in [
            "/v1/batch",
            "/v1/kv",
            "/insert-val",
            "/store",
            "/raft/join",
            "/raft/remove",
            "/put",
            "/get",
            "/delete",
            "/v1/cluster/groups",
            "/v1/cluster/nodes",
        ] {
            assert_eq!(post(path, "node1", form).unwrap_err().code, guard::CODE, "{path}");
            assert_eq!(post(path, "node1", "application/json"), Ok(()), "{path}");
        }
    }

    #[test]
    fn every_surface_tells_it_in_its_own_form() {
        for (path, media_type) in [
            ("/v1/kv/k", "application/problem+json"),
            ("/v1/batch", "application/problem+json"),
            ("/readyz", "application/problem+json"),
            ("/insert-val", "text/plain; charset=utf-8"),
            ("/v1/storage/key/k", "application/json"),
            ("/store", "application/json"),
            ("/put", "application/json"),
        ] {
            let problem = post(path, "rebound.example", "application/json").unwrap_err();
            let response = Route::surface_of(path).render(problem);
            assert_eq!(response.status(), 403, "{path}");
            assert_eq!(response.headers()["content-type"], media_type, "{path}");
        }
    }
}
