//! Messages and frames of version 0.1.0, decoded by this version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use prost::Message;
use prost::encoding::decode_varint;
use raftkv_kv::{Answer, ImportPage, ImportRecord, Ownership};
use raftkv_proto::consensus::{ConsensusStatus, ProposeResponse, ReadBarrierResponse};
use raftkv_proto::consensus::{propose_response, read_barrier_response};
use raftkv_proto::group::{Description, ExportPage, ListResponse, ReadResponse, SystemKey};
use raftkv_proto::group::{read_response, read_result};
use raftkv_proto::raft::Identity;
use raftkv_proto::state_machine::state_machine_client::StateMachineClient;
use raftkv_proto::state_machine::{EngineStatus, Position, SnapshotChunk, snapshot_chunk};
use raftkv_tests::encode_key;

use super::alone::Alone;
use super::{READ_KEYS, SYSTEM_KEYS, fixture, golden, messages};

/// The nodes whose answers were captured.
const CAPTURED: [&str; 3] = ["plain", "sharded-1", "sharded-2"];

/// The messages of a file of length-delimited ones. Encoded again they give the same bytes.
pub(super) fn read_frames<M: Message + Default + Debug>(name: &str) -> anyhow::Result<Vec<M>> {
    let path = fixture(&format!("frames/{name}.bin"));
    let file = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let (mut rest, mut messages) = (&file[..], Vec::new());
    while rest.has_remaining() {
        let len = decode_varint(&mut rest)? as usize;
        let bytes = rest.get(..len).with_context(|| format!("{name} ends within a message"))?;
        let message = M::decode(bytes).with_context(|| format!("decode {name}"))?;
        ensure!(message.encode_to_vec() == bytes, "{name}: {message:?} is encoded otherwise now");
        messages.push(message);
        rest = &rest[len..];
    }
    ensure!(!messages.is_empty(), "{name} is empty");
    Ok(messages)
}

fn read_frame<M: Message + Default + Debug>(name: &str) -> anyhow::Result<M> {
    let mut messages = read_frames(name)?;
    ensure!(messages.len() == 1, "{name} has {} messages", messages.len());
    messages.pop().context("a message")
}

#[test]
fn messages_of_version_0_1_0_are_read_and_written_the_same() -> anyhow::Result<()> {
    let written: BTreeMap<String, String> = serde_json::from_slice(&std::fs::read(fixture("messages.json"))?)?;
    let samples = messages::samples();
    let names: BTreeSet<_> = samples.iter().map(|sample| &sample.name).collect();
    ensure!(names.len() == samples.len(), "two messages have one name");
    ensure!(names.into_iter().eq(written.keys()), "messages.json has other names");
    for sample in samples {
        let bytes = from_hex(&written[&sample.name]).with_context(|| sample.name.clone())?;
        let read = (sample.read)(&bytes).map_err(|error| anyhow!("{}: {error}", sample.name))?;
        ensure!(read.0 == sample.shown, "{} is read as {} and was {}", sample.name, read.0, sample.shown);
        ensure!(read.1 == bytes, "{} is written otherwise after it was read", sample.name);
        ensure!(sample.bytes == bytes, "{} is written otherwise", sample.name);
    }
    Ok(())
}

fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "not hexadecimal");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

#[test]
fn answers_of_a_node_of_version_0_1_0_are_understood() -> anyhow::Result<()> {
    for name in CAPTURED {
        let frame = |kind: &str| format!("{name}-{kind}");
        let position: Position = read_frame(&frame("position"))?;
        let described: Description = read_frame(&frame("description"))?;
        ensure!(described.applied_next_index == position.next_index, "{described:?} is not at {position:?}");
        ensure!(described.version == "0.1.0" && described.role == "leader", "{described:?}");
        ensure!(described.leader == described.node, "{described:?}");
        let engine: EngineStatus = read_frame(&frame("engine-status"))?;
        ensure!(engine.position.as_ref() == Some(&position) && engine.version == "0.1.0", "{engine:?}");
        ensure!((engine.keys, engine.revision) == (described.keys, described.revision), "{engine:?}");

        let identity: Identity = read_frame(&frame("identity"))?;
        let status: ConsensusStatus = read_frame(&frame("consensus-status"))?;
        ensure!(identity.wire_version == raftkv_proto::WIRE_VERSION, "{identity:?}");
        ensure!((&identity.name, &identity.cluster_id) == (&described.node, &described.cluster_id), "{identity:?}");
        ensure!((identity.raft_id, &identity.name) == (status.raft_id, &status.name), "{status:?}");
        ensure!(status.leader_raft_id == status.raft_id && status.role == "leader", "{status:?}");
        ensure!(status.members.len() == if name == "plain" { 3 } else { 1 }, "{status:?}");
        ensure!(status.members.iter().all(|member| member.voter && !member.group_address.is_empty()), "{status:?}");

        let barrier: ReadBarrierResponse = read_frame(&frame("read-barrier"))?;
        let expected = read_barrier_response::Outcome::NextIndex(position.next_index);
        ensure!(barrier.id == 3 && barrier.outcome == Some(expected), "{barrier:?}");
        let proposed: ProposeResponse = read_frame(&frame("propose"))?;
        let Some(propose_response::Outcome::Applied(applied)) = proposed.outcome else {
            anyhow::bail!("a session was answered {proposed:?}");
        };
        let answer = Answer::decode(&applied.answer)?;
        // The upper bits say which payload of the entry it was.
        let opened = matches!(answer, Answer::SessionOpened { session } if session % (1 << 48) == applied.index + 1);
        ensure!(opened, "{applied:?} is {answer:?}");
    }
    Ok(())
}

#[test]
fn reads_of_a_node_of_version_0_1_0_are_understood() -> anyhow::Result<()> {
    let golden = golden()?;
    for name in CAPTURED {
        let ledger = if name == "plain" { &golden.plain.ledger } else { &golden.sharded.ledger };
        let read: ReadResponse = read_frame(&format!("{name}-read"))?;
        let Some(read_response::Outcome::Results(results)) = read.outcome else { anyhow::bail!("{read:?}") };
        ensure!(read.id == 7 && results.results.len() == READ_KEYS.len(), "{results:?}");
        for (key, result) in READ_KEYS.into_iter().zip(results.results) {
            match (result.result, ledger.entries.get(&encode_key(key))) {
                (Some(read_result::Result::Entry(entry)), Some(expected)) => ensure!(expected.is(&entry), "{entry:?}"),
                (Some(read_result::Result::Absent(true)), None) => {}
                (Some(read_result::Result::WrongGroup(true)), _) if name != "plain" => {}
                other => anyhow::bail!("{key} was read as {other:?}"),
            }
        }
        let lists: Vec<ListResponse> = read_frames(&format!("{name}-list"))?;
        ensure!(lists.len() == 2 && !lists[0].entries.is_empty(), "{lists:?}");
        for (with_value, only_key) in lists[0].entries.iter().zip(&lists[1].entries) {
            let expected = ledger.entries.get(&encode_key(&with_value.key)).context("a listed key")?;
            ensure!(expected.is(with_value), "{with_value:?} was {expected:?}");
            ensure!(only_key.value.is_empty() && only_key.key == with_value.key, "{only_key:?}");
        }
        ensure!(lists[0].served.is_empty() == lists[1].served.is_empty(), "{lists:?}");
    }
    Ok(())
}

#[test]
fn a_move_of_version_0_1_0_is_understood() -> anyhow::Result<()> {
    let facts = golden()?.sharded;
    let source = ownership("sharded-1")?;
    let outgoing = source.outgoing.clone().context("a move from the first group")?;
    let fence = outgoing.fence.context("a fence")?;
    ensure!(outgoing.id == facts.move_id && outgoing.slots == facts.slots.parse()?, "{outgoing:?}");
    ensure!(fence.changes == outgoing.changes && fence.changes > 0 && fence.revision > 0, "{fence:?}");
    ensure!(source.last_import.is_some_and(|ended| ended.committed), "{:?}", source.last_import);
    let target = ownership("sharded-2")?;
    let incoming = target.incoming.clone().context("a move to the second group")?;
    ensure!(incoming.id == facts.move_id && incoming.slots == outgoing.slots && incoming.pages > 0, "{incoming:?}");
    ensure!(!incoming.cursor.is_empty(), "{incoming:?}");
    ensure!(target.last_export.is_some_and(|ended| ended.committed), "{:?}", target.last_export);
    ensure!(source.store == target.store && (source.group, target.group) == (1, 2), "{source:?} {target:?}");
    ensure!(ownership("plain")? == Ownership::default(), "the plain group is in a sharded store");

    let pages: Vec<ExportPage> = read_frames("sharded-1-export")?;
    let (mut values, mut absent, mut outcomes) = (0, 0, 0);
    for page in &pages {
        let decoded = ImportPage::decode(&page.records)?;
        ensure!(decoded.encode() == page.records, "{decoded:?} is encoded otherwise now");
        for record in &decoded.records {
            match record {
                ImportRecord::Value { .. } => values += 1,
                ImportRecord::Absent { .. } => absent += 1,
                ImportRecord::Idempotency { .. } => outcomes += 1,
            }
        }
    }
    ensure!(values > 0 && absent > 0 && outcomes > 0, "{values} values, {absent} deletions, {outcomes} outcomes");
    let last = pages.last().context("a page")?;
    ensure!(last.base_done && last.changes_total > 0 && last.changes_done == last.changes_total, "{last:?}");
    let documents: Vec<SystemKey> = read_frames("sharded-1-system-keys")?;
    ensure!(documents.len() == SYSTEM_KEYS.len(), "{documents:?}");
    for document in documents {
        let _: serde_json::Value = serde_json::from_slice(&document.value).context("a document of the routers")?;
    }
    Ok(())
}

fn ownership(name: &str) -> anyhow::Result<Ownership> {
    let described: Description = read_frame(&format!("{name}-description"))?;
    let ownership = Ownership::decode(&described.ownership)?;
    ensure!(ownership.encode() == described.ownership, "{ownership:?} is encoded otherwise now");
    Ok(ownership)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_version_0_1_0_becomes_the_state() -> anyhow::Result<()> {
    for name in CAPTURED {
        let chunks: Vec<SnapshotChunk> = read_frames(&format!("{name}-snapshot"))?;
        let described: Description = read_frame(&format!("{name}-description"))?;
        let Some(snapshot_chunk::Kind::Header(header)) = chunks[0].kind.clone() else {
            anyhow::bail!("{name} begins with {:?}", chunks[0]);
        };
        let position = header.position.context("a position")?;
        ensure!(position.next_index == described.applied_next_index, "{position:?} and {described:?}");

        let dir = tempfile::Builder::new().prefix("rkg").tempdir()?;
        let alone = Alone::start(name, dir.path(), dir.path()).await?;
        let mut machine = StateMachineClient::new(alone.machine.channel());
        let staged = machine.snapshot_in(futures::stream::iter(chunks)).await?.into_inner();
        machine.activate_snapshot(staged).await?;
        let facts = alone.facts().await?;
        ensure!(facts.next_index == described.applied_next_index, "{name}: {facts:?} was {described:?}");
        ensure!(facts.state_hash == described.state_hash, "{name}: {facts:?} was {described:?}");
        ensure!(facts.log_id == STANDARD.encode(&position.log_id), "{name}: {facts:?} was {position:?}");
        ensure!((facts.keys, facts.revision) == (described.keys, described.revision), "{name}: {facts:?}");
        ensure!(facts.ownership == STANDARD.encode(&described.ownership), "{name}: {facts:?}");
    }
    Ok(())
}
