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
use raftkv_api::{ApiConfig, Front};
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
    let front = Front::new(memory::Memory::default(), ApiConfig::default(), |routes| routes);
    answer(&front, Method::PUT, VALUE);
    let reading = front.clone();
    vec![
        Workload { name: "http-get", run: Box::new(move || answer(&reading, Method::GET, b"")) },
        Workload { name: "http-put", run: Box::new(move || answer(&front, Method::PUT, VALUE)) },
    ]
}

fn answer(front: &Front, method: Method, body: &'static [u8]) {
    let request = Request::builder()
        .method(method)
        .uri(PATH)
        .header(header::HOST, "127.0.0.1:8080")
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(body));
    let Ok(request) = request else { panic!("the request is none") };
    let mut response = front.answer(black_box(request));
    match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(response) => assert_eq!(black_box(response).status(), 200),
        Poll::Pending => panic!("a store in memory has nothing to wait for"),
    }
}
