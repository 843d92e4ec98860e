//! One group of three nodes of version 0.1.0.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use raftkv_proto::group::Description;
use raftkv_tests::{Cluster, Contents};
use rmpv::Value;

use super::ledger::{Ledger, Request};
use super::{PLAIN_BLOCK, PlainFacts, fixture, golden, same_on_disk, values};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_a_group_of_version_0_1_0_hold_the_same_state() -> anyhow::Result<()> {
    let facts = golden()?.plain;
    let nodes: Vec<_> = facts.nodes.iter().map(|(name, facts)| (name.as_str(), facts)).collect();
    ensure!(nodes.len() == 3, "{nodes:?}");
    same_on_disk("plain.tar.gz", &nodes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_version_0_1_0_is_opened_read_whole_and_written_on() -> anyhow::Result<()> {
    let mut facts = golden()?.plain;
    let data = fixture("plain.tar.gz");
    let cluster = Cluster::builder().nodes(3).block(PLAIN_BLOCK).data(data).start().await?;

    // Before anything is written. Nodes that were killed and one that was stopped replay their logs to one state.
    let opened = cluster.converged().await?;
    let state = same_state(&cluster).await?;
    let expected = facts.state_hashes.get(&state.applied_next_index);
    ensure!(state.applied_next_index > facts.next_index, "{state:?} is behind {}", facts.next_index);
    let expected = expected.with_context(|| {
        format!("position {} was not seen by version 0.1.0: {:?}", state.applied_next_index, facts.state_hashes)
    })?;
    ensure!(state.state_hash == *expected, "the state hash is {:x} and was {expected:x}", state.state_hash);
    ensure!(state.clock_ms == facts.clock_ms, "the clock is {} and was {}", state.clock_ms, facts.clock_ms);
    whole(&facts, &opened, &state)?;
    for node in cluster.nodes() {
        facts.ledger.check(&node.client(), "linearizable").await.with_context(|| node.name().to_owned())?;
        facts.ledger.check(&node.client(), "stale").await.with_context(|| node.name().to_owned())?;
    }

    // Sessions and outcomes of Idempotency-Keys answer as they did, and nothing is applied again.
    for node in cluster.nodes() {
        for kept in &facts.sessions {
            kept.check(node).await?;
        }
        facts.ledger.check_repeats(&node.client(), true).await?;
    }
    let repeated = cluster.converged().await?;
    whole(&facts, &repeated, &same_state(&cluster).await?)?;

    write_on(&cluster, &mut facts.ledger, facts.store_revision).await?;
    for node in cluster.nodes() {
        node.compact().await?.success()?;
    }
    let client = cluster.node(2).client();
    facts.ledger.answered(&client, Request::put("today/logged", &Value::from("after the snapshot"))?, 200).await?;
    for node in cluster.nodes() {
        node.kill();
    }
    for node in cluster.nodes() {
        node.start()?;
    }
    cluster.whole(3).await?;
    let written = cluster.converged().await?;
    same_state(&cluster).await?;
    ensure!(written.len() == facts.ledger.entries.len(), "{} keys", written.len());
    for node in cluster.nodes() {
        facts.ledger.check(&node.client(), "linearizable").await.with_context(|| node.name().to_owned())?;
    }
    facts.ledger.check_repeats(&client, true).await?;
    cluster.finish().await
}

/// The listing has all keys and no other, at the revision of before.
fn whole(facts: &PlainFacts, contents: &Contents, state: &Description) -> anyhow::Result<()> {
    ensure!(contents.store_revision == facts.store_revision, "the store is at revision {}", contents.store_revision);
    ensure!(state.revision == facts.store_revision, "the state is at revision {}", state.revision);
    ensure!(contents.len() == facts.ledger.entries.len(), "{} keys are listed", contents.len());
    ensure!(state.keys == facts.keys && facts.keys == contents.len() as u64, "{} keys are counted", state.keys);
    Ok(())
}

/// The state of all nodes, which is the same at the same position.
async fn same_state(cluster: &Cluster) -> anyhow::Result<Description> {
    let mut states = Vec::new();
    for node in cluster.nodes() {
        states.push(node.group_peer()?.describe().await?.0);
    }
    let distinct: BTreeSet<_> = states.iter().map(|state| (state.applied_next_index, state.state_hash)).collect();
    ensure!(distinct.len() == 1, "the nodes are at {distinct:?}");
    states.pop().context("a node")
}

/// Writes values of all types, replaces and deletes old ones, and counts the revisions.
async fn write_on(cluster: &Cluster, ledger: &mut Ledger, revision: u64) -> anyhow::Result<()> {
    let old: Vec<_> = ledger.entries.keys().cloned().collect();
    let client = cluster.node(1).client();
    let first = ledger.answered(&client, Request::put("today/first", &Value::Nil)?.once("today"), 200).await?;
    ensure!(first.revision == Some(revision + 1), "the first revision after {revision} is {first:?}");
    for (number, (name, value)) in values::all().into_iter().enumerate() {
        let client = cluster.node(1 + number % 3).client();
        ledger.answered(&client, Request::put(format!("today/{name}"), &value)?, 200).await?;
    }
    for (number, key) in old.into_iter().enumerate() {
        let client = cluster.node(1 + number % 3).client();
        match number % 4 {
            0 => ledger.answered(&client, Request::of_encoded(&key, Some(&Value::from("replaced")))?, 200).await?,
            1 => ledger.answered(&client, Request::of_encoded(&key, None)?, 200).await?,
            _ => continue,
        };
    }
    Ok(())
}
