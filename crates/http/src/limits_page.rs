//! `docs/reference/limits.md` says what the code does: each limit and budget of the HTTP API has one row there, with its default and its metrics.

use raftkv_kv::Limits;
use raftkv_runtime::limits_page::{Part, Row, bytes, count, speed, time};
use raftkv_runtime::scrapes::LEAST_GAP;

use crate::DoorSettings;
use crate::config::{DEFAULT_TIMEOUT, IDEMPOTENCY_KEEP, MAX_TIMEOUT};
use crate::door::Door;
use crate::limits::{
    HELD_BYTES, HELD_REQUESTS, HttpLimits, MAX_HEADER_LINES, MAX_LISTS, NODE_CONNECTIONS, NODE_RUNNING_LISTS,
    ROUTER_CONNECTIONS, ROUTER_RUNNING_LISTS, UNCOUNTED_ANSWER_BYTES,
};

const PAGE: &str = include_str!("../../../docs/reference/limits.md");
/// Of the part that is about this crate.
const HEADING: &str = "HTTP API";

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
        ("metrics rendering interval", time(LEAST_GAP)),
    ]);
    rows
}

fn of_requests(limits: HttpLimits) -> Vec<Row> {
    let HttpLimits {
        max_connections,
        crowded_percent,
        full_percent,
        max_in_flight,
        max_header_bytes,
        max_body_bytes,
        small_bytes,
        small_body_room,
        large_body_room,
        small_answer_room,
        large_answer_room,
        operations_room,
        min_body_speed,
        body_speed_window,
        min_answer_speed,
        answer_grace,
        slow_below,
        spared,
        kept_idle,
        header_timeout,
        body_timeout,
        keep_alive_timeout,
        write_timeout,
        drain_timeout,
        // Names, not a bound.
        hosts: _,
    } = limits;
    let all_rooms = small_body_room + large_body_room + small_answer_room + large_answer_room + operations_room;
    vec![
        ("connections", nodes_and_routers(max_connections, ROUTER_CONNECTIONS)),
        ("crowded port", format!("{crowded_percent} %")),
        ("full port", format!("{full_percent} %")),
        ("requests in flight", count(max_in_flight)),
        ("head", bytes(max_header_bytes)),
        ("body", bytes(max_body_bytes)),
        ("small body or answer", bytes(small_bytes)),
        ("room for small bodies", bytes(small_body_room)),
        ("room for large bodies", bytes(large_body_room)),
        ("room for small answers", bytes(small_answer_room)),
        ("room for large answers", bytes(large_answer_room)),
        ("room for operations", bytes(operations_room)),
        ("all rooms", bytes(all_rooms)),
        ("least speed of a body", format!("{} in each {}", speed(min_body_speed), time(body_speed_window))),
        ("least speed of an answer", format!("{} after {}", speed(min_answer_speed), time(answer_grace))),
        ("slow client", speed(slow_below)),
        ("time to spare", time(spared)),
        ("kept idle connection", time(kept_idle)),
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

fn nodes_and_routers(nodes: usize, routers: usize) -> String {
    format!("node {}, router {}", count(nodes), count(routers))
}

#[test]
fn the_page_has_each_limit_with_its_default() {
    assert_eq!(Part::of(PAGE, HEADING).differences(&rows()), [""; 0]);
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
        include_str!("../../../router/src/data/backend/holds.rs"),
    ];
    assert_eq!(Part::of(PAGE, HEADING).unknown_metrics(&sources), [""; 0]);
}
