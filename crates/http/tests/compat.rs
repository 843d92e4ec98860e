//! The four compatible surfaces, as their clients know them.

use crate::support::{Reply, Server};
use raftkv_backend::BackendError;
use serde_json::json;

fn insert(op: &str, key: rmpv::Value, value: rmpv::Value) -> Vec<u8> {
    let mut body = Vec::new();
    let map = vec![("op".into(), op.into()), ("key".into(), key), ("value".into(), value)];
    rmpv::encode::write_value(&mut body, &rmpv::Value::Map(map)).unwrap();
    body
}

#[tokio::test]
async fn raftkv() {
    let server = Server::start().await;
    for content_type in
        [&[][..], &[("content-type", "application/msgpack")], &[("content-type", "application/octet-stream")]]
    {
        let set = server.send("POST", "/insert-val", content_type, &insert("SET", "k".into(), "value".into())).await;
        assert_eq!((set.status, set.text()), (200, "ok"));
    }
    let get = server.get("/get-val?key=k").await;
    assert_eq!((get.status, get.text()), (200, "value"));
    assert_eq!(get.header("content-type"), Some("text/plain; charset=utf-8"));

    let list = rmpv::Value::Array(vec![1.into(), 2.5.into()]);
    server.send("POST", "/insert-val", &[], &insert("SET", rmpv::Value::Binary(b"\xff k".to_vec()), list)).await;
    assert_eq!(server.get("/get-val?key=%ff+k").await.text(), "[1,2.5]");

    let delete = server.send("POST", "/insert-val", &[], &insert("DELETE", "k".into(), rmpv::Value::Nil)).await;
    assert_eq!((delete.status, delete.text()), (200, "ok"));
    let missing = server.get("/get-val?key=k").await;
    assert_eq!((missing.status, missing.text()), (404, "Key Not Found"));

    let error = |reply: Reply, status| {
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().starts_with("error: "), "{}", reply.text());
        reply.text().to_owned()
    };
    let unknown = server.send("POST", "/insert-val", &[], &insert("INCR", "k".into(), 1.into())).await;
    assert!(error(unknown, 400).contains("INCR"));
    error(server.send("POST", "/insert-val", &[], b"\xc1").await, 400);
    error(server.send("POST", "/insert-val", &[], b"").await, 400);
    error(server.send("POST", "/insert-val", &[], b"\x81\xa2op\xa3SET").await, 400);
    error(server.send("POST", "/insert-val", &[], &insert("SET", "".into(), 1.into())).await, 400);
    error(server.send("POST", "/insert-val", &[], &insert("SET", 5.into(), 1.into())).await, 400);
    error(server.send("POST", "/insert-val", &[("content-type", "text/html")], b"x").await, 415);
    error(server.get("/get-val").await, 400);
    error(server.get("/insert-val").await, 405);
    server.memory.fail(Some(BackendError::Unavailable("no leader".into())));
    error(server.send("POST", "/insert-val", &[], &insert("SET", "k".into(), 1.into())).await, 503);
    error(server.get("/get-val?key=k").await, 503);
}

#[tokio::test]
async fn a_repeat_under_an_idempotency_key_is_marked_on_every_surface() {
    let server = Server::start().await;
    let json_key = br#"{"key":"k","value":1}"#;
    let requests = [
        ("/insert-val", insert("SET", "k".into(), "v".into())),
        ("/insert-val", insert("DELETE", "k".into(), rmpv::Value::Nil)),
        ("/v1/storage/key/k", b"v".to_vec()),
        ("/store", json_key.to_vec()),
        ("/put", json_key.to_vec()),
        ("/delete", br#"{"key":"k"}"#.to_vec()),
    ];
    let requests = requests.into_iter().map(|(path, body)| ("POST", path, body));
    let deletes = ["/v1/storage/key/k", "/store/k"].map(|path| ("DELETE", path, Vec::new()));
    for (number, (method, path, body)) in requests.chain(deletes).enumerate() {
        let key = number.to_string();
        let headers = [("idempotency-key", key.as_str())];
        let first = server.send(method, path, &headers, &body).await;
        assert_eq!((first.status, first.header("idempotency-replayed")), (200, None), "{method} {path}");
        let again = server.send(method, path, &headers, &body).await;
        assert_eq!((again.status, &again.body), (200, &first.body), "{method} {path}");
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{method} {path}");
    }
}

#[tokio::test]
async fn keva() {
    let server = Server::start().await;
    let post = server.send("POST", "/v1/storage/key/a%20b", &[("content-type", "application/json")], b"{raw}").await;
    assert_eq!((post.status, post.json()), (200, json!({"done": "true"})));
    assert_eq!(server.get("/v1/storage/key/a%20b").await.text(), "{raw}");
    assert_eq!(server.send("DELETE", "/v1/storage/key/a%20b", &[], b"").await.json(), json!({"done": "true"}));
    let missing = server.get("/v1/storage/key/a%20b").await;
    assert_eq!((missing.status, missing.body.len()), (204, 0));
    let empty = server.get("/v1/storage/key/").await;
    assert_eq!((empty.status, empty.json()), (400, json!({"error": "the key is empty"})));
    assert_eq!(server.send("PUT", "/v1/storage/key/a", &[], b"x").await.status, 405);
    server.memory.fail(Some(BackendError::Unavailable("no leader".into())));
    let down = server.send("POST", "/v1/storage/key/a", &[], b"x").await;
    assert_eq!((down.status, down.json()["error"].is_string()), (503, true));
}

#[tokio::test]
async fn arima() {
    let server = Server::start().await;
    let store = server.send("POST", "/store", &[], br#"{"key":"k","value":{"n":1.0}}"#).await;
    assert_eq!(store.status, 200);
    assert_eq!(store.json()["data"], json!({"key": "k", "value": {"n": 1.0}}));
    assert!(store.json()["message"].is_string());
    let get = server.get("/store/k").await;
    assert!(get.text().ends_with(r#""data":{"key":"k","value":{"n":1.0}}}"#), "{}", get.text());
    assert_eq!(server.send("DELETE", "/store/k", &[], b"").await.json()["data"]["value"], json!(null));

    let refused = |reply: Reply| {
        assert_eq!(reply.status, 422, "{}", reply.text());
        assert!(reply.json()["error"].is_string());
    };
    refused(server.get("/store/k").await);
    refused(server.send("POST", "/store", &[], b"{").await);
    refused(server.send("POST", "/store", &[], br#"{"key":""}"#).await);
    refused(server.send("POST", "/store", &[], br#"{"key":"k"}"#).await);
    refused(server.send("POST", "/store", &[("content-type", "text/html")], br#"{"key":"k","value":1}"#).await);

    let join = server.send("POST", "/raft/join", &[], br#"{"node_id":"n4","raft_address":"127.0.0.1:9"}"#).await;
    assert_eq!((join.status, join.json()["data"].clone()), (200, json!({"n4": "127.0.0.1:9"})));
    assert_eq!(server.get("/raft/stats").await.json()["data"], json!({"n4": "127.0.0.1:9"}));
    assert_eq!(server.send("POST", "/raft/remove", &[], br#"{"node_id":"n4"}"#).await.status, 200);
    refused(server.send("POST", "/raft/remove", &[], br#"{"node_id":"n4"}"#).await);
    refused(server.send("POST", "/raft/join", &[], br#"{"node_id":"","raft_address":"x"}"#).await);
    let fine: &[u8] = br#"{"node_id":"n5","raft_address":"127.0.0.1:9"}"#;
    refused(server.send("POST", "/raft/join?node_id=n6", &[], fine).await);
    refused(server.send("POST", "/raft/join?timeout=9s&timeout=8s", &[], fine).await);
    assert_eq!(server.send("POST", "/raft/join?timeout=9s", &[], fine).await.status, 200);
    refused(server.send("POST", "/raft/remove?dry_run=true", &[], br#"{"node_id":"n5"}"#).await);
    server.memory.fail(Some(BackendError::OutcomeUnknown("lost".into())));
    assert_eq!(server.send("POST", "/store", &[], br#"{"key":"k","value":1}"#).await.status, 504);
}

#[tokio::test]
async fn ravel() {
    let server = Server::start().await;
    for field in ["val", "value"] {
        let body = format!(r#"{{"key":"k","{field}":[1,18446744073709551615,2.0,"x"]}}"#);
        let put = server.send("POST", "/put", &[("content-type", "application/json")], body.as_bytes()).await;
        assert_eq!((put.status, put.json()), (200, json!({"msg": "ok"})));
    }
    let get = server.send("POST", "/get", &[], br#"{"key":"k"}"#).await;
    assert_eq!(get.text(), r#"{"key":"k","val":[1,18446744073709551615,2.0,"x"]}"#);
    assert_eq!(server.send("POST", "/delete", &[], br#"{"key":"k"}"#).await.json(), json!({"msg": "ok"}));
    let missing = server.send("POST", "/get", &[], br#"{"key":"k"}"#).await;
    assert_eq!((missing.status, missing.json()["error"].is_string()), (404, true));
    for (path, body) in [("/put", "{\"key\":\"k\"}"), ("/put", "[]"), ("/get", "{}"), ("/delete", "{\"key\":7}")] {
        let reply = server.send("POST", path, &[], body.as_bytes()).await;
        assert_eq!((reply.status, reply.json()["error"].is_string()), (400, true), "{path} {body}");
    }
    assert_eq!(server.get("/put").await.status, 405);
}
