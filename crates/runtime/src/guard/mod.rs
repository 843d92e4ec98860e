//! The browser guard of all HTTP ports: [`admit`] decides which requests of a browser are served.
//!
//! A page may have the browser that shows it send requests to addresses that the page's author cannot reach, such as 127.0.0.1 or
//! an office network: by an image, a form, a `fetch` without CORS. The page does not see the answer, but the request takes effect.
//! With DNS rebinding (a host name of the author that resolves to 127.0.0.1) the page reads the answer as well. Neither a firewall
//! nor a password that the browser keeps prevents that.
//!
//! A request comes from a browser if it has `Origin`, `Referer`, `Sec-Fetch-*`, `Accept-Language` or `Cookie`. All other requests
//! (curl, the HTTP libraries of Python, Go and Rust, RaftKV's own processes) are served as they are: no page can leave these
//! headers out. So are those of the `fetch` that is built into Node.js, which has `Accept-Language: *` and `Sec-Fetch-Mode` and none
//! of the others: a browser sends `Sec-Fetch-Mode` together with `Sec-Fetch-Site` or not at all, and no page can set either.
//! `Accept-Language: *` alone proves nothing, for a page can set it. A browser's request is served if
//!
//! - `Host` is an IP address, `localhost`, a name without a dot, or one of [`Hosts`]. A rebound name is none of these.
//! - `Origin`, where it is present, is the origin of `Host`. Browsers send `Origin` with every request other than GET and HEAD.
//! - `Sec-Fetch-Site`, where it is present, is `same-origin` or `none`. Browsers send it to loopback addresses and over TLS only.
//! - the type of its body is not one that a form can have, unless the route stores bodies of every type ([`Takes::Values`]).
//! - it is no GET to a route that changes something ([`admit_change`]): an image has no `Origin`, and outside of loopback no
//!   `Sec-Fetch-Site`.
//!
//! `Referer` decides nothing: links from pages of other sites are followed where `Sec-Fetch-Site` is not sent.

mod hosts;

pub use hosts::{HostName, Hosts, MAX_ALLOWED_HOSTS, MAX_HOST_BYTES, NotAHostName};

use http::{HeaderMap, HeaderName, Method, header};

/// Code of the problem with which a request is refused, in the answer's body.
pub const CODE: &str = "cross_site";
/// Beginning of the names of the headers by which browsers describe a request (Fetch Metadata).
const FETCH_METADATA: &str = "sec-fetch-";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Why a request of a browser is refused: status 403, code [`CODE`]. Nothing was done.
///
/// The text names nothing that the request brought, so it can be shown in every form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CrossSite {
    /// `Host` is absent, malformed, given more than once, or a name that is not known here.
    #[error(
        "a browser asks for a host name that this process does not know: use its address, or add the name to RAFTKV_ALLOWED_HOSTS"
    )]
    Host,
    /// `Origin` is not the origin of `Host`, or is given more than once.
    #[error("a browser sends this request for a page of another origin")]
    Origin,
    /// `Sec-Fetch-Site` is neither `same-origin` nor `none`, or is given more than once.
    #[error("a browser sends this request for a page of another site")]
    Site,
    /// `Content-Type` is one that forms have, on a route that does not store bodies of every type.
    #[error("a browser sends a body of a type that forms have: use application/json or application/msgpack")]
    Form,
    /// GET on a route that changes something.
    #[error("a browser changes nothing by GET: use POST")]
    Get,
}

/// What a route does with the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Stores it, whatever its type is.
    Values,
    /// Reads a request from it, in JSON or MsgPack, or takes none.
    Requests,
}

/// Whether the request comes from a browser. Costs one comparison of names for each header, and no allocation.
pub fn is_browser(headers: &HeaderMap) -> bool {
    headers.keys().any(is_of_browsers) && !is_fetch_of_a_program(headers)
}

/// Whether a program made the request by a `fetch` that implements the standard without a page, as Node.js does: of what browsers
/// send it has the mode, and at most a language that is any.
fn is_fetch_of_a_program(headers: &HeaderMap) -> bool {
    let is_any_language = || matches!(single(headers, &header::ACCEPT_LANGUAGE), Ok(Some("*")));
    let may_have = |name: &HeaderName| match *name == header::ACCEPT_LANGUAGE {
        true => is_any_language(),
        false => *name == SEC_FETCH_MODE,
    };
    headers.contains_key(SEC_FETCH_MODE) && headers.keys().filter(|name| is_of_browsers(name)).all(may_have)
}

/// Removes the headers by which a request is recognised as a browser's: for a process that has admitted the request and passes it
/// on under another `Host`.
pub fn strip(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_of_browsers(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether a request is served: every request that no browser sends, and of browsers those for `hosts` which no page of another
/// origin can cause. `takes` says what the route does with bodies.
///
/// # Errors
/// When the request is to be refused, before its body is read.
pub fn admit(method: &Method, headers: &HeaderMap, takes: Takes, hosts: &Hosts) -> Result<(), CrossSite> {
    if !is_browser(headers) {
        return Ok(());
    }
    let host = single(headers, &header::HOST).map_err(|_| CrossSite::Host)?;
    let host = host.and_then(Authority::parse).filter(|host| hosts.admits(host.name)).ok_or(CrossSite::Host)?;
    if let Some(origin) = single(headers, &header::ORIGIN).map_err(|_| CrossSite::Origin)?
        && !is_origin_of(origin, host)
    {
        return Err(CrossSite::Origin);
    }
    match single(headers, &SEC_FETCH_SITE) {
        Ok(None | Some("same-origin" | "none")) => {}
        _ => return Err(CrossSite::Site),
    }
    match takes {
        Takes::Requests if !is_safe(method) && has_form_type(headers) => Err(CrossSite::Form),
        _ => Ok(()),
    }
}

/// Whether a request to a route that changes something is served: not a browser's GET. Decides beside [`admit`], which does not
/// know what the route does.
///
/// # Errors
/// When the request is to be refused.
pub fn admit_change(method: &Method, headers: &HeaderMap) -> Result<(), CrossSite> {
    if !is_safe(method) || !is_browser(headers) { Ok(()) } else { Err(CrossSite::Get) }
}

fn is_of_browsers(name: &HeaderName) -> bool {
    match name.as_str() {
        "origin" | "referer" | "accept-language" | "cookie" => true,
        other => other.starts_with(FETCH_METADATA),
    }
}

/// A header is present more than once, or is not text: two readers could take different values from it.
struct Ambiguous;

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        _ => Err(Ambiguous),
    }
}

/// `host[:port]`.
#[derive(Debug, Clone, Copy)]
struct Authority<'a> {
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let bracket = if text.starts_with('[') { text.find(']')? } else { 0 };
        let (name, port) = match text[bracket..].find(':') {
            None => (text, None),
            Some(at) => (&text[..bracket + at], Some(&text[bracket + at + 1..])),
        };
        let port = match port {
            None => None,
            // The parser of numbers takes a sign.
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        Some(Self { name, port })
    }
}

/// Whether a page of `origin` was loaded from `host`. A page that a proxy serves with TLS has the same `Host` and another scheme.
fn is_origin_of(origin: &str, host: Authority<'_>) -> bool {
    let plain = origin.strip_prefix("http://").map(|rest| (rest, 80));
    let Some((rest, default)) = plain.or_else(|| origin.strip_prefix("https://").map(|rest| (rest, 443))) else {
        return false;
    };
    Authority::parse(rest).is_some_and(|origin| {
        origin.name.eq_ignore_ascii_case(host.name) && origin.port.unwrap_or(default) == host.port.unwrap_or(default)
    })
}

/// Whether requests with this method change nothing, by the rules of HTTP.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether the type of the body is one of those that pages of other origins may send without asking first: forms and texts.
fn has_form_type(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().any(|value| {
        let essence = value.as_bytes().split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
        let essence = essence.trim_ascii();
        let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        is(b"application/x-www-form-urlencoded")
            || is(b"multipart/form-data")
            || essence.get(..5).is_some_and(|main| main.eq_ignore_ascii_case(b"text/"))
    })
}

#[cfg(test)]
mod tests;
