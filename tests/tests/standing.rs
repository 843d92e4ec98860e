//! What a node that waits, was removed, or has a twin says and does; and that no change is made after its time.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_tests::{Answer, Client, Cluster, Node, eventually, eventually_within};
use reqwest::{Method, StatusCode};

/// "At once", on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);
/// In a message of a process that has a twin.
const TWIN: &str = "two processes have one identity";

fn detail(answer: &Answer) -> String {
    let read = answer.json().ok().and_then(|body| body["detail"].as_str().map(str::to_owned));
    read.unwrap_or_else(|| answer.to_string())
}

/// Fails unless the answer is 503, came at once and says `reason`.
async fn refused_at_once(
    what: &str,
    reason: &str,
    ask: impl Future<Output = reqwest::Result<Answer>>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let answer = ask.await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{what}: {answer}");
    ensure!(detail(&answer).contains(reason), "{what} does not say why: {answer}");
    ensure!(began.elapsed() < AT_ONCE, "{what} took {:?}: {answer}", began.elapsed());
    Ok(())
}

async fn ready_says(node: &Node, reason: &str) -> anyhow::Result<()> {
    for client in [node.management(), node.client()] {
        let answer = client.get_path("/readyz").await?;
        ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        ensure!(detail(&answer).contains(reason), "{answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_or_was_removed_says_why() -> anyhow::Result<()> {
    let cluster = Cluster::builder().create().await?;
    let first = cluster.node(1);
    first.start()?;
    eventually("it says what it waits for", || async {
        ready_says(first, "a majority of the 3 nodes named must answer").await?;
        let status = first.management().get_path("/status").await?.success()?.json()?;
        let reason = status["waiting"]["reason"].as_str().context("no reason")?.to_owned();
        ensure!(reason.contains("majority"), "{reason}");
        Ok(())
    })
    .await?;
    for node in &cluster.nodes()[1..] {
        node.start()?;
    }
    cluster.whole(3).await?;

    let removed = cluster.follower().await?;
    let leader = cluster.leader().await?;
    removed.client().put("k", "before").await?.acked()?;
    leader.remove(removed.name()).await?.success()?;
    let why = "this node was removed from its cluster";
    // It may not know it yet: the leader does.
    let answer = removed.client().put("k", "after").await?.acked();
    ensure!(answer.is_err(), "a node that is no member wrote: {answer:?}");
    eventually_within(Duration::from_secs(10), "it knows", || ready_says(&removed, why)).await?;
    let client = removed.client();
    refused_at_once("GET", why, client.get("k")).await?;
    refused_at_once("GET with quorum", why, client.get_with("k", "?consistency=quorum")).await?;
    refused_at_once("a stale GET", why, client.get_stale("k")).await?;
    refused_at_once("the list", why, client.get_path("/v1/kv")).await?;
    refused_at_once("PUT", why, Client::send(client.request(Method::PUT, "/v1/kv/k").body("1"))).await?;
    refused_at_once("DELETE", why, client.delete("k")).await?;
    refused_at_once("how it joins again", "raftkv node join", client.get("k")).await?;
    let management = removed.management();
    for change in ["/transfer-leader", "/leave?peerID=node1", "/join?peerID=node9&peerAddress=127.0.0.1:9"] {
        refused_at_once(change, why, management.get_path(change)).await?;
    }
    let read = leader.client().get("k").await?.text()?;
    ensure!(read == "before", "{read}");

    leader.join(&removed).await?.success()?;
    cluster.whole(3).await?;
    removed.client().put("k", "again").await?.acked()?;
    ensure!(removed.client().get_stale("k").await?.status == StatusCode::OK);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_not_made_after_its_time() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let others = cluster.others(&leader);
    let (asked, target) = (&others[0], &others[1]);
    leader.pause()?;
    let answer = asked.remove(target.name()).await;
    leader.resume()?;
    let answer = answer?;
    ensure!(!answer.status.is_success(), "one of two living voters was removed: {answer}");
    let later = eventually_within(Duration::from_secs(4), "it happens after all", || async {
        let status = asked.status().await?;
        ensure!(status.members.len() < 3, "{:?}", status.members);
        Ok(())
    })
    .await;
    ensure!(later.is_err(), "the removal was answered {answer} and was made when the leader came back");
    cluster.whole(3).await?;

    // What lay in front of a process for too long, or was meant for its predecessor.
    let leader = cluster.leader().await?;
    let status = leader.management().get_path("/status").await?.success()?.json()?;
    let incarnation = status["node"]["incarnation"].as_u64().context("no incarnation")?;
    let target = cluster.others(&leader)[0].name().to_owned();
    for (expires, expected) in [
        (format!("{incarnation}:0"), StatusCode::SERVICE_UNAVAILABLE),
        (format!("{}:99999999", incarnation ^ 1), StatusCode::SERVICE_UNAVAILABLE),
        ("soon".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        for change in ["/leave?peerID=", "/transfer-leader?to=", "/kill?peerID="] {
            let request = leader.management().request(Method::POST, &format!("{change}{target}"));
            let answer = Client::send(request.header("raftkv-expires", &expires)).await?.expect(expected)?;
            let code = if expires == "soon" { "bad_request" } else { "expired" };
            ensure!(answer.problem_code() == code, "{answer}");
        }
    }
    ensure!(leader.status().await?.members.len() == 3 && leader.status().await?.node.leads());

    // Two have lost everything: the third says what it is that is missing, and not what one of them answered.
    let left = cluster.others(&leader)[0].clone();
    for node in cluster.others(&left) {
        node.wipe()?;
        node.start()?;
    }
    let says = format!("{} knows the cluster and has no leader", left.name());
    for node in cluster.others(&left) {
        eventually("it says who has no leader", || ready_says(&node, &says)).await?;
    }
    cluster.finish().await
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The raft address that the leader has for a raft id.
async fn address_of(leader: &Node, raft_id: u64) -> anyhow::Result<String> {
    let status = leader.management().get_path("/status").await?.success()?.json()?;
    let members = status["members"].as_array().context("no members")?.clone();
    let member = members.into_iter().find(|member| member["raft_id"] == raft_id).context("no member")?;
    Ok(member["raft_address"].as_str().context("no address")?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_with_one_identity_are_told_and_the_second_is_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let original = cluster.follower().await?;
    let raft_id = original.status().await?.node.raft_id;
    let copy = copy_of(&mut cluster, &original).await?;
    original.start()?;
    cluster.whole(3).await?;
    let leader = cluster.leader().await?;
    copy.start()?;
    // And one with the name and the address of a living node.
    let impostor = cluster.add_node().await?;
    for process in [impostor.engine(), impostor.sidecar()] {
        process.set_env("NODE_ID", original.name());
    }
    impostor.sidecar().set_env("RAFTKV_RAFT_ADVERTISE", original.raft_address().to_string());
    impostor.start()?;

    for twin in [&copy, &impostor] {
        eventually("the second process says why it does not take part", || ready_says(twin, TWIN)).await?;
    }
    let at_home = original.raft_address().to_string();
    let moved = eventually_within(Duration::from_secs(4), "the address changes", || async {
        let address = address_of(&leader, raft_id).await?;
        ensure!(address != at_home, "it stays");
        Ok(address)
    })
    .await;
    ensure!(moved.is_err(), "the member was moved to {moved:?} though it lives at {at_home}");
    original.ready().await?;
    original.client().put("k", "v").await?.acked()?;
    let log = fs::read_to_string(leader.sidecar().log())?;
    let complaints = log.lines().filter(|line| line.contains(TWIN)).count();
    ensure!((1..=6).contains(&complaints), "{complaints} lines:\n{log}");

    // While the first starts again, the second one waits.
    impostor.kill();
    original.stop().await?;
    original.start()?;
    eventually("the first is back", || original.ready()).await?;
    let address = address_of(&leader, raft_id).await?;
    ensure!(address == at_home, "{address}");
    ready_says(&copy, TWIN).await?;
    cluster.finish().await
}

/// A new node, not started, with the data of another one, which is stopped for it.
async fn copy_of(cluster: &mut Cluster, original: &Node) -> anyhow::Result<Arc<Node>> {
    original.stop().await?;
    let copy = cluster.add_node().await?;
    copy_files(original.dir(), copy.dir())?;
    for process in [copy.engine(), copy.sidecar()] {
        process.set_env("NODE_ID", original.name());
    }
    Ok(copy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_takes_its_nodes_place_only_with_all_that_the_node_acknowledged() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let original = cluster.follower().await?;
    let raft_id = original.status().await?.node.raft_id;
    let at_home = original.raft_address().to_string();
    let copy = copy_of(&mut cluster, &original).await?;
    let leader = cluster.leader().await?;
    let moved_to = |node: &Node| {
        let (leader, address) = (leader.clone(), node.raft_address().to_string());
        async move {
            eventually("it has its place", || async {
                let known = address_of(&leader, raft_id).await?;
                ensure!(known == address, "{known}");
                Ok(())
            })
            .await
        }
    };

    // The first one is gone, and the copy has all that it had.
    copy.start()?;
    moved_to(&copy).await?;
    eventually("the copy serves", || copy.ready()).await?;
    copy.client().put("k", "v").await?.acked()?;
    eventually("the copy has it", || async {
        let read = copy.client().get_stale("k").await?;
        ensure!(read.status == StatusCode::OK, "{read}");
        Ok(())
    })
    .await?;

    // Beside it the first one is the second now.
    original.start()?;
    eventually("the first process says that there is another", || ready_says(&original, TWIN)).await?;

    // And without it: what it lacks may have been acknowledged with its name on it.
    copy.kill();
    eventually_within(Duration::from_secs(30), "it says what is wrong", || ready_says(&original, "old copy")).await?;
    let address = address_of(&leader, raft_id).await?;
    ensure!(address == copy.raft_address().to_string(), "{address}");
    refused_at_once("GET", "old copy", original.client().get("k")).await?;
    let killed = original.management().request(Method::POST, "/kill");
    let killed = Client::send(killed).await?;
    ensure!(!killed.status.is_success(), "the member would be removed, which is the other process: {killed}");

    // As the message says.
    original.kill();
    original.wipe()?;
    original.start()?;
    eventually("it joins without data", || original.ready()).await?;
    cluster.whole(3).await?;
    let new_id = original.status().await?.node.raft_id;
    let address = address_of(&leader, new_id).await?;
    ensure!(new_id != raft_id && address == at_home, "raft id {new_id} at {address}");
    cluster.finish().await
}
