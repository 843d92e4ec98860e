//! Checks `docs/reference/limits.md` against the engine's constants: ports, requests in flight, and admission.

use std::time::Duration;

use raftkv_kv::{
    Limits, MAX_BATCH_OPS, MAX_CLOCK_MS, MAX_IDEMPOTENCY_KEEP_MS, MAX_IDEMPOTENCY_KEY_BYTES, MAX_IMPORT_KEY_BYTES,
    MAX_REVISION, MAX_SYSTEM_KEY_BYTES, MAX_SYSTEM_VALUE_BYTES,
};
use raftkv_link::proposer::{MAX_WAITING_BYTES, MAX_WAITING_REQUESTS, MAX_WAITING_SYSTEM_COMMANDS};
use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_runtime::grpc::LINK_CONNECTIONS;
use raftkv_runtime::limits_page::{Part, Row, bytes, count, time};
use raftkv_store::StateLimits;

use crate::barrier::MAX_WAITING_READS;
use crate::run::GROUP_CONNECTIONS;
use crate::{group, state_machine};

const PAGE: &str = include_str!("../../docs/reference/limits.md");

fn check(heading: &str, limits: &[Row], sources: &[&str]) {
    let part = Part::of(PAGE, heading);
    assert_eq!(part.differences(limits), [""; 0]);
    assert_eq!(part.unknown_metrics(sources), [""; 0]);
}

#[test]
fn the_page_has_the_limits_of_the_group_port() {
    let mut limits = group::limits();
    limits.extend([
        ("connections", count(GROUP_CONNECTIONS.max_connections)),
        ("calls", count(GROUP_CONNECTIONS.max_calls)),
    ]);
    let sources = [
        include_str!("../../crates/runtime/src/grpc/gate.rs"),
        include_str!("group/propose.rs"),
        include_str!("group/read.rs"),
    ];
    check("Group port", &limits, &sources);
}

#[test]
fn the_page_has_the_limits_between_engine_and_sidecar() {
    let limits = [
        ("connections", count(LINK_CONNECTIONS.max_connections)),
        ("calls", count(LINK_CONNECTIONS.max_calls)),
        ("message", bytes(MAX_MESSAGE_BYTES)),
        ("entries' requests of a stream", count(state_machine::APPLIES_IN_FLIGHT)),
    ];
    check("Between engine and sidecar", &limits, &[include_str!("../../crates/runtime/src/grpc/gate.rs")]);
}

#[test]
fn the_page_has_the_limits_of_requests_under_way() {
    let limits = [
        ("reads that wait", count(MAX_WAITING_READS)),
        ("writes that wait", count(MAX_WAITING_REQUESTS)),
        ("bytes of writes that wait", bytes(MAX_WAITING_BYTES)),
        ("system commands that wait", count(MAX_WAITING_SYSTEM_COMMANDS)),
    ];
    let sources = [include_str!("barrier/mod.rs"), include_str!("../../router/src/data/group/reader.rs")];
    let part = Part::of(PAGE, "Reads and writes under way");
    assert_eq!(part.differences(&limits), [""; 0]);
    // The writers' metric names begin with the process name.
    let unknown = part.unknown_metrics(&sources);
    let of_writers = |text: &String| text.ends_with("_writes_shed_total");
    assert!(unknown.iter().all(of_writers), "{unknown:?}");
    assert!(include_str!("../../crates/link/src/peer.rs").contains("writes_shed_total"));
}

#[test]
fn the_page_has_the_bounds_of_what_is_admitted() {
    let StateLimits { session_ms, sessions, answers_per_session, idempotency_ms, idempotency, sweep } =
        StateLimits::default();
    let days = |ms: u64| format!("{} days", ms / Duration::from_secs(24 * 3_600).as_millis() as u64);
    let limits = [
        ("revision", format!("2^53 − 1 = {}", count(usize::try_from(MAX_REVISION).unwrap()))),
        ("clock", format!("{} ms", count(usize::try_from(MAX_CLOCK_MS).unwrap()))),
        ("operations of an entry's batch", count(MAX_BATCH_OPS)),
        ("key of an entry", bytes(MAX_IMPORT_KEY_BYTES)),
        ("depth of an entry's value", count(Limits::default().max_value_depth)),
        ("idempotency key of an entry", bytes(MAX_IDEMPOTENCY_KEY_BYTES)),
        ("name of a system key", bytes(MAX_SYSTEM_KEY_BYTES)),
        ("document of a system key", bytes(MAX_SYSTEM_VALUE_BYTES)),
        ("sessions", count(sessions)),
        ("idle session", time(Duration::from_millis(session_ms))),
        ("answers of a session", count(answers_per_session)),
        ("kept outcome of an entry", time(Duration::from_millis(MAX_IDEMPOTENCY_KEEP_MS))),
        ("longest kept outcome", days(idempotency_ms)),
        ("outcomes", count(usize::try_from(idempotency).unwrap())),
        ("expired records of an entry", count(sweep)),
    ];
    let sources = [include_str!("group/propose.rs"), include_str!("../../sidecar/src/lead/proposals.rs")];
    check("Admission to the log", &limits, &sources);
}
