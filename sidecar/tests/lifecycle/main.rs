//! The life of nodes and groups: forming, joining, leaving, replacing, and who leads.

#![allow(missing_docs)]

mod browsers;
mod cluster;
mod engine;
mod kill;
mod placement;
mod position;

use std::time::{Duration, Instant};

use cluster::{TestNode, entry_of, eventually, place_of, settled};
use raftkv_proto::consensus::propose_response::Outcome;

async fn three(base: &std::path::Path) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        nodes.push(TestNode::new(base, name).await);
    }
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    for (at, node) in nodes.iter_mut().enumerate() {
        node.start(at == 0, &join).await;
    }
    settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await;
    nodes
}

async fn stop_all(nodes: Vec<TestNode>) {
    futures::future::join_all(nodes.into_iter().map(|mut node| async move { node.stop().await })).await;
}

async fn write(node: &TestNode, payload: &'static str) {
    eventually(&format!("{} takes a write", node.name), || async {
        matches!(node.propose(payload).await?, Outcome::Applied(_)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_forms_a_cluster_and_resumes_it() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    let formed = settled(&[&node], &["n1"]).await;
    write(&node, "a").await;
    assert_eq!(node.get("/readyz").await.0, 200);
    node.stop().await;

    node.start(true, &[]).await;
    let resumed = settled(&[&node], &["n1"]).await;
    assert_eq!(resumed.cluster_id, formed.cluster_id);
    assert_eq!(resumed.node.raft_id, formed.node.raft_id);
    write(&node, "b").await;
    assert_eq!(node.engine.payloads().last(), Some(&entry_of("b")));

    let error = node.post("/leave?peerID=n1").await.expect_err("the last voter stays");
    assert!(error.contains("409") && error.contains("last_voter"), "{error}");
    let error = node.post("/leave?peerID=nobody").await.expect_err("no such member");
    assert!(error.contains("404") && error.contains("no_such_member"), "{error}");
    let error = node.post("/join?peerID=n2").await.expect_err("a parameter is missing");
    assert!(error.contains("400") && error.contains("peerAddress"), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_made_durable_because_the_engine_is_gone_is_refused_at_once() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    settled(&[&node], &["n1"]).await;
    write(&node, "a").await;
    node.stop_engine();
    eventually("its end is noticed", || async { (node.get("/readyz").await.0 == 503).then_some(()) }).await;
    let began = Instant::now();
    let error = node.post("/snapshot").await.expect_err("nobody could make it durable");
    assert!(error.contains("503") && error.contains("engine_gone"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    node.start_engine().await;
    eventually("it is made durable", || async { node.post("/snapshot").await.ok() }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_joins_whatever_its_flags_say_and_leaves() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    write(&nodes[1], "a").await;
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    let mut fourth = TestNode::new(base.path(), "n4").await;
    fourth.start(true, &join).await;
    nodes.push(fourth);
    let all: Vec<&TestNode> = nodes.iter().collect();
    settled(&all, &["n1", "n2", "n3", "n4"]).await;
    eventually("the log has reached n4", || async { (nodes[3].engine.payloads().len() == 1).then_some(()) }).await;

    // The leader itself, asked through another node.
    let status = settled(&all, &["n1", "n2", "n3", "n4"]).await;
    let leaves = place_of(&nodes, &status.node.name);
    let others: Vec<&TestNode> = nodes.iter().filter(|node| node.name != status.node.name).collect();
    let path = format!("/leave?peerID={}", status.node.name);
    eventually("the leader has left", || async {
        let left = others[0].post(&path).await;
        (left.is_ok() || left.is_err_and(|error| error.contains("404"))).then_some(())
    })
    .await;
    let left: Vec<&str> = others.iter().map(|node| node.name).collect();
    settled(&others, &left).await;
    eventually("the one that left knows it", || async {
        (nodes[leaves].status().await?.node.role == "removed").then_some(())
    })
    .await;
    assert_eq!(nodes[leaves].get("/readyz").await.0, 503);
    write(others[0], "b").await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_replaces_its_old_self() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    write(&nodes[0], "a").await;
    let old = nodes[2].status().await.expect("status").node.raft_id;
    nodes[2].stop().await;
    nodes[2].wipe();
    let join: Vec<String> = nodes[..2].iter().map(|node| node.management.clone()).collect();
    // Even with the flag of the first start.
    nodes[2].start(true, &join).await;
    eventually("it has a new raft id", || async {
        let status = settled(&[&nodes[0], &nodes[1]], &["n1", "n2", "n3"]).await;
        status.members.iter().find(|member| member.name == "n3" && member.raft_id != old).map(|_| ())
    })
    .await;
    write(&nodes[2], "b").await;
    eventually("it has the data", || async { (nodes[2].engine.payloads().len() == 2).then_some(()) }).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_an_engine_gives_leadership_away_and_takes_part_again() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    let leader = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await.node.name;
    let gone = place_of(&nodes, &leader);
    nodes[gone].stop_engine();
    let began = Instant::now();
    let other = (gone + 1) % 3;
    eventually("another leads", || async {
        let status = nodes[other].status().await?;
        status.node.leader.filter(|name| *name != leader)
    })
    .await;
    println!("leadership moved after {:?}", began.elapsed());
    write(&nodes[other], "a").await;
    nodes[gone].start_engine().await;
    eventually("it has caught up", || async { (nodes[gone].engine.payloads().len() == 1).then_some(()) }).await;
    // It may lead again, when asked to.
    let path = format!("/transfer-leader?to={leader}");
    eventually("it leads again", || async { nodes[other].post(&path).await.ok() }).await;
    eventually("it says so", || async { (nodes[gone].status().await?.node.role == "leader").then_some(()) }).await;
    write(&nodes[other], "b").await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_leader_hands_over_without_an_election_timeout() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    write(&nodes[0], "a").await;
    let leader = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await.node.name;
    let mut stopping = nodes.remove(place_of(&nodes, &leader));
    let began = Instant::now();
    let (handed_over, ()) = tokio::join!(
        async {
            eventually("another leads", || async {
                nodes[0].status().await?.node.leader.filter(|name| *name != leader)
            })
            .await;
            began.elapsed()
        },
        stopping.stop(),
    );
    println!("leadership moved after {handed_over:?}, stopped after {:?}", began.elapsed());
    write(&nodes[1], "b").await;
    assert!(handed_over < Duration::from_secs(5), "{handed_over:?}");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_by_another_and_comes_back() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let all: Vec<&TestNode> = nodes.iter().collect();
        let before = settled(&all, &["n1", "n2", "n3"]).await.node;
        let killed = place_of(&nodes, &before.name);
        let began = Instant::now();
        nodes[killed].kill().await;
        let other = (killed + 1) % 3;
        write(&nodes[other], "a").await;
        gaps.push(began.elapsed());
        nodes[killed].start(true, &join).await;
        let written = nodes[other].engine.payloads().len();
        eventually("it has caught up", || async { (nodes[killed].engine.payloads().len() >= written).then_some(()) })
            .await;
        // Its engine, which went on, may have caught up before its sidecar answers again.
        let after = eventually("it is back in a newer term", || async {
            let after = nodes[killed].status().await?.node;
            (after.term > before.term).then_some(after)
        })
        .await;
        assert_eq!(after.raft_id, before.raft_id);
    }
    gaps.sort();
    println!("gaps without a write after a kill: {gaps:?}");
    assert!(gaps[2] < Duration::from_secs(5), "{gaps:?}");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_may_form_a_cluster_form_one() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        nodes.push(TestNode::new(base.path(), name).await);
    }
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    for node in &mut nodes {
        node.start(true, &join).await;
    }
    let all: Vec<&TestNode> = nodes.iter().collect();
    settled(&all, &["n1", "n2", "n3"]).await;
    let mut clusters = Vec::new();
    for node in &nodes {
        clusters.push(node.status().await.expect("status").cluster_id);
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_management_api_answers_before_there_is_a_cluster() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(false, &[]).await;
    let status = eventually("it answers", || node.status()).await;
    assert_eq!((status.node.role.as_str(), status.cluster_id), ("waiting", None));
    assert_eq!(node.get("/livez").await.0, 200);
    assert_eq!(node.get("/readyz").await.0, 503);
    assert_eq!(node.get("/metrics").await.0, 200);
    assert_eq!(node.get("/nothing").await.0, 404);
    let error = node.post("/join?peerID=n2&peerAddress=127.0.0.1:1").await.expect_err("no cluster");
    assert!(error.contains("503") && error.contains("waiting"), "{error}");
    node.stop().await;
}
