//! [`route`]: one path of the management API, with its methods and its parameters, each named once.
//!
//! A change that is asked for here can end a node and its data. Its request is therefore taken as a whole or not at all: a
//! misspelt, an empty or a repeated parameter, and a body, are refused before the handler sees the request.

use axum::extract::{Query, Request};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use raftkv_runtime::guard::admit_change;

use super::browsers::refused;
use crate::peers::management::Problem;

/// Shows something and changes nothing. Probes and scrapers add parameters of their own (`/readyz?verbose`), which are ignored.
pub(super) const READ: Methods = Methods {
    filter: MethodFilter::GET.or(MethodFilter::HEAD),
    named: &[Method::GET, Method::HEAD],
    changes: Changes::Nothing,
};
/// A change for which GET is taken for good, as in the system that this API answers for; not from a browser.
pub(super) const JOIN: Methods = Methods {
    filter: MethodFilter::GET.or(MethodFilter::POST),
    named: &[Method::GET, Method::POST],
    changes: Changes::ByAnyMethod,
};
/// A change for which GET is deprecated; not taken from a browser.
pub(super) const CHANGE: Methods = Methods { changes: Changes::ByPost, ..JOIN };
/// A change that is not made by following a link: no prefetch may destroy data, or take a way back.
pub(super) const ORDER: Methods =
    Methods { filter: MethodFilter::POST, named: &[Method::POST], changes: Changes::ByPost };

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");

/// The methods of a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Methods {
    filter: MethodFilter,
    named: &'static [Method],
    changes: Changes,
}

/// Whether requests change something. Those are refused unless they are understood to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changes {
    Nothing,
    ByAnyMethod,
    /// By GET too, where that is taken, with a header that says that this will end.
    ByPost,
}

impl Methods {
    fn joined(self, between: &str) -> String {
        self.named.iter().map(Method::as_str).collect::<Vec<_>>().join(between)
    }

    fn refusal(self) -> Response {
        let detail = self.joined(" or ");
        let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response();
        // The names of methods are valid header values.
        if let Ok(allow) = HeaderValue::try_from(self.joined(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

/// A path that answers to `methods` with `handler`. A change knows the parameters in `known` and no others.
pub(super) fn route<H, T, S>(methods: Methods, known: &'static [&'static str], handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    let check = move |request: Request, next: Next| async move {
        if methods.changes == Changes::Nothing {
            return next.run(request).await;
        }
        if let Err(why) = admit_change(request.method(), request.headers()) {
            return refused(why);
        }
        let is_deprecated = methods.changes == Changes::ByPost && request.method() == Method::GET;
        let (parts, body) = request.into_parts();
        let mut response = match check_parameters(&parts.uri, known).and_then(|()| check_body(&parts)) {
            Ok(()) => next.run(Request::from_parts(parts, body)).await,
            Err(problem) => problem.into_response(),
        };
        if is_deprecated {
            response.headers_mut().insert(DEPRECATION, HeaderValue::from_static("true"));
        }
        response
    };
    let refuse = move || std::future::ready(methods.refusal());
    let mut router = MethodRouter::new().on(methods.filter, handler).layer(from_fn(check));
    if !methods.named.contains(&Method::HEAD) {
        // Otherwise GET's handler answers it, and a method that is to be safe makes a change.
        router = router.on(MethodFilter::HEAD, refuse);
    }
    router.fallback(refuse)
}

/// Every parameter is known, given once, and not empty.
fn check_parameters(uri: &Uri, known: &[&str]) -> Result<(), Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| bad_request(error.body_text()))?;
    let mut seen = Vec::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(bad_request(format!("unknown parameter {name}; this path takes: {known}")));
        }
        if value.is_empty() {
            return Err(bad_request(format!("{name} must not be empty")));
        }
        if seen.contains(&name) {
            return Err(bad_request(format!("{name} is given more than once")));
        }
        seen.push(name);
    }
    Ok(())
}

/// Parameters in a body would be ignored, as misspelt ones were.
fn check_body(parts: &Parts) -> Result<(), Problem> {
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let is_empty = length.is_none_or(|length| length == "0") && !parts.headers.contains_key(header::TRANSFER_ENCODING);
    if is_empty { Ok(()) } else { Err(bad_request("a body is not read here: parameters stand in the URL, after ?")) }
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_known_not_empty_and_given_once() {
        let check = |query: &str| check_parameters(&format!("/kill?{query}").parse().unwrap(), &["peerID", "confirm"]);
        for fine in ["", "peerID=a", "peer%49D=a", "confirm=x&peerID=a&"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (wrong, why) in [
            ("peerid=a", "unknown parameter peerid;"),
            ("=a", "unknown parameter ;"),
            ("peerID=a&x", "unknown parameter x;"),
            ("peerID=", "peerID must not be empty"),
            ("peerID", "peerID must not be empty"),
            ("peerID=a&peer%49D=b", "peerID is given more than once"),
        ] {
            let problem = check(wrong).expect_err(wrong);
            assert!(problem.status == 400 && problem.detail.starts_with(why), "{wrong}: {problem:?}");
        }
    }
}
