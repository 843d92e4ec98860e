//! Browsers and programs at every surface: recorded requests against a real server.

use raftkv_http::HttpLimits;
use raftkv_kv::Limits;
use raftkv_runtime::guard::{CODE, Hosts};
use serde_json::Value;

use crate::support::{Reply, Server};

#[path = "../../../tests/src/recorded.rs"]
mod recorded;

use recorded::{Recorded, Sender};

/// How a surface tells a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Problem,
    Error,
    Text,
}

/// A MsgPack map: op SET, key k, value v.
const INSERT: &[u8] = b"\x83\xa2op\xa3SET\xa3key\xa1k\xa5value\xa1v";
const JOIN: &[u8] = br#"{"node_id":"n2","raft_address":"n2:8088"}"#;

/// What POST does at each surface, with a body that does it.
const POSTS: [(&str, &[u8], Form); 9] = [
    ("/v1/batch", br#"{"operations":[{"op":"put","key":"k","value":1}]}"#, Form::Problem),
    ("/insert-val", INSERT, Form::Text),
    ("/v1/storage/key/k", b"v", Form::Error),
    ("/store", br#"{"key":"k","value":1}"#, Form::Error),
    ("/raft/join", JOIN, Form::Error),
    ("/raft/remove", br#"{"node_id":"n2"}"#, Form::Error),
    ("/put", br#"{"key":"k","val":1}"#, Form::Error),
    ("/get", br#"{"key":"k"}"#, Form::Error),
    ("/delete", br#"{"key":"k"}"#, Form::Error),
];
/// What is read by GET once the requests above were served, in their order.
const GETS: [(&str, u16, Form); 10] = [
    ("/v1/kv/k", 404, Form::Problem),
    ("/v1/kv?limit=1", 200, Form::Problem),
    ("/get-val?key=k", 404, Form::Text),
    ("/v1/storage/key/k", 204, Form::Error),
    ("/store/k", 422, Form::Error),
    ("/raft/stats", 200, Form::Error),
    ("/readyz", 200, Form::Problem),
    ("/livez", 200, Form::Problem),
    ("/metrics", 200, Form::Problem),
    ("/openapi.json", 200, Form::Problem),
];

async fn send(server: &Server, request: &Recorded, target: &str, body: &[u8]) -> Reply {
    let mut connection = server.connect().await;
    connection.write(&request.on_the_wire(&server.addr.to_string(), target, body)).await;
    connection.reply(request.method == "HEAD").await.expect("an answer")
}

#[track_caller]
fn assert_refused(reply: &Reply, form: Form, what: &str) {
    assert_eq!(reply.status, 403, "{what}: {}", String::from_utf8_lossy(&reply.body));
    match form {
        Form::Problem => assert_eq!(reply.problem(403), CODE, "{what}"),
        Form::Error => assert!(reply.json()["error"].as_str().is_some_and(|text| !text.is_empty()), "{what}"),
        Form::Text => assert!(reply.text().starts_with("error: "), "{what}: {}", reply.text()),
    }
    // A page of another site must not get to read it either.
    assert!(reply.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control-")), "{what}");
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing_and_change_nothing() {
    let server = Server::start().await;
    for request in Recorded::all().iter().filter(|request| request.sender == Sender::Stranger) {
        for (path, body, form) in POSTS {
            let reply = send(&server, request, path, body).await;
            assert_refused(&reply, form, &format!("{} at {path}", request.name));
        }
        for (path, _, form) in GETS {
            let reply = send(&server, request, path, b"").await;
            assert_refused(&reply, form, &format!("{} at {path}", request.name));
        }
        // What has no path of its own, and what only routers have.
        for path in ["/", "/nothing", "/v1/cluster/groups"] {
            assert_refused(&send(&server, request, path, b"{}").await, Form::Problem, request.name);
        }
    }
    assert_eq!((server.memory.writes(), server.memory.revision()), (0, 0));
    assert_eq!(server.get("/raft/stats").await.json()["data"], serde_json::json!({}));
}

#[tokio::test]
async fn programs_are_served_at_every_surface_as_before() {
    let server = Server::start().await;
    for request in Recorded::of(Sender::Program, "POST") {
        let headers = request.headers("");
        let media_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let is_text = media_type.is_some_and(|(_, value)| value.starts_with("text/"));
        for (path, body, _) in POSTS {
            let reply = send(&server, &request, path, body).await;
            // Some take no text, whoever sends it.
            let plain = server.send("POST", path, &[("content-type", "text/plain;charset=UTF-8")], body).await;
            let expected = if is_text { plain.status } else { 200 };
            assert_eq!(reply.status, expected, "{} at {path}: {}", request.name, String::from_utf8_lossy(&reply.body));
        }
    }
    for request in Recorded::of(Sender::Program, "GET") {
        for (path, status, _) in GETS {
            assert_eq!(send(&server, &request, path, b"").await.status, status, "{} at {path}", request.name);
        }
    }
}

#[tokio::test]
async fn a_browser_reads_what_its_user_asks_for_and_writes_from_the_servers_own_pages() {
    let server = Server::start().await;
    for request in Recorded::of(Sender::Browser, "POST") {
        for (path, body, _) in POSTS.iter().filter(|(path, ..)| *path != "/insert-val") {
            let reply = send(&server, &request, path, body).await;
            assert_eq!(reply.status, 200, "{} at {path}: {}", request.name, String::from_utf8_lossy(&reply.body));
        }
    }
    for request in Recorded::of(Sender::Browser, "GET") {
        for (path, status, _) in GETS {
            assert_eq!(send(&server, &request, path, b"").await.status, status, "{} at {path}", request.name);
        }
    }
}

#[tokio::test]
async fn forms_are_refused_from_browsers_where_no_value_is_stored_and_curl_sends_them() {
    let server = Server::start().await;
    let own = format!("http://{}", server.addr);
    let host = server.addr.to_string();
    let json: &[u8] = br#"{"operations":[{"op":"put","key":"k","value":1}]}"#;
    for media_type in
        ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain;charset=UTF-8"]
    {
        let post = |path: &str, body: &[u8]| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {host}\r\norigin: {own}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        };
        let mut connection = server.connect().await;
        connection.write(&post("/v1/batch", json)).await;
        assert_refused(&connection.reply(false).await.expect("an answer"), Form::Problem, media_type);
        // Keva's values are bodies of any type.
        let mut connection = server.connect().await;
        connection.write(&post("/v1/storage/key/k", b"v")).await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, 200, "{media_type}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(server.send("POST", "/v1/batch", &form, json).await.status, 200);
}

#[tokio::test]
async fn a_browser_uses_the_names_that_are_allowed() {
    let hosts = Hosts::new(["n1.example:8080"], &["kv.example".parse().unwrap()]);
    let server = Server::with(HttpLimits { hosts, ..HttpLimits::default() }, Limits::default()).await;
    for (host, status) in [
        ("n1.example:8080", 200),
        ("kv.example", 200),
        ("KV.example:443", 200),
        ("localhost", 200),
        ("n2.example", 403),
    ] {
        let mut connection = server.connect().await;
        let head = format!("GET /v1/kv HTTP/1.1\r\nhost: {host}\r\naccept-language: en\r\n\r\n");
        connection.write(head.as_bytes()).await;
        let reply = connection.reply(false).await.expect("an answer");
        assert_eq!(reply.status, status, "{host}");
        if status == 403 {
            let detail = reply.json()["detail"].clone();
            assert!(matches!(&detail, Value::String(text) if text.contains("RAFTKV_ALLOWED_HOSTS")), "{detail}");
        }
    }
}
