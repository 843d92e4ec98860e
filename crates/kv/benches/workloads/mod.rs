//! Workloads shared by `benches/paths.rs`, which measures time, and `crates/http/examples/instructions.rs`, which
//! counts instructions.

use std::hint::black_box;

use bytes::Bytes;
use raftkv_kv::{Answer, BatchRef, Command, Key, Op, OpRef, Outcome, ProposalRef, Value, slot_of};

/// Operations per batch: the maximum from the 64 clients of `make bench`.
const OPS: u64 = 64;
/// Value size used by the load generator.
const VALUE_BYTES: usize = 100;

/// A hot path and its input.
pub(crate) struct Workload {
    /// Name in `scripts/instructions.txt` and in criterion reports.
    pub(crate) name: &'static str,
    /// Runs the path once and drops the result. The drop is part of the measured cost.
    pub(crate) run: Box<dyn Fn()>,
}

/// Returns every workload.
pub(crate) fn all() -> Vec<Workload> {
    let (ops, answer) = (ops(), Answer::Applied(outcomes()));
    let (encoded_proposal, encoded_answer) = (encode(&ops), answer.encode());
    let (plain, tagged) = (keys("bench-"), keys("{user}.bench-"));
    vec![
        workload("proposal-encode", move || drop(black_box(encode(black_box(&ops))))),
        workload("proposal-decode", move || drop(black_box(ProposalRef::decode(black_box(&encoded_proposal))))),
        workload("answer-encode", move || drop(black_box(black_box(&answer).encode()))),
        workload("answer-decode", move || drop(black_box(Answer::decode(black_box(&encoded_answer))))),
        workload("slots-plain", move || slots(&plain)),
        workload("slots-tagged", move || slots(&tagged)),
    ]
}

fn workload(name: &'static str, run: impl Fn() + 'static) -> Workload {
    Workload { name, run: Box::new(run) }
}

/// Encodes a batch as an engine does.
fn encode(ops: &[Op]) -> Bytes {
    let ops = ops.iter().map(OpRef::from).collect();
    ProposalRef::Batch(BatchRef { session: 7, sequence: 1_000, acknowledged_below: 999, ops }).encode()
}

/// Hashes all keys of a batch: a single hash would cost less than the call.
fn slots(keys: &[Bytes]) {
    for key in keys {
        black_box(slot_of(black_box(key)));
    }
}

fn ops() -> Vec<Op> {
    let value = Value::from_stored(msgpack_str());
    let set = |key| Command::Set { key: Key::from_stored(key), value: value.clone(), expires_at_ms: 0 }.into();
    keys("bench-").into_iter().map(set).collect()
}

/// Half of the keys are created, half existed before.
fn outcomes() -> Vec<Outcome> {
    (0..OPS).map(|n| Outcome::Set { revision: 1_000_000 + n, created: n % 2 == 0 }).collect()
}

/// The keys of the load generator, spread over a key space of ten thousand.
fn keys(prefix: &str) -> Vec<Bytes> {
    (0..OPS).map(|n| format!("{prefix}{:010}", n * 7_919 % 10_000).into()).collect()
}

/// A text in MsgPack: str 8, length, bytes.
fn msgpack_str() -> Vec<u8> {
    let mut value = vec![0xd9, VALUE_BYTES as u8];
    value.resize(2 + VALUE_BYTES, b'v');
    value
}
