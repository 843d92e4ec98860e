//! The native surface, as a client sees it.

use std::time::Duration;

use crate::support::Server;
use raftkv_backend::BackendError;
use raftkv_kv::Limits;
use serde_json::json;

#[tokio::test]
async fn a_text_is_put_read_replaced_and_deleted() {
    let server = Server::start().await;
    let put = server.put("/v1/kv/greeting", "hello").await;
    assert_eq!((put.status, put.json()), (200, json!({"revision": 1, "created": true})));
    assert_eq!((put.header("etag"), put.header("raftkv-revision")), (Some("\"1\""), Some("1")));
    assert_eq!(put.header("raftkv-node"), Some("memory"));

    let get = server.get("/v1/kv/greeting").await;
    assert_eq!((get.status, get.text()), (200, "hello"));
    assert_eq!(get.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(get.header("raftkv-consistency"), Some("linearizable"));

    server.put("/v1/kv/greeting", "again").await;
    let head = server.send("HEAD", "/v1/kv/greeting", &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5"), 0));
    assert_eq!((head.header("raftkv-revision"), head.header("raftkv-create-revision")), (Some("2"), Some("1")));

    let delete = server.send("DELETE", "/v1/kv/greeting", &[], b"").await;
    assert_eq!((delete.status, delete.json()), (200, json!({"revision": 3, "existed": true})));
    let missing = server.get("/v1/kv/greeting").await;
    assert_eq!(missing.problem(404), "key_not_found");
    assert_eq!(missing.header("raftkv-consistency"), Some("linearizable"));
    assert_eq!(server.send("DELETE", "/v1/kv/greeting", &[], b"").await.problem(404), "key_not_found");
}

#[tokio::test]
async fn the_head_of_a_value_has_its_length() {
    let server = Server::start().await;
    for (key, value) in [("greeting", "hello"), ("nothing", "")] {
        let path = format!("/v1/kv/{key}");
        server.put(&path, value).await;
        let head = server.send("HEAD", &path, &[], b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()), "{key}");
    }
}

#[tokio::test]
async fn a_key_is_bytes_and_may_hold_slashes() {
    let server = Server::start().await;
    for (written, read) in [
        ("/v1/kv/a/b", "/v1/kv/a%2Fb"),
        ("/v1/kv/%ff%FE", "/v1/kv/%FF%fe"),
        ("/v1/kv/a+b", "/v1/kv/a%2Bb"),
        ("/v1/kv/a//b/", "/v1/kv/a%2F%2Fb%2F"),
        ("/v1/kv/%C3%A9", "/v1/kv/%c3%a9"),
    ] {
        server.put(written, written).await;
        assert_eq!(server.get(read).await.text(), written);
    }
    assert_eq!(server.memory.revision(), 5, "five different keys");
}

#[tokio::test]
async fn a_value_keeps_its_type_and_is_given_as_asked() {
    let server = Server::start().await;
    let json = ("content-type", "application/json");
    let exact = r#"{"big":18446744073709551615,"small":-9223372036854775808,"float":1.0,"list":[null,true]}"#;
    assert_eq!(server.send("PUT", "/v1/kv/j", &[json], exact.as_bytes()).await.status, 200);
    let get = server.get("/v1/kv/j").await;
    assert_eq!((get.header("content-type"), get.text()), (Some("application/json"), exact));
    let get = server.send("GET", "/v1/kv/j", &[("accept", "application/msgpack")], b"").await;
    assert_eq!(get.header("content-type"), Some("application/msgpack"));
    let value = rmpv::decode::read_value(&mut &get.body[..]).unwrap();
    assert_eq!(value["big"].as_u64(), Some(u64::MAX));
    assert_eq!(value["float"], rmpv::Value::F64(1.0));
    assert_eq!(server.send("GET", "/v1/kv/j", &[("accept", "text/plain")], b"").await.problem(406), "not_acceptable");

    // {1: bin}: JSON cannot say it.
    let odd = b"\x81\x01\xc4\x01\xff";
    server.send("PUT", "/v1/kv/odd", &[("content-type", "application/x-msgpack")], odd).await;
    let get = server.get("/v1/kv/odd").await;
    assert_eq!((get.header("content-type"), &get.body[..]), (Some("application/msgpack"), &odd[..]));
    let get = server.send("GET", "/v1/kv/odd", &[("accept", "application/json")], b"").await;
    assert_eq!(get.problem(406), "not_acceptable");

    server.send("PUT", "/v1/kv/bin", &[("content-type", "image/png")], b"\x89PNG").await;
    let get = server.get("/v1/kv/bin").await;
    assert_eq!((get.header("content-type"), &get.body[..]), (Some("application/octet-stream"), &b"\x89PNG"[..]));

    let form = ("content-type", "application/x-www-form-urlencoded");
    server.send("PUT", "/v1/kv/curl", &[form], b"hello").await;
    assert_eq!(server.get("/v1/kv/curl").await.text(), "hello");
    server.put("/v1/kv/empty", "").await;
    assert_eq!(server.get("/v1/kv/empty").await.text(), "");
}

#[tokio::test]
async fn conditions_are_checked() {
    let server = Server::start().await;
    let absent = [("if-none-match", "*")];
    assert_eq!(server.send("PUT", "/v1/kv/k", &absent, b"1").await.status, 200);
    let refused = server.send("PUT", "/v1/kv/k", &absent, b"2").await;
    assert_eq!(refused.problem(412), "precondition_failed");
    assert_eq!(refused.json()["current_revision"], 1);
    assert_eq!(server.send("PUT", "/v1/kv/k", &[("if-match", "\"1\"")], b"3").await.status, 200);
    assert_eq!(
        server.send("PUT", "/v1/kv/k", &[("if-match", "\"1\"")], b"4").await.problem(412),
        "precondition_failed"
    );
    assert_eq!(server.send("PUT", "/v1/kv/new", &[("if-match", "*")], b"5").await.problem(412), "precondition_failed");
    assert_eq!(
        server.send("DELETE", "/v1/kv/k", &[("if-match", "\"9\"")], b"").await.problem(412),
        "precondition_failed"
    );
    assert_eq!(server.get("/v1/kv/k").await.text(), "3");

    let same = server.send("GET", "/v1/kv/k", &[("if-none-match", "\"1\", \"2\"")], b"").await;
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some("\"2\"")));
    assert_eq!(server.send("GET", "/v1/kv/k", &[("if-none-match", "\"1\"")], b"").await.status, 200);
    assert_eq!(server.send("GET", "/v1/kv/k", &[("if-match", "\"1\"")], b"").await.problem(412), "precondition_failed");
}

#[tokio::test]
async fn conditions_of_reads_mean_what_http_says() {
    let server = Server::start().await;
    server.put("/v1/kv/k", "a value").await;
    let (matches, none) = ("if-match", "if-none-match");
    for (headers, status) in [
        (vec![(matches, "\"1\", \"93\"")], 200),
        (vec![(matches, "\"93\""), (matches, "\"1\"")], 200),
        (vec![(matches, "*")], 200),
        (vec![(matches, "\"92\", \"93\"")], 412),
        (vec![(matches, "W/\"1\"")], 412),
        (vec![(matches, "\"abc\"")], 412),
        (vec![(matches, "1")], 400),
        (vec![(matches, "")], 400),
        (vec![(none, "W/\"1\"")], 304),
        (vec![(none, "\"93\", \"1\"")], 304),
        (vec![(none, "*")], 304),
        (vec![(none, "\"93\"")], 200),
        (vec![(matches, "\"1\""), (none, "\"1\"")], 304),
        (vec![(matches, "\"2\""), (none, "\"1\"")], 412),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = server.send(method, "/v1/kv/k", &headers, b"").await;
            assert_eq!(reply.status, status, "{method} {headers:?}");
            if matches!(status, 200 | 304) {
                assert_eq!(reply.header("etag"), Some("\"1\""), "{method} {headers:?}");
            }
            if status != 400 {
                assert_eq!(reply.header("raftkv-consistency"), Some("linearizable"), "{method} {headers:?}");
            }
        }
    }
    // Of a key that is not there nothing matches.
    for (header, status) in [((matches, "*"), 412), ((matches, "\"1\", \"2\""), 412), ((none, "*"), 404)] {
        assert_eq!(server.send("GET", "/v1/kv/none", &[header], b"").await.status, status, "{header:?}");
    }
}

#[tokio::test]
async fn what_needs_no_key_of_the_store_asks_it_all_the_same() {
    let server = Server::start().await;
    server.put("/v1/kv/k", "a value").await;
    let empty = ["/v1/kv?start=a&end=a", "/v1/kv?start=b&end=a", "/v1/kv?prefix=b&end=a", "/v1/kv?prefix=b&start=c"];
    let batch = || server.send("POST", "/v1/batch", &[("content-type", "application/json")], b"{\"operations\":[]}");
    for path in empty {
        let path = format!("{path}&consistency=quorum");
        let page = server.get(&path).await;
        assert_eq!(page.json(), json!({"entries": [], "next_cursor": null, "store_revision": 1}), "{path}");
        assert_eq!(page.header("raftkv-store-revision"), Some("1"), "{path}");
        assert_eq!(page.header("raftkv-consistency"), Some("quorum"), "{path}");
    }
    assert_eq!(batch().await.json(), json!({"results": []}));
    server.memory.fail(Some(BackendError::Unavailable("no quorum".into())));
    for path in empty {
        assert_eq!(server.get(path).await.problem(503), "unavailable", "{path}");
    }
    assert_eq!(batch().await.problem(503), "unavailable");
}

#[tokio::test]
async fn consistency_and_timeout_are_asked_for() {
    let server = Server::start().await;
    server.put("/v1/kv/k", "v").await;
    for (path, headers, served) in [
        ("/v1/kv/k?consistency=stale", vec![], "stale"),
        ("/v1/kv/k?consistency=quorum&timeout=2s", vec![], "quorum"),
        // An older name.
        ("/v1/kv/k?consistency=lease", vec![], "linearizable"),
        // A number without a unit is milliseconds.
        ("/v1/kv/k?timeout=60000", vec![("raftkv-consistency", "stale")], "stale"),
        ("/v1/kv/k?consistency=linearizable", vec![("raftkv-consistency", "stale")], "linearizable"),
    ] {
        let get = server.send("GET", path, &headers, b"").await;
        assert_eq!(get.header("raftkv-consistency"), Some(served), "{path}");
    }
    for (path, code) in [
        ("/v1/kv/k?consistency=eventual", "invalid_parameter"),
        ("/v1/kv/k?timeout=soon", "invalid_parameter"),
        ("/v1/kv/k?timeout=60001", "invalid_parameter"),
        ("/v1/kv?timeout=2m", "invalid_parameter"),
        ("/v1/kv/k?timeout=1&timeout=2", "invalid_parameter"),
        ("/v1/kv/k?consistncy=stale", "unknown_parameter"),
        ("/v1/kv/k?timeout=%zz", "malformed_uri"),
    ] {
        assert_eq!(server.get(path).await.problem(400), code, "{path}");
    }
}

#[tokio::test]
async fn a_repeat_with_the_same_idempotency_key_is_answered_and_not_applied() {
    let server = Server::start().await;
    let key = [("idempotency-key", "order-17")];
    let first = server.send("PUT", "/v1/kv/k", &key, b"v").await;
    assert_eq!(first.header("idempotency-replayed"), None);
    server.put("/v1/kv/k", "later").await;
    let again = server.send("PUT", "/v1/kv/k", &key, b"v").await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(server.get("/v1/kv/k").await.text(), "later");
    let other = server.send("PUT", "/v1/kv/k", &key, b"w").await;
    assert_eq!(other.problem(422), "idempotency_key_reused");

    let gone = [("idempotency-key", "d")];
    assert_eq!(server.send("DELETE", "/v1/kv/none", &gone, b"").await.status, 404);
    let again = server.send("DELETE", "/v1/kv/none", &gone, b"").await;
    assert_eq!(again.problem(404), "key_not_found");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));

    // What was refused stays refused under its key, though it would hold by now.
    let refused = [("idempotency-key", "only-new"), ("if-none-match", "*")];
    let first = server.send("PUT", "/v1/kv/k", &refused, b"v").await;
    assert_eq!((first.problem(412).as_str(), first.header("idempotency-replayed")), ("precondition_failed", None));
    server.send("DELETE", "/v1/kv/k", &[], b"").await;
    let again = server.send("PUT", "/v1/kv/k", &refused, b"v").await;
    assert_eq!((again.problem(412), again.json()), ("precondition_failed".to_owned(), first.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    server.put("/v1/kv/k", "later").await;
    let gone = [("idempotency-key", "gone"), ("if-match", "\"99\"")];
    assert_eq!(server.send("DELETE", "/v1/kv/k", &gone, b"").await.header("idempotency-replayed"), None);
    let again = server.send("DELETE", "/v1/kv/k", &gone, b"").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (412, Some("true")));
    // A key that was used for something else is no repeat.
    let other = server.send("PUT", "/v1/kv/k", &key, b"w").await;
    assert_eq!((other.status, other.header("idempotency-replayed")), (422, None));

    let long = "x".repeat(256);
    let refused = server.send("PUT", "/v1/kv/k", &[("idempotency-key", &long)], b"v").await;
    assert_eq!(refused.problem(400), "invalid_idempotency_key");
    assert_eq!(refused.json()["limit"], 255);
    let refused = server.send("PUT", "/v1/kv/k", &[("idempotency-key", "")], b"v").await;
    assert_eq!(refused.problem(400), "invalid_idempotency_key");
}

#[tokio::test]
async fn a_listing_is_read_page_by_page() {
    let server = Server::start().await;
    for n in 0..25 {
        server.put(&format!("/v1/kv/user/{n:02}"), &n.to_string()).await;
    }
    server.put("/v1/kv/zebra", "z").await;
    let mut seen = Vec::new();
    let mut path = "/v1/kv?prefix=user/&limit=10".to_owned();
    for _ in 0..3 {
        let page = server.get(&path).await.json();
        for entry in page["entries"].as_array().unwrap() {
            assert!(entry["revision"].is_u64() && entry["create_revision"].is_u64());
            seen.push((entry["key"].as_str().unwrap().to_owned(), entry["value"].as_str().unwrap().to_owned()));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/kv?prefix=user/&limit=10&cursor={cursor}"),
            None => break,
        }
    }
    let wanted: Vec<_> = (0..25).map(|n| (format!("user/{n:02}"), n.to_string())).collect();
    assert_eq!(seen, wanted);

    let keys = |reply: crate::support::Reply| {
        let page = reply.json();
        let entries = page["entries"].as_array().unwrap().clone();
        entries.iter().map(|e| e["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(server.get("/v1/kv?start=user/23&keys_only=true").await), ["user/23", "user/24", "zebra"]);
    assert_eq!(keys(server.get("/v1/kv?prefix=user/&start=user/23&end=user/24").await), ["user/23"]);
    assert_eq!(keys(server.get("/v1/kv?start=b&end=a").await), Vec::<String>::new());
    assert!(server.get("/v1/kv?keys_only").await.json()["entries"][0].get("value").is_none());

    for (path, code) in [
        ("/v1/kv?limit=0", "invalid_parameter"),
        ("/v1/kv?limit=10001", "invalid_parameter"),
        ("/v1/kv?limit=ten", "invalid_parameter"),
        ("/v1/kv?cursor=nonsense", "invalid_cursor"),
        ("/v1/kv?prfix=a", "unknown_parameter"),
    ] {
        assert_eq!(server.get(path).await.problem(400), code, "{path}");
    }
    let cursor = server.get("/v1/kv?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let elsewhere = server.get(&format!("/v1/kv?prefix=z&cursor={cursor}")).await;
    assert_eq!(elsewhere.problem(400), "invalid_cursor");
}

#[tokio::test]
async fn a_listing_loses_nothing_that_json_cannot_say() {
    let server = Server::start().await;
    server.send("PUT", "/v1/kv/%ff%22", &[("content-type", "application/octet-stream")], b"\x01").await;
    let entry = server.get("/v1/kv?prefix=%ff").await.json()["entries"][0].clone();
    assert_eq!(entry["key_base64"], "/yI=");
    assert_eq!(entry["value_base64"], "xAEB");
    assert!(entry.get("key").is_none() && entry.get("value").is_none());
    let page = server.send("GET", "/v1/kv", &[("accept", "application/msgpack")], b"").await;
    let page = rmpv::decode::read_value(&mut &page.body[..]).unwrap();
    assert_eq!(page["entries"][0]["key"], rmpv::Value::Binary(b"\xff\"".to_vec()));
    assert_eq!(page["entries"][0]["value"], rmpv::Value::Binary(vec![1]));
    assert!(page["next_cursor"].is_nil());
}

#[tokio::test]
async fn a_page_ends_at_the_limit_of_bytes() {
    let limits = Limits { max_list_bytes: 250, ..Limits::default() };
    let server = Server::with(Default::default(), limits).await;
    for key in ["a", "b", "c"] {
        server.put(&format!("/v1/kv/{key}"), &"x".repeat(100)).await;
    }
    let page = server.get("/v1/kv").await.json();
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    assert!(page["next_cursor"].is_string());
}

#[tokio::test]
async fn a_batch_answers_for_each_operation() {
    let server = Server::start().await;
    let body = json!({"operations": [
        {"op": "put", "key": "a", "value": {"n": 1}},
        {"op": "put", "key": "a", "value": 2, "if": {"absent": true}},
        {"op": "put", "key": "a", "value": 3, "if": {"revision": 1}},
        {"op": "delete", "key": "none"},
        {"op": "put", "key_base64": "/w==", "value_base64": "xAEB", "if": {"absent": true}},
        {"op": "delete", "key": "a", "if": {"present": true}},
    ]});
    let json_type = ("content-type", "application/json");
    let batch = server.send("POST", "/v1/batch", &[json_type], body.to_string().as_bytes()).await;
    assert_eq!(batch.status, 200);
    assert_eq!(
        batch.json(),
        json!({"results": [
            {"status": 200, "revision": 1, "created": true},
            {"status": 412, "code": "precondition_failed", "current_revision": 1},
            {"status": 200, "revision": 2, "created": false},
            {"status": 404, "code": "key_not_found", "existed": false},
            {"status": 200, "revision": 3, "created": true},
            {"status": 200, "revision": 4, "existed": true},
        ]})
    );
    assert_eq!(server.get("/v1/kv/%ff").await.body, b"\x01");
    let empty = server.send("POST", "/v1/batch", &[json_type], b"{\"operations\":[]}").await;
    assert_eq!(empty.json(), json!({"results": []}));

    // A repeat says so of each operation, of those that were refused as well.
    let headers = [json_type, ("idempotency-key", "b")];
    let ops = json!({"operations": [{"op": "put", "key": "a", "value": 1, "if": {"revision": 99}}]}).to_string();
    let first = server.send("POST", "/v1/batch", &headers, ops.as_bytes()).await;
    assert_eq!(
        (first.json()["results"][0]["status"].clone(), first.header("idempotency-replayed")),
        (json!(412), None)
    );
    let again = server.send("POST", "/v1/batch", &headers, ops.as_bytes()).await;
    let refused = json!({"status": 412, "code": "precondition_failed", "current_revision": 0, "replayed": true});
    assert_eq!((&again.json()["results"][0], again.header("idempotency-replayed")), (&refused, Some("true")));
}

#[tokio::test]
async fn a_batch_in_msgpack_is_answered_in_msgpack_and_repeats_are_not_applied() {
    let server = Server::start().await;
    let op = |key: rmpv::Value| {
        rmpv::Value::Map(vec![("op".into(), "put".into()), ("key".into(), key), ("value".into(), 1.5.into())])
    };
    let ops = vec![op("a".into()), op(rmpv::Value::Binary(vec![0xff]))];
    let mut body = Vec::new();
    let batch = rmpv::Value::Map(vec![("operations".into(), rmpv::Value::Array(ops))]);
    rmpv::encode::write_value(&mut body, &batch).unwrap();
    let headers = [("content-type", "application/msgpack"), ("idempotency-key", "b")];
    let reply = server.send("POST", "/v1/batch", &headers, &body).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/msgpack")));
    let result = rmpv::decode::read_value(&mut &reply.body[..]).unwrap();
    assert_eq!(result["results"][1]["revision"].as_u64(), Some(2));

    let again = server.send("POST", "/v1/batch", &headers, &body).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let result = rmpv::decode::read_value(&mut &again.body[..]).unwrap();
    assert_eq!(result["results"][0]["replayed"].as_bool(), Some(true));
    assert_eq!(server.memory.revision(), 2);
}

#[tokio::test]
async fn what_the_backend_cannot_do_is_said_honestly() {
    let server = Server::start().await;
    for (failure, status, code, outcome) in [
        (BackendError::Unavailable("no leader".into()), 503, "unavailable", "not_applied"),
        (BackendError::Overloaded { retry_after: Duration::from_millis(1500) }, 429, "overloaded", "not_applied"),
        (BackendError::OutcomeUnknown("leader lost".into()), 504, "outcome_unknown", "unknown"),
        (BackendError::DiskFull("1 byte free".to_owned()), 507, "disk_full", "not_applied"),
        (BackendError::DeadlineExceeded("read".into()), 503, "deadline_exceeded", "not_applied"),
        (BackendError::ShuttingDown, 503, "shutting_down", "not_applied"),
        (BackendError::Internal("damaged".into()), 500, "internal", "not_applied"),
    ] {
        let is_overload = matches!(failure, BackendError::Overloaded { .. });
        server.memory.fail(Some(failure));
        let reply = server.put("/v1/kv/k", "v").await;
        assert_eq!(reply.problem(status), code);
        assert_eq!(reply.json()["outcome"], outcome);
        if is_overload {
            assert_eq!(reply.header("retry-after"), Some("2"));
        }
        assert_eq!(server.get("/readyz").await.status, status);
        assert_eq!(server.get("/healthz").await.status, 200);
    }
    server.memory.fail(None);
    assert_eq!(server.get("/readyz").await.text(), "ready\n");
}

#[tokio::test]
async fn the_description_names_every_path_and_every_path_answers() {
    let server = Server::start().await;
    assert_eq!(server.get("/metrics").await.text(), "up 1\n");
    let document = server.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/v1/kv",
        "/v1/kv/{key}",
        "/v1/batch",
        "/insert-val",
        "/get-val",
        "/v1/storage/key/{key}",
        "/store",
        "/store/{key}",
        "/raft/join",
        "/raft/remove",
        "/raft/stats",
        "/put",
        "/get",
        "/delete",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let reply = server.send(&method.to_uppercase(), &path.replace("{key}", "k"), &[], b"").await;
            assert_ne!(reply.status, 405, "{method} {path}");
            let refused = &operations[method]["responses"]["403"];
            assert!(refused.is_object(), "{method} {path}: what pages of other sites are told");
            assert!(!String::from_utf8_lossy(&reply.body).contains("unknown_path"), "{method} {path}");
        }
    }
    assert!(document["components"]["schemas"]["ProblemBody"].is_object());
}
