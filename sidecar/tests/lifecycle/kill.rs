//! Nodes that are killed: out of the group first, then wiped.

use raftkv_runtime::wipe::{self, Part};
use raftkv_sidecar::run::RunError;

use crate::cluster::{TestNode, eventually, place_of, settled};
use crate::{stop_all, three, write};

/// What the processes do at their next start.
fn wipe(node: &mut TestNode) {
    for part in [Part::Engine, Part::Sidecar] {
        assert!(wipe::carry_out(node.dir(), part).expect("wiped"), "{part:?} of {}", node.name);
    }
    node.engine = Default::default();
}

fn has_order(node: &TestNode) -> bool {
    wipe::is_ordered(node.dir(), Part::Engine) || wipe::is_ordered(node.dir(), Part::Sidecar)
}

fn make_engine_dir(node: &TestNode) {
    std::fs::create_dir_all(node.dir().join("engine")).expect("the engine's directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_out_wiped_and_comes_back_as_another() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    nodes.iter().for_each(make_engine_dir);
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    write(&nodes[0], "a").await;
    let error = nodes[0].post("/kill?peerID=n9").await.expect_err("nobody");
    assert!(error.contains("404") && error.contains("no_such_member"), "{error}");
    let (status, body) = nodes[0].get("/kill").await;
    assert!(status == 405 && body.contains(r#""detail":"POST""#), "a look must never destroy: {status} {body}");

    // The leader, through another: it has to hand over first.
    let before = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await.node;
    let killed = place_of(&nodes, &before.name);
    let others: Vec<usize> = (0..3).filter(|at| *at != killed).collect();
    let said = nodes[others[0]].post(&format!("/kill?peerID={}", before.name)).await.expect("killed");
    assert!(said.pending || said.result.contains("is wiped"), "{said:?}");
    assert!(matches!(nodes[killed].ended().await, RunError::Killed));
    let left: Vec<&str> = others.iter().map(|at| nodes[*at].name).collect();
    settled(&others.iter().map(|at| &nodes[*at]).collect::<Vec<_>>(), &left).await;
    write(&nodes[others[0]], "b").await;

    wipe(&mut nodes[killed]);
    assert!(!has_order(&nodes[killed]));
    nodes[killed].start(false, &join).await;
    let back = settled(&nodes.iter().collect::<Vec<_>>(), &["n1", "n2", "n3"]).await;
    let now = back.members.iter().find(|member| member.name == before.name).expect("a member again");
    assert_ne!(now.raft_id, before.raft_id);
    eventually("it has the data again", || async { (nodes[killed].engine.payloads().len() == 2).then_some(()) }).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_node_goes_only_when_nothing_is_lost_or_that_was_said() {
    let base = tempfile::tempdir().expect("directory");
    let mut node = TestNode::new(base.path(), "n1").await;
    node.start(true, &[]).await;
    settled(&[&node], &["n1"]).await;
    write(&node, "a").await;
    let error = node.post("/kill").await.expect_err("its data is elsewhere");
    assert!(error.contains("409") && error.contains("data_elsewhere"), "{error}");
    make_engine_dir(&node);

    let error = node.post("/kill").await.expect_err("not confirmed");
    assert!(error.contains("409") && error.contains("unconfirmed") && error.contains("1 keys"), "{error}");
    // What is not understood to its end is not done at all: each of these, half read, means this node.
    for (path, why) in [
        ("/kill?peerid=n3&confirm=delete-all-keys", "unknown parameter peerid"),
        ("/kill?peerID=&confirm=delete-all-keys", "peerID must not be empty"),
        ("/kill?confirm=delete-all-keys&peerID", "peerID must not be empty"),
        ("/kill?peerID=n1&peerID=n3&confirm=delete-all-keys", "peerID is given more than once"),
        ("/leave?peerID=n1&forced=true", "unknown parameter forced"),
        ("/leave?peerID=n1&force=", "force must not be empty"),
        ("/join?peerID=n1&peerAddress=", "peerAddress must not be empty"),
        ("/transfer-leader?to=", "to must not be empty"),
        ("/transfer-leader?peerID=n1", "unknown parameter peerID"),
        ("/snapshot?wait=true", "unknown parameter wait"),
    ] {
        let error = node.post(path).await.expect_err(path);
        assert!(error.contains("400") && error.contains(why), "{path}: {error}");
    }
    let error = node.post_body("/kill", "peerID=n3&confirm=delete-all-keys").await.expect_err("a form");
    assert!(error.contains("400") && error.contains("a body is not read here"), "{error}");
    for path in ["/status", "/health", "/readyz", "/livez", "/metrics"] {
        // Probes and scrapers bring parameters of their own.
        for asked in [path.to_owned(), format!("{path}?verbose=")] {
            assert_eq!(node.get(&asked).await.0, 200, "{asked}");
        }
    }
    let error = node.post("/kill?confirm=yes").await.expect_err("not the right word");
    assert!(error.contains("400") && error.contains("delete-all-keys"), "{error}");
    node.engine.owns(2, 100);
    let error = node.post("/kill?confirm=delete-all-keys").await.expect_err("it owns slots");
    assert!(error.contains("409") && error.contains("owns_slots") && error.contains("100 slots"), "{error}");
    assert!(!has_order(&node));
    write(&node, "b").await;

    node.engine.owns(2, 0);
    node.post("/kill").await.expect("it owns nothing");
    assert!(matches!(node.ended().await, RunError::Killed));
    wipe(&mut node);

    node.start(true, &[]).await;
    settled(&[&node], &["n1"]).await;
    make_engine_dir(&node);
    write(&node, "c").await;
    node.post("/kill?peerID=n1&confirm=delete-all-keys").await.expect("confirmed");
    assert!(matches!(node.ended().await, RunError::Killed));
    wipe(&mut node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_goes_on_after_a_crash_in_the_middle() {
    let base = tempfile::tempdir().expect("directory");
    let mut nodes = three(base.path()).await;
    nodes.iter().for_each(make_engine_dir);
    let join: Vec<String> = nodes.iter().map(|node| node.management.clone()).collect();
    // Died when the group had removed it, but before the order to wipe.
    nodes[2].kill().await;
    nodes[0].post("/leave?peerID=n3").await.expect("removed");
    std::fs::write(nodes[2].dir().join("sidecar/kill-begun"), "").expect("note");
    nodes[2].start(false, &join).await;
    assert!(matches!(nodes[2].ended().await, RunError::Killed));
    assert!(has_order(&nodes[2]));
    wipe(&mut nodes[2]);

    // Died before anything but the note; the group needs its vote to remove it.
    nodes[1].kill().await;
    std::fs::write(nodes[1].dir().join("sidecar/kill-begun"), "").expect("note");
    nodes[1].start(false, &join).await;
    assert!(matches!(nodes[1].ended().await, RunError::Killed));
    assert!(has_order(&nodes[1]));
    settled(&[&nodes[0]], &["n1"]).await;
    write(&nodes[0], "a").await;
    nodes[0].stop().await;
}
