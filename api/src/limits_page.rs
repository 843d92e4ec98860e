//! `docs/limits.md` says what the code does: each limit and budget of the HTTP API has one row there, with its default and its metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use raftkv_kv::Limits;

use crate::DoorSettings;
use crate::config::{DEFAULT_TIMEOUT, IDEMPOTENCY_KEEP, MAX_TIMEOUT};
use crate::door::Door;
use crate::limits::{
    HELD_BYTES, HELD_REQUESTS, HttpLimits, MAX_HEADER_LINES, MAX_LISTS, NODE_CONNECTIONS, NODE_RUNNING_LISTS,
    ROUTER_CONNECTIONS, ROUTER_RUNNING_LISTS, UNCOUNTED_ANSWER_BYTES,
};

const PAGE: &str = include_str!("../../docs/limits.md");
/// Of the part that is about this crate; the next heading of its level ends it.
const HEADING: &str = "## HTTP API";

/// Name and default, as the page has them.
type Row = (&'static str, String);

/// Everything that there is. A limit that is added to one of these does not compile here until it has a row.
fn rows() -> Vec<Row> {
    let door = Door::check(DoorSettings::default(), NODE_CONNECTIONS).unwrap();
    let mut rows = of_requests(door.http_limits([]));
    rows.extend(of_content(door.limits.clone()));
    rows.extend([
        ("uncounted answer", bytes(UNCOUNTED_ANSWER_BYTES)),
        ("header lines", count(MAX_HEADER_LINES)),
        ("lists", count(MAX_LISTS)),
        ("lists at once", nodes_and_routers(NODE_RUNNING_LISTS, ROUTER_RUNNING_LISTS)),
        ("held requests", count(HELD_REQUESTS)),
        ("held bytes", bytes(HELD_BYTES)),
        ("request timeout", time(DEFAULT_TIMEOUT)),
        ("longest request timeout", time(MAX_TIMEOUT)),
        ("kept outcomes", time(IDEMPOTENCY_KEEP)),
    ]);
    rows
}

fn of_requests(limits: HttpLimits) -> Vec<Row> {
    let HttpLimits {
        max_connections,
        crowded_percent,
        max_in_flight,
        max_header_bytes,
        max_body_bytes,
        small_bytes,
        small_body_room,
        large_body_room,
        small_answer_room,
        large_answer_room,
        min_body_speed,
        body_speed_window,
        min_answer_speed,
        answer_grace,
        slow_below,
        spared,
        header_timeout,
        body_timeout,
        keep_alive_timeout,
        write_timeout,
        drain_timeout,
        // Names, not a bound.
        hosts: _,
    } = limits;
    vec![
        ("connections", nodes_and_routers(max_connections, ROUTER_CONNECTIONS)),
        ("crowded port", format!("{crowded_percent} %")),
        ("requests in flight", count(max_in_flight)),
        ("head", bytes(max_header_bytes)),
        ("body", bytes(max_body_bytes)),
        ("small body or answer", bytes(small_bytes)),
        ("room for small bodies", bytes(small_body_room)),
        ("room for large bodies", bytes(large_body_room)),
        ("room for small answers", bytes(small_answer_room)),
        ("room for large answers", bytes(large_answer_room)),
        ("all rooms", bytes(small_body_room + large_body_room + small_answer_room + large_answer_room)),
        ("least speed of a body", format!("{} in each {}", speed(min_body_speed), time(body_speed_window))),
        ("least speed of an answer", format!("{} after {}", speed(min_answer_speed), time(answer_grace))),
        ("slow client", speed(slow_below)),
        ("time to spare", time(spared)),
        ("header timeout", time(header_timeout)),
        ("body timeout", time(body_timeout)),
        ("keep-alive timeout", time(keep_alive_timeout)),
        ("write timeout", time(write_timeout)),
        ("shutdown grace", time(drain_timeout)),
    ]
}

fn of_content(limits: Limits) -> Vec<Row> {
    let Limits {
        max_key_bytes,
        max_value_bytes,
        max_value_depth,
        max_batch_ops,
        max_batch_bytes,
        max_list_entries,
        max_list_bytes,
        max_idempotency_key_bytes,
    } = limits;
    vec![
        ("key", bytes(max_key_bytes)),
        ("value", bytes(max_value_bytes)),
        ("depth of a value", count(max_value_depth)),
        ("operations of a batch", count(max_batch_ops)),
        ("keys and values of a batch", bytes(max_batch_bytes)),
        ("entries of a page", count(max_list_entries)),
        ("keys and values of a page", bytes(max_list_bytes)),
        ("Idempotency-Key", bytes(max_idempotency_key_bytes)),
    ]
}

fn count(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        n => format!("{} B", count(n)),
    }
}

fn speed(bytes_a_second: u64) -> String {
    format!("{}/s", bytes(bytes_a_second as usize))
}

fn time(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

fn nodes_and_routers(nodes: usize, routers: usize) -> String {
    format!("node {}, router {}", count(nodes), count(routers))
}

/// The tables of the part: cells by the name in the first one.
fn page() -> BTreeMap<&'static str, Vec<&'static str>> {
    let (_, part) = PAGE.split_once(&format!("{HEADING}\n")).expect("the part about the HTTP API");
    let part = part.split("\n## ").next().unwrap_or_default();
    let lines =
        part.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---") && !line.starts_with("| name"));
    let mut rows = BTreeMap::new();
    for line in lines {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "name, default, what the client gets, metrics: {line}");
        assert!(!cells[2].is_empty(), "what does the client get? {line}");
        assert!(rows.insert(cells[0], cells).is_none(), "it is there twice: {line}");
    }
    rows
}

#[test]
fn the_page_has_each_limit_with_its_default() {
    let mut page = page();
    for (name, default) in rows() {
        let cells = page.remove(name).unwrap_or_else(|| panic!("docs/limits.md has no row `{name}`: {default}"));
        assert_eq!(cells[1], default, "docs/limits.md: the default of `{name}`");
    }
    assert!(page.is_empty(), "docs/limits.md has what the code has not: {:?}", page.keys());
}

#[test]
fn the_metrics_of_the_page_are_those_of_the_code() {
    let sources = [
        include_str!("body.rs"),
        include_str!("limits.rs"),
        include_str!("places.rs"),
        include_str!("room.rs"),
        include_str!("server.rs"),
        include_str!("watch.rs"),
        include_str!("../../router/src/backend/holds.rs"),
    ];
    for (name, cells) in page() {
        for quoted in cells[3].split('`').skip(1).step_by(2) {
            let (metric, labels) = quoted.split_once('{').unwrap_or((quoted, ""));
            let label = labels.split('"').nth(1).unwrap_or_default();
            for part in [metric, label] {
                let quoted = format!("\"{part}\"");
                let is_there = part.is_empty() || sources.iter().any(|source| source.contains(&quoted));
                assert!(is_there, "docs/limits.md: `{name}` has {part}, which is not in the code");
            }
        }
    }
}

#[test]
fn defaults_are_written_for_people() {
    assert_eq!([count(7), count(1_000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
    assert_eq!([bytes(255), bytes(1024), bytes(16 << 20), bytes(1025)], ["255 B", "1 KiB", "16 MiB", "1,025 B"]);
    let times = [250, 10_000, 60_000, 86_400_000].map(|ms| time(Duration::from_millis(ms)));
    assert_eq!(times, ["250 ms", "10 s", "1 min", "24 h"]);
}
