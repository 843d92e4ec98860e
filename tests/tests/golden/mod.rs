//! Data of version 0.1.0: this version opens it, reads everything that is in it, and writes on.
//!
//! The data is in tests/fixtures, see the page there.

mod alone;
mod capture;
mod frames;
mod ledger;
mod make;
#[path = "../../fixtures/v0.1.0/messages/all.rs"]
mod messages;
mod plain;
mod session;
mod sharded;
mod values;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use raftkv_tests::archive;
use serde::{Deserialize, Serialize};

use alone::{Alone, Facts};
use ledger::Ledger;
use session::KeptAnswer;

/// The data has addresses in it. No other test uses addresses below 127.10.
const PLAIN_BLOCK: [u8; 2] = [5, 0];
/// Of the routers; those of the groups follow.
const SHARDED_BLOCK: [u8; 2] = [5, 10];
/// The documents that routers keep.
const SYSTEM_KEYS: [&str; 2] = ["cluster", "routers"];
/// The keys of the captured read; the last one does not exist.
const READ_KEYS: [&str; 5] = ["value/nil", "value/int-1", "value/true", "value/float32", "never"];
/// Of a call of a service.
const TIMEOUT_MS: u32 = 20_000;

/// contents.json: everything that must be found in the data.
#[derive(Debug, Serialize, Deserialize)]
struct Golden {
    plain: PlainFacts,
    sharded: ShardedFacts,
}

/// One group of three nodes.
#[derive(Debug, Serialize, Deserialize)]
struct PlainFacts {
    /// The node that was stopped gracefully; the others were killed later.
    stopped: String,
    store_revision: u64,
    keys: u64,
    clock_ms: u64,
    /// The position of the leader at the end.
    next_index: u64,
    sessions: Vec<KeptAnswer>,
    /// By name: the state on the disk, which is older than the end of the log.
    nodes: BTreeMap<String, Facts>,
    /// By position, after the store was opened again: an entry that begins a term changes nothing else.
    state_hashes: BTreeMap<u64, u64>,
    ledger: Ledger,
}

/// Two groups of one node, and a move from the first to the second that is fenced and not committed.
#[derive(Debug, Serialize, Deserialize)]
struct ShardedFacts {
    /// The id of the move's operation.
    operation: u64,
    move_id: u64,
    slots: String,
    /// By name: the state on the disk.
    nodes: BTreeMap<String, Facts>,
    ledger: Ledger,
}

/// A file of the golden data.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v0.1.0").join(name)
}

fn golden() -> anyhow::Result<Golden> {
    let path = fixture("contents.json");
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
}

/// Compares the state on each disk of an archive with the state that the programs of its time found there. Nothing is applied, so
/// position and state hash are exactly those.
async fn same_on_disk(packed: &str, nodes: &[(&str, &Facts)]) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("rkg").tempdir()?;
    archive::unpack(&fixture(packed), dir.path()).await?;
    for (number, (name, facts)) in nodes.iter().enumerate() {
        let data = dir.path().join(format!("n{}", number + 1));
        let alone = Alone::start(name, &data, dir.path()).await?;
        let found = alone.facts().await?;
        ensure!(&&found == facts, "the disk of {name} holds {found:?} and held {facts:?}");
    }
    Ok(())
}
