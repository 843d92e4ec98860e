//! A node passes on to a router what its group cannot answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use raftkv_http::{Elsewhere, HttpLimits, serve};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Connection, Server};

/// A node whose group has no keys at all, in front of `routers`.
async fn node(routers: &[SocketAddr], is_part: Arc<AtomicBool>) -> SocketAddr {
    let alone = Router::new().fallback(|request: Request<Body>| async move {
        match request.uri().path() {
            "/readyz" => (StatusCode::OK, "the node").into_response(),
            _ => (StatusCode::MISDIRECTED_REQUEST, "not mine").into_response(),
        }
    });
    let routers: Vec<_> = routers.iter().map(SocketAddr::to_string).collect();
    let elsewhere = Elsewhere::new(&routers, Duration::from_secs(5), move || is_part.load(Ordering::Relaxed)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, elsewhere.around(alone.into()), HttpLimits::default(), std::future::pending()));
    addr
}

async fn send(
    node: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> crate::support::Reply {
    Connection::open(node).await.send(method, path, headers, body).await
}

fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap()
}

#[tokio::test]
async fn every_surface_is_answered_by_the_router() {
    let router = Server::start().await;
    // The first address is nobody's: the next one is asked.
    let node = node(&[nobody(), router.addr], Arc::new(AtomicBool::new(true))).await;
    let json_type = [("content-type", "application/json")];
    let put = send(node, "PUT", "/v1/kv/a%2Fb?timeout=2s", &json_type, b"{\"n\":1}").await;
    assert_eq!((put.status, put.json()["created"].clone()), (200, json!(true)));
    let got = send(node, "GET", "/v1/kv/a%2Fb", &[], b"").await;
    assert_eq!((got.status, got.json()), (200, json!({"n": 1})));
    let head = send(node, "HEAD", "/v1/kv/a%2Fb", &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("7")));
    let list = send(node, "GET", "/v1/kv?prefix=a/", &[], b"").await;
    assert_eq!(list.json()["entries"][0]["key"], "a/b");
    let batch = json!({"operations": [{"op": "put", "key": "c", "value": 2}]}).to_string();
    let batch = send(node, "POST", "/v1/batch", &json_type, batch.as_bytes()).await;
    assert_eq!(batch.json()["results"][0]["status"], 200);
    let ravel = send(node, "POST", "/get", &json_type, b"{\"key\":\"c\"}").await;
    assert_eq!(ravel.json(), json!({"key": "c", "val": 2}));
    assert_eq!(send(node, "GET", "/v1/storage/key/none", &[], b"").await.status, 204);
    assert_eq!(send(node, "GET", "/get-val?key=none", &[], b"").await.text(), "Key Not Found");
    // About the node itself.
    assert_eq!(send(node, "GET", "/readyz", &[], b"").await.text(), "the node");
    // Refused by the router as it would be here.
    assert_eq!(send(node, "PUT", "/v1/kv/a", &json_type, b"{").await.status, 400);
}

#[tokio::test]
async fn a_page_of_the_node_is_answered_by_the_router_as_well() {
    let router = Server::start().await;
    let node = node(&[router.addr], Arc::new(AtomicBool::new(true))).await;
    let origin = format!("http://{node}");
    let put = |host: &str| {
        format!(
            "PUT /v1/kv/a HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\nsec-fetch-site: same-origin\r\ncookie: a=b\r\n\
             content-type: text/plain\r\ncontent-length: 1\r\n\r\nv"
        )
    };
    for (host, status) in [("rebound.example", 403), (node.to_string().as_str(), 200)] {
        let mut connection = Connection::open(node).await;
        connection.write(put(host).as_bytes()).await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, status, "{host}");
    }
    assert_eq!(router.get("/v1/kv/a").await.text(), "v");
}

#[tokio::test]
async fn a_plain_group_passes_nothing_on() {
    let router = Server::start().await;
    let is_part = Arc::new(AtomicBool::new(false));
    let node = node(&[router.addr], Arc::clone(&is_part)).await;
    assert_eq!(send(node, "GET", "/v1/kv/a", &[], b"").await.status, 421);
    is_part.store(true, Ordering::Relaxed);
    assert_eq!(send(node, "GET", "/v1/kv/a", &[], b"").await.status, 404);
    // What came from another node goes no further.
    assert_eq!(send(node, "GET", "/v1/kv/a", &[("raftkv-forwarded", "true")], b"").await.status, 421);
}

#[tokio::test]
async fn without_a_router_nothing_was_done_and_with_a_dying_one_it_is_not_known() {
    let node_alone = node(&[nobody()], Arc::new(AtomicBool::new(true))).await;
    let refused = send(node_alone, "PUT", "/v1/kv/a", &[], b"x").await;
    assert_eq!((refused.status, refused.json()["outcome"].clone()), (503, json!("not_applied")));

    // Takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dying = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut byte = [0];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
        }
    });
    let node = node(&[dying], Arc::new(AtomicBool::new(true))).await;
    let unknown = send(node, "PUT", "/v1/kv/a", &[], b"x").await;
    assert_eq!((unknown.status, unknown.json()["outcome"].clone()), (504, json!("unknown")));
    let read: crate::support::Reply = send(node, "GET", "/v1/kv/a", &[], b"").await;
    assert_eq!(read.status, 503);
    // A read is one, whatever its method.
    assert_eq!(send(node, "POST", "/get", &[], b"{\"key\":\"a\"}").await.status, 503);
}
