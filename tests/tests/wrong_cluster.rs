//! Nodes of different clusters never mix, and nobody forms a second cluster, or store, beside one that is there.

use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_proto::WIRE_VERSION;
use raftkv_tests::{Cluster, Shards, eventually, eventually_within};
use reqwest::StatusCode;
use tonic::Code;

/// A node that was removed asks the others every three seconds.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_cluster_id_target_or_wire_version_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let node = cluster.follower().await?;
    let status = node.status().await?;
    let (id, term) = (status.node.raft_id, status.node.term);
    let cluster_id = status.cluster_id.unwrap_or_default();
    let mut peer = node.peer()?;

    let identity = peer.identify().await?;
    ensure!(
        identity.cluster_id == cluster_id && identity.raft_id == id && identity.name == node.name(),
        "{identity:?}"
    );
    for (what, cluster_id, id, wire, says) in [
        ("another cluster", "another-cluster", id, WIRE_VERSION, "cluster"),
        ("no cluster", "", id, WIRE_VERSION, "cluster"),
        ("another target", cluster_id.as_str(), id + 1, WIRE_VERSION, "raft id"),
        ("another wire version", cluster_id.as_str(), id, WIRE_VERSION + 1, "wire version"),
    ] {
        match peer.ask_for_vote(cluster_id, id, wire).await {
            Err(refused) => ensure!(
                refused.code() == Code::FailedPrecondition && refused.message().contains(says),
                "{what}: refused, but with {refused}"
            ),
            Ok(answer) => anyhow::bail!("{what}: a message was accepted and answered {answer:?}"),
        }
    }
    let after = node.status().await?;
    ensure!(after.node.term == term, "a message that was refused moved the term from {term} to {}", after.node.term);

    let refused = peer.adopt("another-cluster", id).await.err();
    ensure!(refused.as_ref().is_some_and(|status| status.code() == Code::FailedPrecondition), "{refused:?}");
    ensure!(peer.identify().await?.cluster_id == cluster_id, "it was adopted by another cluster");
    cluster.node(1).client().put("k", "v").await?.acked()?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_never_become_one() -> anyhow::Result<()> {
    let (one, two) = tokio::try_join!(Cluster::builder().nodes(1).start(), Cluster::builder().nodes(1).start())?;
    one.node(1).client().put("whose", "one").await?.acked()?;
    two.node(1).client().put("whose", "two").await?.acked()?;
    let ids = (one.node(1).status().await?.cluster_id, two.node(1).status().await?.cluster_id);
    ensure!(ids.0.is_some() && ids.0 != ids.1, "{ids:?}");

    // The member of one cluster is asked into the other, under its own name and under a free one.
    let address = two.node(1).raft_address();
    for name in ["node1", "node9"] {
        let path = format!("/join?peerID={name}&peerAddress={address}");
        let answer = one.node(1).management().get_path(&path).await?;
        ensure!(answer.status.is_client_error(), "a member of another cluster was taken in: {answer}");
    }
    // And restarted with the other's address to join.
    let node = two.node(1);
    node.stop().await?;
    node.sidecar().set_env("JOIN_ADDR", one.node(1).management_address().to_string());
    node.start()?;
    eventually("it is ready again", || node.ready()).await?;
    for (cluster, id, value) in [(&one, &ids.0, "one"), (&two, &ids.1, "two")] {
        let status = cluster.node(1).status().await?;
        ensure!(status.cluster_id == *id && status.members.len() == 1, "{status:?}");
        ensure!(cluster.node(1).client().get("whose").await?.text()? == value);
    }
    one.finish().await?;
    two.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_node_that_lost_its_data_forms_no_second_cluster() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let first = cluster.node(1);
    first.client().put("k", "v").await?.acked()?;
    let cluster_id = first.status().await?.cluster_id;

    // While no quorum of the others runs, it must wait: what it sees of them shows that there is a cluster.
    first.wipe()?;
    cluster.node(2).kill();
    first.start()?;
    eventually("it answers", || async { first.status().await }).await?;
    let alone = eventually_within(Duration::from_secs(5), "it serves alone", || async {
        first.client().put_with("k", "second cluster", "?timeout=500ms", None).await.acked()
    })
    .await;
    ensure!(alone.is_err(), "it formed a second cluster");
    let status = first.status().await?;
    ensure!(status.cluster_id.is_none() || status.cluster_id == cluster_id, "{status:?}");

    cluster.node(2).start()?;
    cluster.whole(3).await?;
    let status = first.status().await?;
    ensure!(status.cluster_id == cluster_id, "{status:?}");
    ensure!(first.client().get("k").await?.text()? == "v");
    cluster.converged().await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_does_not_disturb_the_group() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let removed = cluster.follower().await?;
    let leader = cluster.leader().await?;
    leader.remove(removed.name()).await?.success()?;
    eventually("two voters are left", || async {
        let status = leader.status().await?;
        ensure!(status.members.len() == 2, "{:?}", status.members);
        Ok(())
    })
    .await?;
    let term = leader.status().await?.node.term;
    // With its data, and after a restart: until it learns of its removal it stands for election, but it must not force one.
    removed.kill();
    removed.start()?;
    let started = Instant::now();
    let mut number = 0;
    while removed.status().await.map_or(true, |status| status.node.role != "removed") {
        ensure!(started.elapsed() < REMOVAL_PATIENCE, "it does not learn that it was removed");
        number += 1;
        leader.client().put("k", number.to_string()).await?.acked()?;
    }
    let after = leader.status().await?.node;
    ensure!(after.term == term && after.leads(), "the term went from {term} to {}: {after:?}", after.term);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_is_told_of_the_second_group_makes_no_store_of_it() -> anyhow::Result<()> {
    let shards = Shards::builder().nodes(1).start().await?;
    let store = shards.admin().cluster().await?;
    let router = shards.misled_router(2)?;
    let mut peer = shards.group(2).node(1).group_peer()?;
    eventually("it says why it shows no store", || async {
        let shown = router.client().get_path("/v1/cluster").await?.expect(StatusCode::SERVICE_UNAVAILABLE)?.to_string();
        ensure!(shown.contains("these nodes are group 2 of store") && shown.contains("first group"), "{shown}");
        Ok(())
    })
    .await?;
    let ready = router.client().get_path("/readyz").await?.expect(StatusCode::SERVICE_UNAVAILABLE)?.to_string();
    ensure!(ready.contains("these nodes are group 2 of store"), "{ready}");
    // Asked once: an administrator of the tests asks again for as long as it is refused.
    let change = router.client().post("/v1/cluster/rebalance", "application/json", "{}").await?;
    let refused = change.expect(StatusCode::SERVICE_UNAVAILABLE)?.to_string();
    ensure!(refused.contains("these nodes are group 2 of store"), "it accepted a change: {refused}");
    ensure!(router.client().put_with("k", "v", "?timeout=300ms", None).await.acked().is_err(), "it served a key");
    for key in ["cluster", "routers"] {
        ensure!(peer.system_key(key).await? == 0, "it wrote the document {key} into the second group");
    }
    let (_, ownership) = peer.describe().await?;
    ensure!(ownership.group == 2, "{ownership:?}");

    // With the right nodes it finds the store that is there.
    router.process().kill();
    router.process().set_env("RAFTKV_META", shards.meta(1));
    router.process().start()?;
    eventually("it is ready", || router.ready()).await?;
    let found = router.admin().cluster().await?;
    ensure!(found.epoch == store.epoch && found.groups.len() == 2, "{found:?}");
    router.client().put("k", "v").await?.acked()?;
    shards.finish().await
}
