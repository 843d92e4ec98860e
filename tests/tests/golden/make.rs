//! Makes the golden data. Run by hand, once for each version, with that version's programs; see tests/fixtures/README.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use prost::Message;
use raftkv_kv::Ownership;
use raftkv_proto::group::{Description, ExportPage, ExportRequest};
use raftkv_tests::{Client, Cluster, ClusterBuilder, Node, Shards, archive, eventually};
use rmpv::Value;

use super::alone::{Alone, Facts};
use super::capture::Frames;
use super::ledger::{Ledger, Request};
use super::session::Session;
use super::wire::Wire;
use super::{Golden, PLAIN_BLOCK, PlainFacts, SHARDED_BLOCK, ShardedFacts, TIMEOUT_MS, values};

/// The group's clock never goes back, so with a clock of the year 2100 nothing of this data expires while it is of use: sessions
/// after an hour, outcomes of an `Idempotency-Key` after a day.
const FAKE_TIME: &str = "@2100-01-01 00:00:00";
const FAKETIME_LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// How often the store is opened by the programs that made it, each time in a new term.
const OPENINGS: usize = 6;
/// Longer than all of the rest takes: the move is still held when everything is killed.
const HELD: Duration = Duration::from_secs(300);
/// Slots of the moves.
const MOVED_SLOTS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes the golden data: run by hand, see tests/fixtures/README.md"]
async fn make_golden_data() -> anyhow::Result<()> {
    ensure!(std::env::var_os("RAFTKV_BIN_DIR").is_some(), "set RAFTKV_BIN_DIR to the programs of the version");
    let out = PathBuf::from(std::env::var_os("RAFTKV_GOLDEN_DIR").context("set RAFTKV_GOLDEN_DIR to a directory")?);
    ensure!(Path::new(FAKETIME_LIBRARY).is_file(), "{FAKETIME_LIBRARY} is missing: install Debian's faketime");
    fs::create_dir_all(out.join("frames"))?;
    let contents = Golden { plain: plain(&out).await?, sharded: sharded(&out).await? };
    let mut json = serde_json::to_string_pretty(&contents)?;
    json.push('\n');
    fs::write(out.join("contents.json"), json)?;
    Ok(())
}

async fn plain(out: &Path) -> anyhow::Result<PlainFacts> {
    let builder = Cluster::builder().nodes(3).block(PLAIN_BLOCK).unsupervised().env("RAFTKV_LOG_RETAIN", "1KiB");
    let cluster = with_fake_time(builder).start().await?;
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let mut ledger = Ledger::default();

    for (number, (name, value)) in values::all().into_iter().enumerate() {
        let request = Request::put(format!("value/{name}"), &value)?;
        ledger.answered(&clients[number % clients.len()], request, 200).await?;
    }
    for key in values::odd_keys() {
        ledger.answered(&clients[0], Request::put(&key, &Value::Binary(key.clone()))?, 200).await?;
    }
    for number in 0..60 {
        let request = Request::put(format!("compacted/{number:03}"), &Value::from(number))?;
        ledger.answered(&clients[number % clients.len()], request, 200).await?;
    }
    once(&mut ledger, &clients, "compacted").await?;
    change(&mut ledger, &clients, "compacted", 60).await?;
    let first = Session::open(cluster.node(1)).await?;
    let first = first.put(cluster.node(1), "session/compacted", &mut ledger).await?;
    for node in cluster.nodes() {
        node.compact().await?.success()?;
    }

    // From here on in the logs only.
    for number in 0..60 {
        let request = Request::put(format!("logged/{number:03}"), &Value::from(format!("text {number}")))?;
        ledger.answered(&clients[number % clients.len()], request, 200).await?;
    }
    once(&mut ledger, &clients, "logged").await?;
    change(&mut ledger, &clients, "logged", 60).await?;
    change(&mut ledger, &clients, "compacted", 60).await?;
    let second = Session::open(cluster.node(2)).await?;
    let second = second.put(cluster.node(2), "session/logged", &mut ledger).await?;
    cluster.converged().await?;
    ledger.check(&clients[0], "linearizable").await?;
    ledger.check_repeats(&clients[1], false).await?;

    // One node stops gracefully and knows less than the two that are killed.
    let leader = cluster.leader().await?;
    let stopped = cluster.others(&leader).pop().context("a follower")?;
    stopped.stop().await?;
    for number in 0..5 {
        let request = Request::put(format!("after-the-stop/{number}"), &Value::from(number))?;
        ledger.answered(&leader.client(), request, 200).await?;
    }
    ledger.check(&leader.client(), "linearizable").await?;
    let frames = Frames { dir: out.join("frames"), prefix: "plain".to_owned() };
    frames.of_node(&leader).await?;
    let described = Description::decode(Wire::tcp(&leader.group_address().to_string()).await?.describe().await?)?;
    for node in cluster.others(&stopped) {
        node.kill();
    }

    let names: Vec<_> = (1..=3).map(|index| format!("n{index}")).collect();
    let packed = out.join("plain.tar.gz");
    archive::pack(&cluster.dir(), &names, &packed).await?;
    let nodes = facts(&packed, cluster.nodes()).await?;
    cluster.finish().await?;
    let state_hashes = opened(&packed).await?;
    Ok(PlainFacts {
        stopped: stopped.name().to_owned(),
        store_revision: described.revision,
        keys: described.keys,
        clock_ms: described.clock_ms,
        next_index: described.applied_next_index,
        sessions: vec![first, second],
        nodes,
        state_hashes,
        ledger,
    })
}

/// Writes of each kind with an `Idempotency-Key`, and a mismatch, which is kept for none.
async fn once(ledger: &mut Ledger, clients: &[Client], prefix: &str) -> anyhow::Result<()> {
    let [client, other] = [&clients[0], &clients[clients.len() - 1]];
    let key = |name: &str| format!("once/{prefix}/{name}");
    let token = |name: &str| format!("{prefix}-{name}");
    let put = |name: &str, value: u64| Request::put(key(name), &Value::from(value));
    ledger.answered(client, put("set", 1)?.once(&token("set")), 200).await?;
    ledger.answered(other, put("set", 2)?.once(&token("replace")), 200).await?;
    ledger.answered(client, put("deleted", 3)?.once(&token("put")), 200).await?;
    ledger.answered(other, Request::delete(key("deleted")).once(&token("delete")), 200).await?;
    ledger.answered(client, Request::delete(key("never")).once(&token("delete-nothing")), 404).await?;
    ledger.answered(other, put("set", 4)?.only_if("if-none-match", "*").once(&token("present")), 412).await?;
    ledger.answered(client, put("never", 5)?.only_if("if-match", "*").once(&token("absent")), 412).await?;
    ledger.answered(other, put("set", 6)?.only_if("if-match", "\"999999\"").once(&token("revision")), 412).await?;
    ledger.answered(client, put("set", 7)?.once(&token("set")), 422).await?;
    let created = put("created", 8)?.only_if("if-none-match", "*").once(&token("created"));
    ledger.answered(other, created, 200).await?;
    // Applied again, those above would have other outcomes now.
    ledger.answered(client, put("set", 9)?, 200).await?;
    ledger.answered(other, put("never", 10)?, 200).await?;
    Ok(())
}

/// Overwrites some of the keys `prefix/000` and on, and deletes some, a few of which come back.
async fn change(ledger: &mut Ledger, clients: &[Client], prefix: &str, count: usize) -> anyhow::Result<()> {
    for number in (0..count).step_by(3) {
        let client = &clients[number % clients.len()];
        let key = format!("{prefix}/{number:03}");
        match number % 9 {
            0 => ledger.answered(client, Request::put(&key, &Value::from(-(number as i64)))?, 200).await?,
            3 => ledger.write(client, Request::delete(&key)).await?,
            _ => {
                ledger.write(client, Request::delete(&key)).await?;
                ledger.answered(client, Request::put(&key, &Value::from("again"))?, 200).await?
            }
        };
    }
    Ok(())
}

async fn sharded(out: &Path) -> anyhow::Result<ShardedFacts> {
    let mut builder = Shards::builder().groups(2).nodes(1).routers(1).block(SHARDED_BLOCK);
    for (name, value) in fake_time() {
        builder = builder.env(name, value);
    }
    let shards = builder.start().await?;
    let client = shards.router(1).client();
    let clients = [client.clone()];
    let (admin, to) = (shards.admin(), shards.group_id(2).await?);
    let mut ledger = Ledger::default();
    for (name, value) in values::all().into_iter().filter(|(name, _)| !name.ends_with("000")) {
        ledger.answered(&client, Request::put(format!("value/{name}"), &value)?, 200).await?;
    }
    once(&mut ledger, &clients, "before").await?;

    // A move that is over, the other way round: both groups remember how it ended.
    let back = admin.slots_of(to).await?.first(MOVED_SLOTS / 2);
    admin.done(admin.move_slots(&back, 1).await?).await?;
    let slots = admin.slots_of(1).await?.first(MOVED_SLOTS);
    let moving = Shards::keys_in(&slots, "moving/", 80);
    for (number, key) in moving.iter().enumerate() {
        ledger.answered(&client, Request::put(key, &Value::from(format!("before the move {number}")))?, 200).await?;
    }
    for key in moving.iter().take(10) {
        let request = Request::put(key, &Value::from("once"))?.once(&format!("moving {key}"));
        ledger.answered(&client, request, 200).await?;
    }
    for group in shards.groups() {
        group.node(1).compact().await?.success()?;
    }

    // One that is held before its fence, when changes are recorded, and again when it can only be committed.
    let holds = format!("fence:6000,commit:{}", HELD.as_millis());
    shards.restart_routers("RAFTKV_MOVE_PAUSE_AT", &holds).await?;
    let operation = shards.admin().move_slots(&slots, to).await?;
    held(&shards, "fence").await?;
    for (number, key) in moving.iter().enumerate().take(30) {
        match number % 3 {
            0 => ledger.answered(&client, Request::put(key, &Value::from("changed meanwhile"))?, 200).await?,
            1 => ledger.answered(&client, Request::delete(key), 200).await?,
            _ => {
                let request = Request::put(key, &Value::from("changed once"))?.once(&format!("changed {key}"));
                ledger.answered(&client, request, 200).await?
            }
        };
    }
    let source = shards.group(1).node(1);
    let group = Wire::tcp(&source.group_address().to_string()).await?;
    let ownership = Ownership::decode(&Description::decode(group.describe().await?)?.ownership)?;
    let outgoing = ownership.outgoing.context("a move from the group")?;
    ensure!(outgoing.fence.is_none() && outgoing.changes > 0, "the move is {outgoing:?}");
    let frames = |name: &str| Frames { dir: out.join("frames"), prefix: name.to_owned() };
    let (mut cursor, mut pages) = (Bytes::new(), Vec::new());
    for _ in 0..20 {
        let request = ExportRequest { move_id: outgoing.id, cursor, max_bytes: 2_000, timeout_ms: TIMEOUT_MS };
        let bytes = group.unary("/raftkv.group.v1.Group/Export", &request).await?;
        let page = ExportPage::decode(bytes.clone())?;
        cursor = page.cursor;
        pages.push(bytes);
        if page.base_done && page.changes_done == page.changes_total {
            break;
        }
    }
    frames("sharded-1").write("export", &pages)?;
    held(&shards, "commit").await?;

    // The slots are not served; all others are.
    let staying = Shards::keys_in(&admin.slots_of(to).await?, "staying/", 10);
    for (number, key) in staying.iter().enumerate() {
        ledger.answered(&client, Request::put(key, &Value::from(number))?, 200).await?;
    }
    // Its documents would change while frames are captured.
    shards.router(1).process().kill();
    for (group, name) in shards.groups().iter().zip(["sharded-1", "sharded-2"]) {
        frames(name).of_node(group.node(1)).await?;
    }
    let mut nodes = BTreeMap::new();
    for (number, group) in shards.groups().iter().enumerate() {
        group.node(1).kill();
        let packed = out.join(format!("sharded-{}.tar.gz", number + 1));
        archive::pack(&group.dir(), &["n1".to_owned()], &packed).await?;
        nodes.extend(facts(&packed, group.nodes()).await?);
    }
    shards.finish().await?;
    Ok(ShardedFacts { operation, move_id: outgoing.id, slots: slots.to_string(), nodes, ledger })
}

/// Waits until the router says that it holds the move.
async fn held(shards: &Shards, place: &str) -> anyhow::Result<()> {
    let place = format!("place=\"{place}\"");
    eventually(&format!("the move is held, {place}"), || async {
        let log = fs::read_to_string(shards.router(1).process().log())?;
        let held = log.lines().any(|line| line.contains("held before this") && line.contains(&place));
        held.then_some(()).ok_or_else(|| anyhow!("the router does not say so"))
    })
    .await
}

/// What each node's engine finds on its disk.
async fn facts(packed: &Path, nodes: &[Arc<Node>]) -> anyhow::Result<BTreeMap<String, Facts>> {
    let dir = tempfile::Builder::new().prefix("rkg").tempdir()?;
    archive::unpack(packed, dir.path()).await?;
    let mut found = BTreeMap::new();
    for node in nodes {
        let data = dir.path().join(format!("n{}", node.index()));
        let alone = Alone::start(node.name(), &data, dir.path()).await?;
        found.insert(node.name().to_owned(), alone.facts().await?);
    }
    Ok(found)
}

/// Opens a copy of the plain store again and again, each time in a new term, and notes the state hash at each position. The entry
/// with which a term begins changes nothing else.
async fn opened(packed: &Path) -> anyhow::Result<BTreeMap<u64, u64>> {
    let cluster = Cluster::builder().nodes(3).block(PLAIN_BLOCK).data(packed).unsupervised().create().await?;
    let mut hashes = BTreeMap::new();
    for _ in 0..OPENINGS {
        for node in cluster.nodes() {
            node.start()?;
        }
        cluster.whole(3).await?;
        cluster.converged().await?;
        for node in cluster.nodes() {
            let (described, _) = node.group_peer()?.describe().await?;
            let known = hashes.insert(described.applied_next_index, described.state_hash);
            ensure!(known.is_none_or(|known| known == described.state_hash), "the nodes' states differ");
        }
        for node in cluster.nodes() {
            node.kill();
        }
    }
    cluster.finish().await?;
    Ok(hashes)
}

fn fake_time() -> [(&'static str, &'static str); 3] {
    [("LD_PRELOAD", FAKETIME_LIBRARY), ("FAKETIME", FAKE_TIME), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]
}

fn with_fake_time(builder: ClusterBuilder) -> ClusterBuilder {
    fake_time().into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
}
