//! Nodes that ask a router where they belong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use raftkv_sidecar::life::registration::Registration;

use crate::cluster::{TestNode, eventually, settled};
use crate::{stop_all, write};

/// A router that answers by name, and says `wait` to those it has no answer for.
#[derive(Clone, Default)]
struct Router {
    state: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    answers: BTreeMap<&'static str, String>,
    asked: Vec<Registration>,
}

impl Router {
    async fn start() -> (Self, String) {
        let router = Self::default();
        let routes = axum::Router::new().route("/v1/cluster/nodes", post(answer)).with_state(router.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (router, address)
    }

    fn tell(&self, name: &'static str, answer: serde_json::Value) {
        self.lock().answers.insert(name, answer.to_string());
    }

    fn asked(&self, name: &str) -> Vec<Registration> {
        self.lock().asked.iter().filter(|asked| asked.name == name).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(router): State<Router>, body: bytes::Bytes) -> (StatusCode, String) {
    let asked: Registration = serde_json::from_slice(&body).expect("a registration");
    let mut told = router.lock();
    let answer = told.answers.get(asked.name.as_str()).cloned();
    told.asked.push(asked);
    match answer {
        Some(answer) => (StatusCode::OK, answer),
        None => (StatusCode::ACCEPTED, r#"{"assignment":"wait","reason":"no group needs a node"}"#.to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_become_what_a_router_says_and_do_not_ask_again() {
    let base = tempfile::tempdir().expect("directory");
    let (router, address) = Router::start().await;
    let routers = [address];
    let mut nodes = Vec::new();
    for name in ["n1", "n2"] {
        let mut node = TestNode::new(base.path(), name).await;
        // The flag alone does not form a cluster where there is a router.
        node.start_with(true, &[], &routers).await;
        nodes.push(node);
    }
    eventually("both have asked twice", || async {
        ["n1", "n2"].iter().all(|name| router.asked(name).len() >= 2).then_some(())
    })
    .await;
    assert_eq!(nodes[0].status().await.expect("status").node.role, "waiting");

    router.tell("n1", serde_json::json!({"assignment": "bootstrap", "group": 2}));
    let status = settled(&[&nodes[0]], &["n1"]).await;
    assert_eq!(status.members[0].group_address, "n1:50053");
    router.tell("n2", serde_json::json!({"assignment": "join", "group": 2, "join": [nodes[0].management]}));
    settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2"]).await;
    write(&nodes[1], "a").await;

    let asked = router.asked("n1").len();
    let first = &router.asked("n1")[0];
    assert_eq!((first.raft_address.as_str(), first.bootstrap), (nodes[0].raft.as_str(), true));
    nodes[0].stop().await;
    nodes[0].start_with(true, &[], &routers).await;
    settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2"]).await;
    assert_eq!(router.asked("n1").len(), asked, "its cluster is on its disk: nothing to ask");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_forms_no_second_cluster_though_a_router_says_so() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = crate::three(base.path()).await;
    let formed = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await;
    nodes[2].stop().await;
    nodes[2].wipe();
    let (router, address) = Router::start().await;
    router.tell("n3", serde_json::json!({"assignment": "bootstrap", "group": 1}));
    nodes[2].start_with(true, &[], &[address]).await;
    // Asking again means that it has listened and not formed.
    eventually("it has listened and asked again", || async { (router.asked("n3").len() >= 3).then_some(()) }).await;
    assert_eq!(nodes[2].status().await.expect("status").node.role, "waiting");

    router.tell("n3", serde_json::json!({"assignment": "join", "group": 1, "join": [nodes[0].management]}));
    let back = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await;
    assert_eq!(back.cluster_id, formed.cluster_id);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_to_join_counts_more_than_a_router() {
    let base = tempfile::tempdir().expect("directory");
    let (router, address) = Router::start().await;
    let mut first = TestNode::new(base.path(), "n1").await;
    first.start(true, &[]).await;
    settled(&[&first], &["n1"]).await;
    let mut second = TestNode::new(base.path(), "n2").await;
    second.start_with(false, &[first.management.clone()], &[address]).await;
    settled(&[&first, &second], &["n1", "n2"]).await;
    assert!(router.asked("n2").is_empty());
    stop_all(vec![first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_sidecar_does_not_use_an_engine_that_has_data() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    settled(&[&node], &["n1"]).await;
    write(&node, "a").await;
    node.stop().await;
    std::fs::remove_dir_all(node.dir().join("sidecar")).expect("removed");
    node.start(true, &[]).await;
    let status = eventually("it answers", || node.status()).await;
    assert_eq!(status.node.role, "waiting");
    // It asks the engine ten times a second: longer than a node listens before it forms a cluster.
    let asked = node.engine.asked();
    eventually("it asks its engine again and again", || async { (node.engine.asked() >= asked + 30).then_some(()) })
        .await;
    assert_eq!(node.status().await.expect("status").node.role, "waiting");
    node.engine = Default::default();
    node.stop_engine();
    node.start_engine().await;
    settled(&[&node], &["n1"]).await;
    node.stop().await;
}
