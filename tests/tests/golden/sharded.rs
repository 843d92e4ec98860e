//! Two groups of version 0.1.0, with a move between them that was under way.

use anyhow::{Context, ensure};
use bytes::Bytes;
use raftkv_kv::SlotSet;
use raftkv_proto::group::SystemKey;
use raftkv_tests::{Shards, eventually};
use rmpv::Value;

use super::frames::read_frames;
use super::ledger::Request;
use super::{SHARDED_BLOCK, SYSTEM_KEYS, fixture, golden, same_on_disk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_groups_of_version_0_1_0_hold_the_same_state() -> anyhow::Result<()> {
    let facts = golden()?.sharded;
    ensure!(facts.nodes.len() == 2, "{:?}", facts.nodes);
    for (number, (name, facts)) in facts.nodes.iter().enumerate() {
        same_on_disk(&format!("sharded-{}.tar.gz", number + 1), &[(name.as_str(), facts)]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_version_0_1_0_began_ends() -> anyhow::Result<()> {
    let mut facts = golden()?.sharded;
    let data = (1..=2).map(|number| fixture(&format!("sharded-{number}.tar.gz"))).collect();
    let shards = Shards::builder().groups(2).nodes(1).routers(1).block(SHARDED_BLOCK).data(data).start().await?;
    let (client, admin) = (shards.router(1).client(), shards.admin());

    // Wholly there, or wholly where they were.
    let over = admin.over(facts.operation).await?;
    ensure!(over.state == "done" || over.state == "cancelled", "the move is {over:?}");
    println!("the move is {} in its step {:?}", over.state, over.step);
    let owner = if over.state == "done" { shards.group_id(2).await? } else { 1 };
    let slots: SlotSet = facts.slots.parse()?;
    ensure!(admin.slots_of(owner).await?.contains_all(&slots), "{}, but group {owner} has not the slots", over.state);
    ensure!(shards.group_id(2).await? == 2, "the second group has another id");
    system_keys_are_kept(&shards).await?;

    let contents = shards.spread().await?;
    ensure!(contents.len() == facts.ledger.entries.len(), "{} keys are listed", contents.len());
    facts.ledger.check(&client, "linearizable").await?;
    facts.ledger.check_repeats(&client, true).await?;
    facts.ledger.check(&client, "linearizable").await?;

    // Everything is taken as before, in the slots that moved, too.
    let moved = Shards::keys_in(&slots, "moving/", 20);
    for key in &moved {
        facts.ledger.answered(&client, Request::put(key, &Value::from("written on"))?, 200).await?;
    }
    for number in 0..40 {
        let request = Request::put(format!("today/{number}"), &Value::from(number))?.once(&format!("today {number}"));
        facts.ledger.answered(&client, request, 200).await?;
    }
    let back = if owner == 1 { 2 } else { 1 };
    admin.done(admin.move_slots(&slots, back).await?).await?;
    shards.restart().await?;
    let contents = shards.spread().await?;
    ensure!(contents.len() == facts.ledger.entries.len(), "{} keys are listed", contents.len());
    facts.ledger.check(&client, "linearizable").await?;
    facts.ledger.check_repeats(&client, true).await?;
    shards.finish().await
}

/// The documents of the routers are those that were captured, or later versions of them.
async fn system_keys_are_kept(shards: &Shards) -> anyhow::Result<()> {
    let captured: Vec<SystemKey> = read_frames("sharded-1-system-keys")?;
    for (name, captured) in SYSTEM_KEYS.into_iter().zip(captured) {
        ensure!(captured.version > 0, "{name} was captured without a version");
        let version = eventually("the first group answers", || async {
            shards.group(1).node(1).group_peer()?.system_key(name).await
        })
        .await
        .with_context(|| name.to_owned())?;
        ensure!(version >= captured.version, "{name} has version {version} and had {}", captured.version);
        ensure!(captured.value != Bytes::new(), "{name} is empty");
    }
    Ok(())
}
