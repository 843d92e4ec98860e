//! Clients that hold what others need: bodies that stand still, answers that nobody reads, connections that idle, batches of a million
//! operations.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::support::{Connection, Counters, PATIENCE, Reply, Server};
use raftkv_http::HttpLimits;
use raftkv_kv::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHORT: Duration = Duration::from_millis(200);
/// A value whose answer is large, and so large that a few fill what the kernel holds of a connection.
const LARGE: usize = 1024 * 1024 - 5;
/// Requests for it on a connection whose client does not read: more than the kernel holds.
const PIPELINED: usize = 50;
/// Has no room itself, and is refused where no page would have any. A large value would take room that the others wait for, and they
/// would be done with their requests without it.
const EMPTY_LIST: &str = "/v1/kv?prefix=nothing";

async fn with(http: HttpLimits) -> Server {
    Server::with(http, Limits::default()).await
}

/// Repeats a request until it is answered 200; what it was answered before must be 429.
async fn served_in_time(what: &str, server: &Server, method: &str, path: &str, body: &[u8]) {
    let start = Instant::now();
    loop {
        let reply = server.send(method, path, &[], body).await;
        if reply.status == 200 {
            return;
        }
        assert_eq!(reply.problem(429), "overloaded", "{what}");
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks for a path on a new connection until it is answered, 200: one that a busy machine keeps from sending its request for longer
/// than connections are spared may be closed for others.
async fn newcomer(server: &Server, path: &str) -> (Connection, Reply) {
    let start = Instant::now();
    loop {
        let mut connection = server.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n");
        let _ = connection.stream.write_all(head.as_bytes()).await;
        if let Some(reply) = connection.reply(false).await {
            assert_eq!(reply.status, 200, "{path}");
            return (connection, reply);
        }
        assert!(start.elapsed() < PATIENCE, "newcomers are closed");
    }
}

/// Connections that have sent all of a body but its last byte.
async fn stalled_bodies(server: &Server, count: usize, bytes: usize) -> Vec<Connection> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let mut connection = server.connect().await;
        let head = format!("PUT /v1/kv/stalled HTTP/1.1\r\nhost: t\r\ncontent-length: {bytes}\r\n\r\n");
        connection.write(&[head.as_bytes(), &vec![b'x'; bytes - 1]].concat()).await;
        stalled.push(connection);
    }
    stalled
}

#[tokio::test]
async fn stalled_large_bodies_do_not_stop_small_ones_and_give_way_to_large_ones() {
    let limits = HttpLimits { small_bytes: 1_000, large_body_room: 8_000, spared: SHORT, ..HttpLimits::default() };
    let server = with(limits).await;
    let mut stalled = stalled_bodies(&server, 4, 2_001).await;
    for n in 0..20 {
        let reply = server.put(&format!("/v1/kv/{n}"), &"x".repeat(900)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    served_in_time("a large body", &server, "PUT", "/v1/kv/large", &[b'x'; 2_001]).await;
    let mut cut = 0;
    for connection in &mut stalled {
        // The others are still waited for.
        let reply = tokio::time::timeout(SHORT, connection.stream.readable()).await;
        if reply.is_ok() {
            let reply = connection.reply(false).await.expect("an answer");
            assert_eq!(reply.problem(408), "body_too_slow");
            assert!(reply.text().contains("slowest"), "{}", reply.text());
            assert!(connection.reply(false).await.is_none(), "then closed");
            cut += 1;
        }
    }
    assert!((1..=3).contains(&cut), "{cut} of 4 were cut for one");
    assert_eq!(server.get("/v1/kv/stalled").await.status, 404);
}

#[tokio::test]
async fn stalled_small_bodies_give_way_to_small_ones() {
    let server = with(HttpLimits { small_body_room: 2_000, spared: SHORT, ..HttpLimits::default() }).await;
    let _stalled = stalled_bodies(&server, 4, 501).await;
    served_in_time("a small body", &server, "PUT", "/v1/kv/k", &[b'x'; 500]).await;
    // In chunks nobody knows how large it will be: it is small until it is not.
    let server = with(HttpLimits { small_bytes: 1_000, large_body_room: 0, ..HttpLimits::default() }).await;
    let chunked = b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n".as_slice();
    for (size, status) in [(1_000, 200), (1_001, 429)] {
        let mut connection = server.connect().await;
        let chunk = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
        connection.write(&[chunked, chunk.as_bytes()].concat()).await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, status, "{size}");
    }
}

#[tokio::test]
async fn hundreds_of_puts_wait_for_the_disk_at_once() {
    const PUTS: usize = 300;
    let server = Server::start().await;
    server.memory.stall();
    let body = "x".repeat(60 * 1024);
    let mut waiting = Vec::new();
    for n in 0..PUTS {
        let mut connection = server.connect().await;
        let head = format!("PUT /v1/kv/{n} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.write(&[head.as_bytes(), body.as_bytes()].concat()).await;
        waiting.push(connection);
    }
    let start = Instant::now();
    while server.memory.waiting() < PUTS && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.memory.go_on();
    for (n, connection) in waiting.iter_mut().enumerate() {
        let reply = connection.reply(false).await.expect("an answer");
        assert_eq!(reply.status, 200, "put {n}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_body_has_a_least_speed() {
    let limits =
        HttpLimits { min_body_speed: 500, body_speed_window: 2 * SHORT, spared: SHORT, ..HttpLimits::default() };
    let server = with(limits).await;
    let head = b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n";
    let mut connection = server.connect().await;
    connection.write(head).await;
    let start = Instant::now();
    loop {
        // It may have ended.
        let _ = connection.stream.write_all(b"x").await;
        if tokio::time::timeout(Duration::from_millis(20), connection.stream.readable()).await.is_ok() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "a byte now and then keeps it");
    }
    let reply = connection.reply(false).await.expect("an answer");
    assert_eq!(reply.problem(408), "body_too_slow");
    assert!(reply.text().contains("500 bytes a second"), "{}", reply.text());
    // Faster ones may take their time. With the window of the defaults, for this test may be kept from sending for a while.
    let server = with(HttpLimits { min_body_speed: 500, spared: SHORT, ..HttpLimits::default() }).await;
    let mut connection = server.connect().await;
    connection.write(head).await;
    for _ in 0..50 {
        connection.write(&[b'x'; 2_000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(connection.reply(false).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn requests_whose_bodies_stall_give_their_places_to_others() {
    let server = with(HttpLimits { max_in_flight: 4, spared: SHORT, ..HttpLimits::default() }).await;
    let mut stalled = stalled_bodies(&server, 3, 100).await;
    // Of this one nothing has come but the head.
    let mut empty = server.connect().await;
    empty.write(b"PUT /v1/kv/stalled HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n").await;
    stalled.push(empty);
    served_in_time("a put", &server, "PUT", "/v1/kv/k", b"x").await;
    let mut cut = 0;
    for connection in &mut stalled {
        if tokio::time::timeout(SHORT, connection.stream.readable()).await.is_ok() {
            assert_eq!(connection.reply(false).await.expect("an answer").problem(408), "body_too_slow");
            cut += 1;
        }
    }
    assert!(cut > 0, "none was cut");
}

#[tokio::test]
async fn on_a_crowded_port_bodies_that_stall_and_answers_that_are_not_read_give_way() {
    let server = with(HttpLimits { max_connections: 10, spared: SHORT, ..HttpLimits::default() }).await;
    let _unread = unread_answers(&server, 5).await;
    let _stalled = stalled_bodies(&server, 5, 100).await;
    for _ in 0..5 {
        assert_eq!(newcomer(&server, "/v1/kv/small").await.1.text(), "x");
    }
}

/// Connections that read none of the answers to many requests for a large value.
async fn unread_answers(server: &Server, count: usize) -> Vec<Connection> {
    assert_eq!(server.put("/v1/kv/small", "x").await.status, 200);
    assert_eq!(server.put("/v1/kv/large", &"x".repeat(LARGE)).await.status, 200);
    let mut unread = Vec::new();
    for _ in 0..count {
        let mut connection = server.connect().await;
        connection.write(&b"GET /v1/kv/large HTTP/1.1\r\nhost: t\r\n\r\n".repeat(PIPELINED)).await;
        unread.push(connection);
    }
    unread
}

#[tokio::test]
async fn unread_answers_fill_their_room_and_nothing_else() {
    let limits = HttpLimits { large_answer_room: 4 * LARGE, spared: PATIENCE, ..HttpLimits::default() };
    let server = with(limits).await;
    let _unread = unread_answers(&server, 6).await;
    let start = Instant::now();
    while server.get(EMPTY_LIST).await.status != 429 {
        assert!(start.elapsed() < PATIENCE, "nothing counts what is not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reply = server.get("/v1/kv/large").await;
    assert_eq!(reply.problem(429), "overloaded");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // Who monitors the process sees what is going on.
    for path in ["/openapi.json", "/metrics", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    // A list is not even begun.
    server.memory.stall();
    assert_eq!(server.get("/v1/kv").await.problem(429), "overloaded");
    assert_eq!(server.memory.waiting(), 0);
    server.memory.go_on();
    for _ in 0..10 {
        assert_eq!(server.get("/v1/kv/small").await.text(), "x");
        assert_eq!(server.put("/v1/kv/small", "x").await.status, 200);
    }
    // A change that is made is told, whatever room there is.
    let json = format!("{{\"key\":\"k\",\"value\":\"{}\"}}", "x".repeat(LARGE - 100));
    let reply = server.send("POST", "/store", &[("content-type", "application/json")], json.as_bytes()).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_nothing_gives_way_to_one_that_does() {
    let counters = Counters::default();
    let _of_this_thread = metrics::set_default_local_recorder(&counters);
    let limits = HttpLimits { large_answer_room: 4 * LARGE, spared: SHORT, ..HttpLimits::default() };
    let server = with(limits).await;
    let unread = unread_answers(&server, 6).await;
    let start = Instant::now();
    while counters.count("raftkv_http_room_cuts_total") == 0 {
        server.get(EMPTY_LIST).await;
        assert!(start.elapsed() < PATIENCE, "none was cut for those who read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..5 {
        served_in_time("a large value", &server, "GET", "/v1/kv/large", b"").await;
    }
    let mut whole = 0;
    for mut connection in unread {
        let mut answers = 0;
        while answers < PIPELINED && connection.reply(false).await.is_some() {
            answers += 1;
        }
        whole += usize::from(answers == PIPELINED);
    }
    assert!(whole < 6, "none was cut for those who read");
}

#[tokio::test]
async fn an_answer_has_a_least_speed() {
    let limits =
        HttpLimits { min_answer_speed: 1 << 40, answer_grace: 2 * SHORT, spared: SHORT, ..HttpLimits::default() };
    let server = with(limits).await;
    let mut connection = unread_answers(&server, 1).await.remove(0);
    let (mut read, mut buffer) = (0, vec![0; 16 * 1024]);
    let start = Instant::now();
    // It reads all the time, so that writing never stands still for long.
    while let Ok(bytes @ 1..) = connection.stream.read(&mut buffer).await {
        read += bytes;
        assert!(read < PIPELINED * LARGE, "all of it was written");
        assert!(start.elapsed() < PATIENCE, "it may read as slowly as it likes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_long_page_is_whole() {
    let server = Server::start().await;
    for n in 0..40 {
        assert_eq!(server.put(&format!("/v1/kv/{n:03}"), &format!("{n}").repeat(20_000)).await.status, 200);
    }
    let page = server.get("/v1/kv").await;
    let entries = page.json()["entries"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 40);
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry["value"], format!("{n}").repeat(20_000));
    }
    let length = page.body.len().to_string();
    assert_eq!(page.header("content-length"), Some(length.as_str()));
    let head = server.send("HEAD", "/v1/kv", &[], b"").await;
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    let page = server.send("GET", "/v1/kv", &[("accept", "application/msgpack")], b"").await;
    let page = rmpv::decode::read_value(&mut page.body.as_slice()).unwrap();
    assert_eq!(page["entries"].as_array().unwrap().len(), 40);
    assert_eq!(page["entries"][39]["value"].as_str(), Some("39".repeat(20_000).as_str()));
}

#[tokio::test]
async fn on_a_crowded_port_idle_connections_give_way() {
    let server = with(HttpLimits { max_connections: 10, spared: SHORT, ..HttpLimits::default() }).await;
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut other = Connection::open_from(elsewhere, server.addr).await;
    assert_eq!(other.send("GET", "/healthz", &[], b"").await.status, 200);
    server.memory.stall();
    let mut busy = server.connect().await;
    busy.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx").await;
    // Twice as many as there are places, and none of them is closed by its client.
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(newcomer(&server, "/healthz").await.0);
    }
    assert!(idle[0].reply(false).await.is_none(), "the oldest is closed");
    assert_eq!(other.send("GET", "/healthz", &[], b"").await.status, 200, "its address had only one");
    server.memory.go_on();
    assert_eq!(busy.reply(false).await.expect("an answer").status, 200, "it was not idle");
    // Those that never say anything, too.
    let _silent: Vec<_> = [server.connect().await, server.connect().await, server.connect().await].into();
    newcomer(&server, "/healthz").await;
}

#[tokio::test]
async fn a_million_operations_are_not_read() {
    let server = Server::start().await;
    // What is behind them is malformed: that is not seen.
    let json = format!("{{\"operations\":[{}x", "{},".repeat(1_300_000));
    let count = 1_300_000u32.to_be_bytes();
    let msgpack = [b"\x81\xaaoperations\xdd", count.as_slice(), &[0xc1; 1_300_000]].concat();
    for (content_type, body) in [("application/json", json.into_bytes()), ("application/msgpack", msgpack)] {
        let reply = server.send("POST", "/v1/batch", &[("content-type", content_type)], &body).await;
        assert_eq!(reply.problem(413), "batch_too_large", "{content_type}");
        assert_eq!(reply.json()["limit"], 1_000);
    }
    // A value is read no further than it may be large.
    let value = format!("[{}x", "{},".repeat(1_300_000));
    let reply = server.send("PUT", "/v1/kv/k", &[("content-type", "application/json")], value.as_bytes()).await;
    assert_eq!(reply.problem(413), "value_too_large");
    assert_eq!(server.memory.writes(), 0);
}
