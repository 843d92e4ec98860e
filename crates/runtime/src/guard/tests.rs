//! Tests of the decision: all combinations of what counts, random requests against a slow reference, and recorded requests.

use http::HeaderValue;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

#[path = "../../../../tests/src/recorded.rs"]
mod recorded;

use recorded::{Recorded, Sender};

fn hosts() -> Hosts {
    Hosts::new(["node1", "n1.example.com:8080"], &["kv.example".parse().expect("a name")])
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value);
    }
    headers
}

/// Values of one header, and whether a browser's request with them passes this check.
type Choices = &'static [(&'static [&'static str], bool)];

const HOSTS: Choices = &[
    (&["127.0.0.1:8080"], true),
    (&["[::1]:8080"], true),
    (&["localhost:8080"], true),
    (&["node7:8080"], true),
    (&["n1.example.com:8080"], true),
    (&["KV.example:8080"], true),
    (&["rebound.example:8080"], false),
    (&["127.0.0.1.rebound.example:8080"], false),
    (&["node7:x"], false),
    (&["node7:+80"], false),
    (&["node7:80:80"], false),
    (&["[::1"], false),
    (&["[::1]x:8080"], false),
    (&["user@node7:8080"], false),
    (&[""], false),
    (&[], false),
    (&["node7:8080", "node7:8080"], false),
];
const SITES: Choices = &[
    (&[], true),
    (&["same-origin"], true),
    (&["none"], true),
    (&["same-site"], false),
    (&["cross-site"], false),
    (&["SAME-ORIGIN"], false),
    (&[""], false),
    (&["same-origin", "same-origin"], false),
];
const TYPES: Choices = &[
    (&[], true),
    (&["application/json"], true),
    (&["application/msgpack"], true),
    (&["application/octet-stream"], true),
    (&["application/x-www-form-urlencoded"], false),
    (&["Application/X-WWW-Form-Urlencoded; charset=utf-8"], false),
    (&["multipart/form-data; boundary=x"], false),
    (&["text/plain;charset=UTF-8"], false),
    (&[" TEXT/html"], false),
    (&["application/json", "text/plain"], false),
];
/// Headers beside Origin and Sec-Fetch-Site, and whether they mark a request as a browser's.
const MARKS: &[(&[(&str, &str)], bool)] = &[
    (&[], false),
    (&[("accept", "*/*"), ("user-agent", "curl/8.5.0"), ("accept-encoding", "gzip")], false),
    (&[("accept-language", "en")], true),
    (&[("accept-language", "*")], true),
    (&[("referer", "http://rebound.example/")], true),
    (&[("cookie", "a=b")], true),
    (&[("sec-fetch-storage-access", "none")], true),
    // As Node's fetch sends them.
    (&[("sec-fetch-mode", "no-cors")], false),
    (&[("accept-language", "*"), ("sec-fetch-mode", "cors")], false),
    // As it does not, unless a program adds to it.
    (&[("accept-language", "en"), ("sec-fetch-mode", "cors")], true),
    (&[("accept-language", "*"), ("accept-language", "*"), ("sec-fetch-mode", "cors")], true),
    (&[("cookie", "a=b"), ("sec-fetch-mode", "cors")], true),
    (&[("referer", "http://rebound.example/"), ("sec-fetch-mode", "cors")], true),
    (&[("sec-fetch-dest", "empty"), ("sec-fetch-mode", "cors")], true),
];

/// Whether `origin` is that of `host`, told in advance.
fn origins(host: Option<&'static str>) -> Vec<(Vec<String>, bool)> {
    let host = host.unwrap_or("127.0.0.1:8080");
    let upper = host.to_ascii_uppercase();
    [
        (vec![], true),
        (vec![format!("http://{host}")], true),
        (vec![format!("https://{upper}")], true),
        (vec![format!("http://{host}/")], false),
        (vec![format!("http://x{host}")], false),
        (vec!["http://rebound.example".to_owned()], false),
        (vec!["http://127.0.0.1:9".to_owned()], false),
        (vec!["http://127.0.0.1".to_owned()], false),
        (vec![format!("ftp://{host}")], false),
        (vec![host.to_owned()], false),
        (vec!["null".to_owned()], false),
        (vec![String::new()], false),
        (vec![format!("http://{host}"); 2], false),
    ]
    .into()
}

#[test]
fn every_combination_is_decided_as_the_rules_say() {
    let (known, methods) = (hosts(), [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS]);
    let mut refused = [0; 4];
    for (host, is_known) in HOSTS {
        for (origin, is_own) in origins(host.first().copied()) {
            for (site, is_same) in SITES {
                for (kind, is_no_form) in TYPES {
                    for (mark, is_browsers) in MARKS {
                        let mut lines = mark.to_vec();
                        lines.extend(host.iter().map(|value| ("host", *value)));
                        lines.extend(origin.iter().map(|value| ("origin", value.as_str())));
                        lines.extend(site.iter().map(|value| ("sec-fetch-site", *value)));
                        lines.extend(kind.iter().map(|value| ("content-type", *value)));
                        let request = headers(&lines);
                        let is_marked = *is_browsers || !origin.is_empty() || !site.is_empty();
                        assert_eq!(is_browser(&request), is_marked, "{lines:?}");
                        for method in &methods {
                            let is_safe = matches!(*method, Method::GET | Method::HEAD);
                            for takes in [Takes::Values, Takes::Requests] {
                                let is_form = !is_no_form && takes == Takes::Requests && !is_safe;
                                let expected = match () {
                                    () if !is_marked => Ok(()),
                                    () if !is_known => Err(CrossSite::Host),
                                    () if !is_own => Err(CrossSite::Origin),
                                    () if !is_same => Err(CrossSite::Site),
                                    () if is_form => Err(CrossSite::Form),
                                    () => Ok(()),
                                };
                                assert_eq!(
                                    admit(method, &request, takes, &known),
                                    expected,
                                    "{method} {lines:?} {takes:?}"
                                );
                                if let Err(why) = expected {
                                    refused[why as usize] += 1;
                                }
                            }
                            let change = if is_marked && is_safe { Err(CrossSite::Get) } else { Ok(()) };
                            assert_eq!(admit_change(method, &request), change, "{method} {lines:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(refused.iter().all(|count| *count > 0), "{refused:?}");
}

#[test]
fn ports_that_a_scheme_implies_need_not_be_told() {
    for (origin, host, is_own) in [
        ("http://node1", "node1", true),
        ("http://node1", "node1:80", true),
        ("http://node1:80", "node1", true),
        ("https://node1", "node1", true),
        ("https://node1", "node1:443", true),
        ("http://node1", "node1:443", false),
        ("https://node1", "node1:80", false),
        ("http://[::1]", "[::1]:80", true),
        ("http://[::1]:81", "[::1]", false),
        ("http://node1:65536", "node1:65536", false),
        ("http://node1:080", "node1", true),
        ("HTTP://node1", "node1", false),
    ] {
        let request = headers(&[("host", host), ("origin", origin)]);
        let admitted = admit(&Method::POST, &request, Takes::Values, &hosts());
        assert_eq!(admitted.is_ok(), is_own, "{origin} at {host}: {admitted:?}");
    }
}

#[test]
fn a_request_that_is_passed_on_is_no_browsers_any_more() {
    let mut request = headers(&[
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "cors"),
        ("origin", "http://node1"),
        ("referer", "http://node1/"),
        ("accept-language", "en"),
        ("content-type", "application/json"),
        ("if-match", "\"1\""),
        ("idempotency-key", "k"),
    ]);
    strip(&mut request);
    assert!(!is_browser(&request));
    let kept: Vec<&str> = request.keys().map(HeaderName::as_str).collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    for name in ["content-type", "if-match", "idempotency-key"] {
        assert!(kept.contains(&name), "{kept:?}");
    }
}

#[test]
fn recorded_requests_are_told_apart() {
    let mut seen = [0; 3];
    for request in Recorded::all() {
        let method: Method = request.method.parse().expect("a method");
        let lines = request.headers("127.0.0.1:6000");
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let parsed = headers(&lines);
        let admitted = admit(&method, &parsed, Takes::Requests, &hosts());
        let changes = admit_change(&method, &parsed);
        let name = request.name;
        match request.sender {
            Sender::Stranger => assert!(admitted.is_err(), "{name}"),
            Sender::Browser => {
                assert_eq!(admitted, Ok(()), "{name}");
                assert_eq!(changes.is_ok(), method == Method::POST, "{name}");
            }
            Sender::Program => assert_eq!((admitted, changes), (Ok(()), Ok(())), "{name}"),
        }
        assert_eq!(is_browser(&parsed), request.sender != Sender::Program, "{name}");
        seen[request.sender as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count >= 4), "{seen:?}");
}

/// The rules once more, slowly, on text.
fn reference(method: &str, lines: &[(&str, &str)], takes: Takes) -> bool {
    let of = |name: &str| lines.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect::<Vec<_>>();
    let marks = ["origin", "referer", "accept-language", "cookie"];
    let mut marks: Vec<_> =
        lines.iter().filter(|(name, _)| marks.contains(name) || name.starts_with("sec-fetch-")).collect();
    marks.retain(|(name, _)| *name != "sec-fetch-mode");
    let has_mode = !of("sec-fetch-mode").is_empty();
    if marks.is_empty() || (has_mode && marks == [&("accept-language", "*")]) {
        return true;
    }
    let [host] = of("host")[..] else { return false };
    let host = host.to_lowercase();
    let known = ["127.0.0.1", "[::1]", "localhost", "node1", "n1.example.com", "kv.example"];
    let own: Vec<String> = known
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}:80"), format!("{name}:443"), format!("{name}:8080")])
        .collect();
    if !own.contains(&host) {
        return false;
    }
    // Every way to write the origins of this host.
    let with = |scheme: &str, port: &str| {
        let name = known.iter().find(|name| host == **name || host.starts_with(&format!("{name}:"))).expect("known");
        let told = host.strip_prefix(name).expect("begins so").strip_prefix(':').unwrap_or(port);
        let mut all = vec![format!("{scheme}://{name}:{told}")];
        if told == port {
            all.push(format!("{scheme}://{name}"));
        }
        all
    };
    let origins = [with("http", "80"), with("https", "443")].concat();
    let is_own = match of("origin")[..] {
        [] => true,
        [origin] => origins.contains(&origin.to_lowercase()) && origin.starts_with("http"),
        _ => false,
    };
    let is_same = matches!(of("sec-fetch-site")[..], [] | ["same-origin"] | ["none"]);
    let is_form = of("content-type").iter().any(|kind| kind.contains("form") || kind.contains("text"));
    is_own && is_same && !(is_form && takes == Takes::Requests && !matches!(method, "GET" | "HEAD"))
}

const LINES: &[(&str, &str)] = &[
    ("host", "127.0.0.1:8080"),
    ("host", "127.0.0.1"),
    ("host", "[::1]:443"),
    ("host", "localhost:80"),
    ("host", "n1.example.com"),
    ("host", "kv.example:8080"),
    ("host", "evil.example"),
    ("host", "evil.example:8080"),
    ("origin", "http://127.0.0.1:8080"),
    ("origin", "https://127.0.0.1:8080"),
    ("origin", "http://127.0.0.1"),
    ("origin", "https://[::1]"),
    ("origin", "http://localhost"),
    ("origin", "https://n1.example.com"),
    ("origin", "http://kv.example:8080"),
    ("origin", "http://KV.example:8080"),
    ("origin", "http://evil.example"),
    ("origin", "null"),
    ("referer", "http://evil.example/"),
    ("accept-language", "en"),
    ("accept-language", "*"),
    ("cookie", "a=b"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-site", "none"),
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-dest", "image"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "text/plain;charset=UTF-8"),
    ("accept", "*/*"),
    ("user-agent", "anything"),
    ("sec-ch-ua-mobile", "?0"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_decision_is_that_of_the_reference(
        lines in vec(select(LINES), 0..6),
        method in select(&["GET", "HEAD", "POST", "PUT", "DELETE"][..]),
        takes in select(&[Takes::Values, Takes::Requests][..]),
    ) {
        let parsed = method.parse().expect("a method");
        let admitted = admit(&parsed, &headers(&lines), takes, &hosts());
        prop_assert_eq!(admitted.is_ok(), reference(method, &lines, takes), "{:?}: {:?}", lines, admitted);
    }

    #[test]
    fn no_header_makes_it_panic_or_admits_a_rebound_name(
        host in "\\PC{0,20}",
        origin in "[ -~]{0,20}",
        name in select(&["referer", "cookie", "accept-language", "sec-fetch-x"][..]),
    ) {
        let mut request = headers(&[(name, "x"), ("origin", &origin)]);
        request.insert("host", HeaderValue::from_bytes(host.as_bytes()).expect("no control characters"));
        let _ = admit(&Method::POST, &request, Takes::Requests, &hosts());
        let rebound = format!("{}.evil.example", host.trim());
        if let Ok(value) = HeaderValue::from_bytes(rebound.as_bytes()) {
            request.insert("host", value);
            prop_assert_eq!(admit(&Method::POST, &request, Takes::Requests, &hosts()), Err(CrossSite::Host));
        }
    }
}
