//! The management port and browsers: recorded requests against a node that works.

use raftkv_runtime::guard::CODE;

use crate::cluster::{TestNode, settled};
use crate::write;

#[path = "../../../tests/src/recorded.rs"]
mod recorded;

use recorded::{Recorded, Sender};

/// Each changes this node or its group when a program asks for it.
const CHANGES: [&str; 6] = [
    "/leave?peerID=n1&force=true",
    "/join?peerID=n9&peerAddress=127.0.0.1:9",
    "/transfer-leader?to=n1",
    "/snapshot",
    "/kill?peerID=n1&confirm=delete-all-keys",
    "/upgrade/hold",
];
const SHOWN: [&str; 5] = ["/status", "/health", "/readyz", "/livez", "/metrics"];

/// The status and the body of the answer to a recorded request, and whether it is marked as deprecated.
async fn send(node: &TestNode, request: &Recorded, path: &str) -> (u16, String, bool) {
    let method = request.method.parse().expect("a method");
    let mut sent = reqwest::Client::new().request(method, format!("http://{}{path}", node.management));
    for (name, value) in request.headers(&node.management) {
        sent = sent.header(name, value);
    }
    let response = sent.send().await.expect("an answer");
    let is_deprecated = response.headers().get("deprecation").is_some_and(|value| value == "true");
    (response.status().as_u16(), response.text().await.expect("a body"), is_deprecated)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_sites_change_nothing_at_the_management_port() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    let before = settled(&[&node], &["n1"]).await;
    write(&node, "a").await;

    for request in Recorded::all().iter().filter(|request| request.sender == Sender::Stranger) {
        for path in CHANGES.iter().chain(&SHOWN).chain(&["/nothing"]) {
            let (status, body, _) = send(&node, request, path).await;
            assert_eq!(status, 403, "{} at {path}: {body}", request.name);
            assert!(body.contains(CODE), "{} at {path}: {body}", request.name);
        }
    }
    for request in Recorded::of(Sender::Browser, "GET") {
        for path in &CHANGES[..4] {
            let (status, body, _) = send(&node, &request, path).await;
            assert!(status == 403 && body.contains(CODE), "{} at {path}: {status} {body}", request.name);
        }
        for path in &CHANGES[4..] {
            assert_eq!(send(&node, &request, path).await.0, 405, "{} at {path}", request.name);
        }
        for path in SHOWN {
            assert_eq!(send(&node, &request, path).await.0, 200, "{} at {path}", request.name);
        }
    }
    let after = settled(&[&node], &["n1"]).await;
    assert_eq!((after.node.raft_id, after.node.term), (before.node.raft_id, before.node.term));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_change_by_get_as_before() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    settled(&[&node], &["n1"]).await;
    write(&node, "a").await;

    for request in Recorded::all().iter().filter(|request| request.sender == Sender::Program) {
        let is_get = request.method == "GET";
        for (path, expected, is_deprecated) in [
            ("/join?peerID=n1", 400, false),
            ("/leave?peerID=nobody", 404, is_get),
            ("/transfer-leader?to=n1", 200, is_get),
            ("/snapshot", 200, is_get),
        ] {
            let (status, body, deprecated) = send(&node, request, path).await;
            assert_eq!((status, deprecated), (expected, is_deprecated), "{} at {path}: {body}", request.name);
        }
        let expected = if is_get { 405 } else { 404 };
        assert_eq!(send(&node, request, "/kill?peerID=nobody").await.0, expected, "{}", request.name);
    }
    // A page of the node itself, were there one, asks for changes by POST.
    for request in Recorded::of(Sender::Browser, "POST") {
        let (status, body, deprecated) = send(&node, &request, "/snapshot").await;
        assert_eq!((status, deprecated), (200, false), "{}: {body}", request.name);
    }
    // By a name that the settings allow, and by one that they do not.
    let (_, port) = node.management.rsplit_once(':').expect("host:port");
    for (host, expected) in [("kv.example", 200), ("kv2.example", 403)] {
        let asked = reqwest::Client::new().get(format!("http://{}/status", node.management));
        let asked = asked.header("host", format!("{host}:{port}")).header("accept-language", "en");
        assert_eq!(asked.send().await.expect("an answer").status().as_u16(), expected, "{host}");
    }
    node.stop().await;
}
