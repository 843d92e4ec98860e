//! Goes one hot path so many times and does nothing else, for `scripts/instructions.sh` to count the instructions.
//!
//! ```text
//! instructions                 the names of the paths
//! instructions NAME TIMES      goes one
//! ```

use std::hint::black_box;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use axum::http::{Method, Request, header};
use bytes::Bytes;
use raftkv_http::{ApiConfig, Front};
use workloads::Workload;

#[path = "../tests/support/memory.rs"]
#[allow(dead_code, clippy::unwrap_used)] // A backend of tests, of which this needs a part.
mod memory;
#[path = "../../kv/benches/workloads/mod.rs"]
mod workloads;

// The allocator of the programs; the C library's would differ from one machine to the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The load generator's key and value.
const PATH: &str = "/v1/kv/bench-0000004242";
const VALUE: &[u8] = &[b'v'; 100];
/// Puts in a batch.
const BATCH: u32 = 64;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let mut workloads = workloads::all();
    workloads.extend(requests());
    match args.as_slice() {
        [] => {
            for workload in &workloads {
                println!("{}", workload.name);
            }
            ExitCode::SUCCESS
        }
        [name, times] => {
            let found = workloads.iter().find(|workload| workload.name == name);
            let (Some(workload), Ok(times)) = (found, times.parse::<u32>()) else { return usage() };
            for _ in 0..times {
                (workload.run)();
            }
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [NAME TIMES]");
    ExitCode::from(64)
}

/// From a request whose head is read to the response, over a store in memory: what the surface adds to a server's own work.
fn requests() -> Vec<Workload> {
    // Each over a store of its own: what one leaves there would be in another's way.
    let of = |name, method: Method, path, content_type, body: Bytes| {
        let front = Front::new(memory::Memory::default(), ApiConfig::default(), |routes| routes);
        answer(&front, Method::PUT, PATH, "text/plain", Bytes::from_static(VALUE));
        let run = move || answer(&front, method.clone(), path, content_type, body.clone());
        Workload { name, run: Box::new(run) }
    };
    vec![
        of("http-put", Method::PUT, PATH, "text/plain", Bytes::from_static(VALUE)),
        of("http-get", Method::GET, PATH, "text/plain", Bytes::new()),
        of("http-batch", Method::POST, "/v1/batch", "application/msgpack", batch()),
    ]
}

/// Puts as the load generator sends them.
fn batch() -> Bytes {
    let put = |n: u32| {
        let (name, key, value) = ("op", format!("bench-{n:010}"), rmpv::Value::Binary(VALUE.to_vec()));
        let key = rmpv::Value::Binary(key.into_bytes());
        rmpv::Value::Map(vec![(name.into(), "put".into()), ("key".into(), key), ("value".into(), value)])
    };
    let operations = rmpv::Value::Array((0..BATCH).map(put).collect());
    let mut body = Vec::new();
    let message = rmpv::Value::Map(vec![("operations".into(), operations)]);
    if let Err(error) = rmpv::encode::write_value(&mut body, &message) {
        panic!("memory cannot be written: {error}");
    }
    body.into()
}

fn answer(front: &Front, method: Method, path: &str, content_type: &str, body: Bytes) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "127.0.0.1:8080")
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(body));
    let Ok(request) = request else { panic!("the request is none") };
    let mut response = front.answer(black_box(request));
    match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(response) => assert_eq!(black_box(response).status(), 200),
        Poll::Pending => panic!("a store in memory has nothing to wait for"),
    }
}
