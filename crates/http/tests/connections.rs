//! Connections that are slow, broken, too many, or there when the server ends.

use std::time::{Duration, Instant};

use crate::support::{Connection, PATIENCE, Server};
use raftkv_http::HttpLimits;
use raftkv_kv::Limits;

const SHORT: Duration = Duration::from_millis(200);

async fn with(http: HttpLimits) -> Server {
    Server::with(http, Limits::default()).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let server = with(HttpLimits { header_timeout: SHORT, ..HttpLimits::default() }).await;
    for half in [&b""[..], b"GET", b"GET /v1/kv/k HTTP/1.1\r\nhost: te"] {
        let mut connection = server.connect().await;
        connection.write(half).await;
        assert!(connection.reply(false).await.is_none(), "cut without an answer");
    }
    // Trickling does not help.
    let mut connection = server.connect().await;
    let start = Instant::now();
    for byte in b"GET /v1/kv/k HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
        if tokio::io::AsyncWriteExt::write_all(&mut connection.stream, &[*byte]).await.is_err() {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_408_and_changes_nothing() {
    let server = with(HttpLimits { body_timeout: SHORT, ..HttpLimits::default() }).await;
    let mut connection = server.connect().await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nhalf").await;
    let reply = connection.reply(false).await.expect("an answer");
    assert_eq!(reply.problem(408), "body_too_slow");
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(connection.reply(false).await.is_none(), "then closed");

    let mut connection = server.connect().await;
    connection.write(b"POST /insert-val HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n\x83").await;
    let reply = connection.reply(false).await.expect("an answer");
    assert_eq!((reply.status, reply.text().starts_with("error: ")), (408, true));

    // A client that goes away in the middle of its body has changed nothing either.
    let mut connection = server.connect().await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nhalf").await;
    drop(connection);
    let mut connection = server.connect().await;
    connection
        .write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
        .await;
    assert!(connection.reply(false).await.is_none_or(|reply| reply.status == 400));
    assert_eq!(server.get("/v1/kv/k").await.status, 404);
    assert_eq!(server.memory.writes(), 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_413() {
    let server = with(HttpLimits { max_body_bytes: 1000, ..HttpLimits::default() }).await;
    let reply = server.send("PUT", "/v1/kv/k", &[], &[b'x'; 1001]).await;
    assert_eq!(reply.problem(413), "body_too_large");
    assert_eq!(reply.json()["limit"], 1000);
    let mut connection = server.connect().await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    connection.write(format!("5dc\r\n{}\r\n0\r\n\r\n", "x".repeat(1500)).as_bytes()).await;
    assert_eq!(connection.reply(false).await.unwrap().problem(413), "body_too_large");
    // One that asks first is not told to go on.
    let mut connection = server.connect().await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 9999\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(connection.reply(false).await.unwrap().problem(413), "body_too_large");
    assert_eq!(server.memory.writes(), 0);
    assert_eq!(server.send("PUT", "/v1/kv/k", &[], &[b'x'; 1000]).await.status, 200);
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_together() {
    let server = with(HttpLimits { small_body_room: 1000, ..HttpLimits::default() }).await;
    server.memory.stall();
    let mut first = server.connect().await;
    first
        .write(format!("PUT /v1/kv/a HTTP/1.1\r\nhost: t\r\ncontent-length: 800\r\n\r\n{}", "x".repeat(800)).as_bytes())
        .await;
    until("the first write waits", || server.memory.waiting() == 1).await;
    let reply = server.put("/v1/kv/b", &"x".repeat(800)).await;
    assert_eq!(reply.problem(429), "overloaded");
    server.memory.go_on();
    assert_eq!(first.reply(false).await.unwrap().status, 200);
    assert_eq!(server.put("/v1/kv/b", &"x".repeat(800)).await.status, 200, "the bytes were given back");
}

#[tokio::test]
async fn a_head_that_is_too_large_or_no_http_is_refused() {
    let server = with(HttpLimits { max_header_bytes: 8 * 1024, ..HttpLimits::default() }).await;
    let long_path = format!("/v1/kv/{}", "k".repeat(37_000));
    let longest_path = format!("/v1/kv/{}", "k".repeat(500_000));
    let long = "x".repeat(20_000);
    for (path, headers, limit) in [
        ("/v1/kv/k", vec![("x", long.as_str())], 8 * 1024),
        (&long_path, vec![], 8 * 1024),
        // Beyond what the HTTP library reads of a head.
        (&longest_path, vec![], 8 * 1024),
        ("/v1/kv/k", vec![("x", "y"); 120], 100),
        // One that is known to have another surface is told so as well: its head was not read.
        ("/get-val?key=k", vec![("x", "y"); 120], 100),
    ] {
        let mut connection = server.connect().await;
        let reply = connection.send("PUT", path, &headers, b"a body that is not read").await;
        assert_eq!(reply.problem(431), "head_too_large", "{path:.20}");
        assert_eq!((reply.json()["limit"].clone(), reply.header("connection")), (limit.into(), Some("close")));
        assert!(connection.reply(false).await.is_none(), "then closed");
        let mut connection = server.connect().await;
        let head = connection.send("HEAD", path, &headers, b"").await;
        assert_eq!(head.status, 431, "{path:.20}");
        assert!(connection.reply(false).await.is_none(), "no body, then closed");
    }
    let fits = server.send("GET", "/healthz", &[("x", &"x".repeat(8_000))], b"").await;
    assert_eq!(fits.status, 200);
    let mut connection = server.connect().await;
    connection.write(b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n").await;
    assert!(connection.reply(false).await.is_none_or(|reply| reply.status == 400));
    assert_eq!(server.memory.writes(), 0);
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_so_is_what_comes_after_it() {
    let server = Server::start().await;
    let good = "PUT /v1/kv/good HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx";
    let smuggled = "PUT /v1/kv/smuggled HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx";
    for (lengths, code) in [
        ("content-length: 4\r\ntransfer-encoding: chunked", "ambiguous_length"),
        ("Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: 4", "ambiguous_length"),
        ("content-length: 4\r\ncontent-length: 5", "invalid_content_length"),
        ("content-length: 0x4", "invalid_content_length"),
    ] {
        let bad = format!("PUT /v1/kv/bad HTTP/1.1\r\nhost: t\r\n{lengths}\r\n\r\n0\r\n\r\n{smuggled}");
        for before in ["", good, &good.repeat(3)] {
            let writes = server.memory.writes();
            let mut connection = server.connect().await;
            connection.write(format!("{before}{bad}").as_bytes()).await;
            // Those before it are answered.
            for _ in 0..before.len() / good.len() {
                assert_eq!(connection.reply(false).await.unwrap().status, 200, "{lengths}");
            }
            let reply = connection.reply(false).await.expect("an answer");
            assert_eq!((reply.problem(400).as_str(), reply.header("connection")), (code, Some("close")), "{lengths}");
            assert!(connection.reply(false).await.is_none(), "then closed");
            assert_eq!(server.memory.writes() - writes, before.len() / good.len(), "{lengths}");
        }
        // Cut into single bytes, and after a request on the same connection.
        let mut connection = server.connect().await;
        connection.stream.set_nodelay(true).unwrap();
        assert_eq!(connection.send("GET", "/healthz", &[], b"").await.status, 200);
        for byte in bad.as_bytes() {
            // The server may have closed by now.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut connection.stream, &[*byte]).await;
        }
        assert_eq!(connection.reply(false).await.expect("an answer").problem(400), code, "{lengths}");
    }
    assert_eq!(server.get("/v1/kv/bad").await.status, 404);
    assert_eq!(server.get("/v1/kv/smuggled").await.status, 404);
    // Each by itself is fine, on one connection.
    let mut connection = server.connect().await;
    for _ in 0..2 {
        connection
            .write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
            .await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, 200);
        assert_eq!(connection.send("PUT", "/v1/kv/k", &[], b"x").await.status, 200);
    }
}

#[tokio::test]
async fn a_bad_head_does_not_take_the_request_before_it_along() {
    let server = Server::start().await;
    server.memory.stall();
    let mut connection = server.connect().await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx").await;
    until("the write waits", || server.memory.waiting() == 1).await;
    connection.write(b"PUT /v1/kv/k HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    connection.stays_silent(SHORT).await;
    server.memory.go_on();
    assert_eq!(connection.reply(false).await.expect("an answer").status, 200);
    let answered = Instant::now();
    assert_eq!(connection.reply(false).await.expect("an answer").problem(400), "ambiguous_length");
    assert!(connection.reply(false).await.is_none(), "then closed");
    assert!(answered.elapsed() < SHORT * 2, "it came with the connection's timer: {:?}", answered.elapsed());
}

#[tokio::test]
async fn an_answer_before_a_bad_head_is_written_whole() {
    // More than both kernels hold.
    const BYTES: usize = 32 << 20;
    let http = HttpLimits { max_body_bytes: BYTES, ..HttpLimits::default() };
    let server = Server::with(http, Limits { max_value_bytes: 2 * BYTES, ..Limits::default() }).await;
    assert_eq!(server.put("/v1/kv/k", &"x".repeat(BYTES)).await.status, 200);
    let bad = "PUT /v1/kv/k HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(120));
    for (bad, status, code) in [(bad, 400, "ambiguous_length"), (&many, 431, "head_too_large")] {
        let mut connection = server.connect().await;
        connection.write(b"GET /v1/kv/k HTTP/1.1\r\nhost: t\r\n\r\n").await;
        // The answer has begun, and most of it waits for this client to read.
        connection.stream.peek(&mut [0]).await.unwrap();
        connection.write(bad.as_bytes()).await;
        let reply = connection.reply(false).await.expect("an answer");
        assert_eq!((reply.status, reply.body.len()), (200, BYTES), "the whole answer");
        assert_eq!(connection.reply(false).await.expect("an answer").problem(status), code);
        assert!(connection.reply(false).await.is_none(), "then closed");
    }
}

#[tokio::test]
async fn a_head_behind_chunks_may_come_in_two_reads() {
    let server = Server::start().await;
    let chunked =
        "PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nt: v\r\n\r\n";
    // Its second half by itself would be a head with two lengths.
    let half = "GET /v1/kv/k HTTP/1.1\r\nhost: t\r\nx: ";
    let rest = "content-length: 1, 2\r\n\r\n";
    let bad = "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    for (rest, status) in [(rest, 200), (rest.trim_start_matches("content-"), 200), (&format!("y\r\n{bad}"), 400)] {
        let mut connection = server.connect().await;
        connection.write(format!("{chunked}{half}").as_bytes()).await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, 200);
        connection.write(rest.as_bytes()).await;
        let reply = connection.reply(false).await.expect("an answer");
        assert_eq!(reply.status, status, "{rest:?}: {}", reply.text());
        // A bad head that comes together with the chunks before it.
        let mut connection = server.connect().await;
        connection.write(format!("{chunked}{half}{rest}").as_bytes()).await;
        assert_eq!(connection.reply(false).await.expect("an answer").status, 200);
        assert_eq!(connection.reply(false).await.expect("an answer").status, status, "{rest:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let mut bytes = Vec::new();
    for n in 0..50 {
        let value = n.to_string();
        bytes.extend_from_slice(
            format!("PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{value}", value.len()).as_bytes(),
        );
        bytes.extend_from_slice(b"GET /v1/kv/k HTTP/1.1\r\nhost: t\r\n\r\n");
    }
    connection.write(&bytes).await;
    for n in 0..50 {
        assert_eq!(connection.reply(false).await.unwrap().json()["revision"], n + 1);
        assert_eq!(connection.reply(false).await.unwrap().text(), n.to_string());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let server =
        with(HttpLimits { keep_alive_timeout: SHORT * 3, header_timeout: SHORT * 3, ..HttpLimits::default() }).await;
    let mut connection = server.connect().await;
    for _ in 0..8 {
        assert_eq!(connection.send("GET", "/healthz", &[], b"").await.status, 200);
        tokio::time::sleep(SHORT / 2).await;
    }
    assert!(connection.reply(false).await.is_none(), "closed when idle");
}

#[tokio::test]
async fn a_connection_too_many_waits_until_one_closes() {
    // Idle connections give way to others, but not so soon.
    let server = with(HttpLimits { max_connections: 2, spared: PATIENCE, ..HttpLimits::default() }).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    assert_eq!(first.send("GET", "/healthz", &[], b"").await.status, 200);
    assert_eq!(second.send("GET", "/healthz", &[], b"").await.status, 200);
    let mut third = server.connect().await;
    third.write(b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n").await;
    third.stays_silent(SHORT).await;
    drop(first);
    assert_eq!(third.reply(false).await.expect("served in the end").status, 200);
}

#[tokio::test]
async fn a_request_too_many_is_shed_before_any_work() {
    let server = with(HttpLimits { max_in_flight: 2, ..HttpLimits::default() }).await;
    server.memory.stall();
    let mut waiting = Vec::new();
    for n in 0..2 {
        let mut connection = server.connect().await;
        connection.write(format!("PUT /v1/kv/{n} HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx").as_bytes()).await;
        waiting.push(connection);
    }
    until("two writes wait", || server.memory.waiting() == 2).await;
    let shed = server.put("/v1/kv/k", "x").await;
    assert_eq!(shed.problem(429), "overloaded");
    assert_eq!(shed.header("retry-after"), Some("1"));
    let shed = server.get("/get-val?key=k").await;
    assert_eq!((shed.status, shed.text().starts_with("error: ")), (429, true));
    assert_eq!(server.get("/healthz").await.status, 200, "health is never shed");
    server.memory.go_on();
    for mut connection in waiting {
        assert_eq!(connection.reply(false).await.unwrap().status, 200);
    }
    assert_eq!(server.put("/v1/kv/k", "x").await.status, 200);
    assert_eq!(server.memory.writes(), 3);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let server = with(HttpLimits { write_timeout: SHORT, max_connections: 1, ..HttpLimits::default() }).await;
    let large = "x".repeat(1024 * 1024 - 5);
    assert_eq!(server.put("/v1/kv/k", &large).await.status, 200);
    let mut connection = server.connect().await;
    let requests = b"GET /v1/kv/k HTTP/1.1\r\nhost: t\r\n\r\n".repeat(50);
    connection.write(&requests).await;
    // Enough to fill what the kernel holds. Another connection is served once this one is cut.
    assert_eq!(server.get("/healthz").await.status, 200);
    let mut answers = 0;
    while connection.reply(false).await.is_some() {
        answers += 1;
    }
    assert!(answers < 50, "cut before everything was written");
}

#[tokio::test]
async fn shutdown_ends_what_is_in_flight_and_closes_what_is_idle() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.send("GET", "/healthz", &[], b"").await.status, 200);
    server.memory.stall();
    let mut busy = server.connect().await;
    busy.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx").await;
    until("the write waits", || server.memory.waiting() == 1).await;
    server.begin_shutdown();
    assert!(idle.reply(false).await.is_none(), "the idle connection is closed");
    let addr = server.addr;
    let start = Instant::now();
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "new connections are refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.memory.go_on();
    let reply = busy.reply(false).await.expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    server.ended().await;
}

#[tokio::test]
async fn the_drain_has_an_end() {
    let server = with(HttpLimits { drain_timeout: SHORT, ..HttpLimits::default() }).await;
    server.memory.stall();
    let mut busy = Connection::open(server.addr).await;
    busy.write(b"PUT /v1/kv/k HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx").await;
    until("the write waits", || server.memory.waiting() == 1).await;
    server.begin_shutdown();
    server.ended().await;
    assert!(busy.reply(false).await.is_none());
}
