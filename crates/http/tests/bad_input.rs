//! Bad input: a clear error, and nothing changed.

use crate::support::Server;
use raftkv_kv::Limits;

const JSON: (&str, &str) = ("content-type", "application/json");
const MSGPACK: (&str, &str) = ("content-type", "application/msgpack");

#[tokio::test]
async fn keys() {
    let server = Server::start().await;
    for (path, status, code) in [
        ("/v1/kv/".to_owned(), 400, "invalid_key"),
        ("/v1/kv/%00system".to_owned(), 400, "invalid_key"),
        ("/v1/kv/%f".to_owned(), 400, "malformed_uri"),
        (format!("/v1/kv/{}", "k".repeat(4097)), 413, "key_too_large"),
        (format!("/v1/kv/{}", "%ff".repeat(4097)), 413, "key_too_large"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = server.send(method, &path, &[], b"").await;
            assert_eq!(reply.problem(status), code, "{method}");
            if status == 413 {
                assert_eq!(reply.json()["limit"], 4096);
            }
        }
    }
    let longest = format!("/v1/kv/{}", "%ff".repeat(4096));
    assert_eq!(server.put(&longest, "v").await.status, 200);
    assert_eq!(server.get(&longest).await.text(), "v");
    assert_eq!(server.memory.writes(), 1);
}

#[tokio::test]
async fn values() {
    let server = Server::start().await;
    let nested = "[".repeat(100_000);
    let nested_whole = format!("{nested}{}", "]".repeat(100_000));
    let nested_msgpack = vec![0x91; 100_000];
    let mib = 1024 * 1024;
    let large = "x".repeat(mib);
    let large_json = format!("\"{large}\"");
    let large_msgpack = [&[0xdb, 0, 0x10, 0, 0][..], large.as_bytes()].concat();
    for (header, body, status, code) in [
        (JSON, &b"{"[..], 400, "malformed_json"),
        (JSON, b"", 400, "malformed_json"),
        (JSON, b"{\"a\":1,\"a\":2}", 400, "malformed_json"),
        (JSON, b"18446744073709551616", 400, "malformed_json"),
        (JSON, b"1 2", 400, "trailing_bytes"),
        (JSON, b"\"\xff\"", 400, "malformed_json"),
        (JSON, nested.as_bytes(), 400, "nested_too_deep"),
        (JSON, nested_whole.as_bytes(), 400, "nested_too_deep"),
        (JSON, large_json.as_bytes(), 413, "value_too_large"),
        (MSGPACK, b"", 400, "malformed_msgpack"),
        (MSGPACK, b"\xc1", 400, "malformed_msgpack"),
        (MSGPACK, b"\xd4\x01\x00", 400, "malformed_msgpack"),
        (MSGPACK, b"\xa2a", 400, "malformed_msgpack"),
        (MSGPACK, b"\xa1\xff", 400, "malformed_msgpack"),
        (MSGPACK, b"\xdf\xff\xff\xff\xff", 400, "malformed_msgpack"),
        (MSGPACK, b"\x01\x02", 400, "trailing_bytes"),
        (MSGPACK, &nested_msgpack, 400, "nested_too_deep"),
        (MSGPACK, &large_msgpack, 413, "value_too_large"),
        (("content-type", "text/plain"), large.as_bytes(), 413, "value_too_large"),
        (("content-type", "text/plain"), b"\xff", 400, "invalid_utf8"),
        (("content-type", "text/plain; charset=utf-16"), b"x", 415, "unsupported_media_type"),
        (("content-type", "image/png"), large.as_bytes(), 413, "value_too_large"),
        (("content-encoding", "gzip"), b"x", 415, "unsupported_media_type"),
        (("if-match", "W/\"1\""), b"x", 400, "invalid_precondition"),
        (("if-match", "\"1\", \"2\""), b"x", 400, "invalid_precondition"),
        (("if-none-match", "\"1\""), b"x", 400, "invalid_precondition"),
    ] {
        let reply = server.send("PUT", "/v1/kv/k", &[header], body).await;
        assert_eq!(
            reply.problem(status),
            code,
            "{header:?} {:?}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
        if code == "value_too_large" {
            assert_eq!(reply.json()["limit"], mib);
        }
    }
    assert_eq!(server.memory.writes(), 0);
    let fits = "x".repeat(mib - 5);
    assert_eq!(server.put("/v1/kv/k", &fits).await.status, 200);
    assert_eq!(server.get("/v1/kv/k").await.body.len(), mib - 5);
}

#[tokio::test]
async fn batches() {
    let limits = Limits { max_batch_ops: 3, max_batch_bytes: 100, max_value_bytes: 80, ..Limits::default() };
    let server = Server::with(Default::default(), limits).await;
    let put = |value: &str| format!(r#"{{"op":"put","key":"k","value":{value}}}"#);
    let batch = |ops: &[String]| format!(r#"{{"operations":[{}]}}"#, ops.join(","));
    let text = format!("\"{}\"", "x".repeat(60));
    let too_long = format!("\"{}\"", "x".repeat(90));
    let too_deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for (body, status, code) in [
        ("".to_owned(), 400, "malformed_json"),
        ("[]".to_owned(), 400, "malformed_request"),
        ("{}".to_owned(), 400, "malformed_request"),
        (r#"{"operations":{}}"#.to_owned(), 400, "malformed_request"),
        (r#"{"operations":[],"atomic":true}"#.to_owned(), 400, "malformed_request"),
        (batch(&["1".to_owned()]), 400, "malformed_request"),
        (batch(&[put("1"), r#"{"op":"incr","key":"k"}"#.to_owned()]), 400, "unknown_op"),
        (batch(&[r#"{"op":"put","key":"k"}"#.to_owned()]), 400, "malformed_request"),
        (batch(&[r#"{"op":"delete","key":"k","value":1}"#.to_owned()]), 400, "malformed_request"),
        (batch(&[r#"{"op":"delete"}"#.to_owned()]), 400, "malformed_request"),
        (batch(&[r#"{"op":"delete","key":""}"#.to_owned()]), 400, "invalid_key"),
        (batch(&[r#"{"op":"delete","key_base64":"!"}"#.to_owned()]), 400, "malformed_request"),
        (batch(&[r#"{"op":"delete","key":"k","if":{"absent":false}}"#.to_owned()]), 400, "malformed_request"),
        (batch(&[r#"{"op":"delete","key":"k","if":{"revision":-1}}"#.to_owned()]), 400, "malformed_request"),
        (
            batch(&[r#"{"op":"delete","key":"k","if":{"absent":true,"present":true}}"#.to_owned()]),
            400,
            "malformed_request",
        ),
        (batch(&[put("1"), put("2"), put("3"), put("4")]), 413, "batch_too_large"),
        (batch(&[put(&text), put(&text)]), 413, "batch_too_large"),
        (batch(&[put(&too_long)]), 413, "value_too_large"),
        (batch(&[put(&too_deep)]), 400, "nested_too_deep"),
        ("[".repeat(100_000), 400, "nested_too_deep"),
    ] {
        let reply = server.send("POST", "/v1/batch", &[JSON], body.as_bytes()).await;
        assert_eq!(reply.problem(status), code, "{body:.80}");
    }
    let html = server.send("POST", "/v1/batch", &[("content-type", "text/html")], b"{}").await;
    assert_eq!(html.problem(415), "unsupported_media_type");
    let malformed = server.send("POST", "/v1/batch", &[MSGPACK], b"\x81\xaaoperations\xdd\xff\xff\xff\xff").await;
    assert_eq!(malformed.problem(400), "malformed_msgpack");
    assert_eq!(server.memory.writes(), 0);
}

#[tokio::test]
async fn headers_that_may_be_there_once() {
    let server = Server::start().await;
    for (name, first, second) in [
        ("idempotency-key", "a", "b"),
        ("Idempotency-Key", "a", "a"),
        ("content-type", "text/plain", "application/json"),
        ("content-encoding", "identity", "gzip"),
        ("raftkv-consistency", "quorum", "stale"),
        // With the one that the client of these tests sends.
        ("host", "a", "b"),
    ] {
        let twice = [(name, first), ("x-between", "x"), (name, second)];
        for (method, path) in [("PUT", "/v1/kv/k"), ("GET", "/v1/kv/k"), ("DELETE", "/v1/kv/k"), ("POST", "/v1/batch")]
        {
            let reply = server.send(method, path, &twice, b"{}").await;
            assert_eq!(reply.problem(400), "repeated_header", "{method} {name}");
            assert!(reply.json()["detail"].as_str().unwrap().contains(&name.to_lowercase()), "{name}");
        }
        // The other surfaces tell it in their own form.
        let keva = server.send("POST", "/v1/storage/key/k", &twice, b"x").await;
        assert_eq!((keva.status, keva.json()["error"].is_string()), (400, true), "{name}");
    }
    for name in ["if-match", "if-none-match"] {
        let reply = server.send("PUT", "/v1/kv/k", &[(name, "*"), (name, "*")], b"x").await;
        assert_eq!(reply.problem(400), "invalid_precondition", "{name}");
    }
    assert_eq!(server.memory.writes(), 0);
    // Lists may be told on several lines.
    let lists = [("accept", "text/html"), ("accept", "text/plain"), ("x-forwarded-for", "a"), ("x-forwarded-for", "b")];
    assert_eq!(server.send("PUT", "/v1/kv/k", &lists, b"x").await.status, 200);
    assert_eq!(server.send("GET", "/v1/kv/k", &lists, b"").await.text(), "x");
}

#[tokio::test]
async fn paths_and_methods() {
    let server = Server::start().await;
    assert_eq!(server.get("/").await.problem(404), "unknown_path");
    assert_eq!(server.get("/v2/kv/k").await.problem(404), "unknown_path");
    for (method, path, allow) in [
        ("POST", "/v1/kv/k", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv/k", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/kv", "GET, HEAD"),
        ("GET", "/v1/batch", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ] {
        let reply = server.send(method, path, &[], b"").await;
        assert_eq!(reply.problem(405), "method_not_allowed");
        assert_eq!(reply.header("allow"), Some(allow));
    }
}
