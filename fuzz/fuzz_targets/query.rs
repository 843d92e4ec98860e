//! Paths and query strings: keys in paths, the bounds of a listing, its pages and cursors. `PATH?QUERY`, the path being that of a key.
#![no_main]

use std::collections::BTreeMap;

use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};
use raftkv_fuzz::http::Server;

/// In the store, among them what an encoding may take for something else.
const KEYS: [&[u8]; 12] = [
    b"%",
    b"%41",
    b"A",
    b"a",
    b"a b",
    b"a+b",
    b"a/b",
    b"a\x00",
    "\u{e9}".as_bytes(),
    b"b\xff\x01",
    b"\xff",
    b"\xff\xff\x00",
];

/// Where query strings are read beside the listing's. What they are asked for exists.
const OTHERS: [(&str, &str); 4] =
    [("GET", "/v1/kv/A"), ("PUT", "/v1/kv/A"), ("GET", "/get-val"), ("GET", "/v1/storage/key/A")];

/// As many pages as there are keys, and the last one may be empty.
const MOST_PAGES: usize = KEYS.len() + 2;

fuzz_target!(|text: &str| {
    // A fragment is no part of a request.
    let text = text.split('#').next().unwrap_or_default();
    let (path, query) = text.split_once('?').unwrap_or(("", text));
    let server = Server::new();
    for key in KEYS {
        let path = format!("/v1/kv/{}", percent_encode(key, NON_ALPHANUMERIC));
        assert!(server.send("PUT", &path, "application/json", b"1").status.is_success(), "{path}");
    }
    listing(&server, query);
    for (method, path) in OTHERS {
        let uri = format!("{path}?{query}");
        if uri.parse::<Uri>().is_ok() {
            server.send(method, &uri, "application/json", b"1");
        }
    }
    key(&server, path);
});

/// What a listing gives in all its pages is what lies in its bounds, read by another decoder.
fn listing(server: &Server, query: &str) {
    let uri = format!("/v1/kv?{query}");
    if uri.parse::<Uri>().is_err() {
        return;
    }
    let mut reply = server.send("GET", &uri, "application/json", b"");
    if reply.status != 200 {
        return;
    }
    let given = parameters(query);
    let within = |key: &[u8]| {
        given.get("prefix").is_none_or(|prefix| key.starts_with(prefix))
            && given.get("start").is_none_or(|start| key >= &start[..])
            && given.get("end").is_none_or(|end| key < &end[..])
    };
    let mut expected: Vec<&[u8]> = KEYS.into_iter().filter(|key| within(key)).collect();
    expected.sort_unstable();
    let mut found = Vec::new();
    for _ in 0..MOST_PAGES {
        let page: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        found.extend(page["entries"].as_array().expect("entries").iter().map(name));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        if given.contains_key("cursor") {
            break;
        }
        let uri = format!("{uri}&cursor={cursor}");
        reply = server.send("GET", &uri, "application/json", b"");
        assert_eq!(reply.status, 200, "a cursor of ours is refused: {uri}");
    }
    if given.contains_key("cursor") {
        assert!(found.iter().all(|key| within(key)), "{uri} gives what is out of its bounds");
    } else {
        assert_eq!(found, expected, "{uri}");
    }
}

/// The parameters of a query that was taken, each there once.
fn parameters(query: &str) -> BTreeMap<String, Vec<u8>> {
    const KNOWN: [&str; 8] = ["prefix", "start", "end", "limit", "cursor", "keys_only", "consistency", "timeout"];
    let decode = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect::<Vec<u8>>();
    let mut given = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = String::from_utf8(decode(name)).expect("a name that is known");
        assert!(KNOWN.contains(&name.as_str()), "{name} means nothing");
        assert!(given.insert(name, decode(value)).is_none(), "{pair} is given twice");
    }
    given
}

/// The key of an entry.
fn name(entry: &serde_json::Value) -> Vec<u8> {
    match (entry["key"].as_str(), entry["key_base64"].as_str()) {
        (Some(key), None) => key.as_bytes().to_vec(),
        (None, Some(key)) => STANDARD.decode(key).expect("base64"),
        _ => panic!("an entry has one key: {entry}"),
    }
}

/// What is put under a path is there under that path, and under its bytes however they are written.
fn key(server: &Server, path: &str) {
    let uri = format!("/v1/kv/{path}");
    if uri.parse::<Uri>().is_err() || !server.send("PUT", &uri, "application/json", b"[7]").status.is_success() {
        return;
    }
    let bytes: Vec<u8> = percent_decode(path.as_bytes()).collect();
    for uri in [uri, format!("/v1/kv/{}", percent_encode(&bytes, NON_ALPHANUMERIC))] {
        let got = server.send("GET", &uri, "application/json", b"");
        assert!(got.status == 200 && &got.body[..] == b"[7]", "{uri}: {}", got.status);
    }
}
