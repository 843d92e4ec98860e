//! What `benches/paths.rs` times and `crates/http/examples/instructions.rs` counts.

use std::hint::black_box;

use bytes::Bytes;
use raftkv_kv::{Answer, BatchRef, Command, Key, Op, OpRef, Outcome, ProposalRef, Value, slot_of};

/// Operations of a batch: as many as the 64 clients of `make bench` can give it.
const OPS: u64 = 64;
/// The load generator's size of a value.
const VALUE_BYTES: usize = 100;

/// A hot path and its input.
pub(crate) struct Workload {
    /// As `scripts/instructions.txt` and the reports of criterion have it.
    pub(crate) name: &'static str,
    /// Goes the path once. What it makes is dropped within: that is part of what it costs.
    pub(crate) run: Box<dyn Fn()>,
}

/// All of them.
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

/// As an engine encodes what its clients have asked for.
fn encode(ops: &[Op]) -> Bytes {
    let ops = ops.iter().map(OpRef::from).collect();
    ProposalRef::Batch(BatchRef { session: 7, sequence: 1_000, acknowledged_below: 999, ops }).encode()
}

/// The slots of a batch's keys: one alone would be less than what it takes to call it.
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

/// Half of them new, half of them not.
fn outcomes() -> Vec<Outcome> {
    (0..OPS).map(|n| Outcome::Set { revision: 1_000_000 + n, created: n % 2 == 0 }).collect()
}

/// The load generator's keys, spread over ten thousand.
fn keys(prefix: &str) -> Vec<Bytes> {
    (0..OPS).map(|n| format!("{prefix}{:010}", n * 7_919 % 10_000).into()).collect()
}

/// A text as MsgPack has it: str 8, its length, its bytes.
fn msgpack_str() -> Vec<u8> {
    let mut value = vec![0xd9, VALUE_BYTES as u8];
    value.resize(2 + VALUE_BYTES, b'v');
    value
}
