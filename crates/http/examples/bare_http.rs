//! The ceiling: the smallest axum server that the load of `raftkv bench` can be put on. No limits, no deadlines, no second
//! copy, nothing on a disk; the same libraries and as many threads as an engine has. `make bench` compares with it.
//!
//! Prints its address and serves until it is ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use tokio::net::TcpListener;

/// What an engine takes of a machine's cores.
const SHARE_OF_CORES: f64 = 0.5;

type Values = Arc<Mutex<HashMap<String, Bytes>>>;

async fn read(State(values): State<Values>, Path(key): Path<String>) -> Result<Bytes, StatusCode> {
    let values = values.lock().unwrap_or_else(PoisonError::into_inner);
    values.get(&key).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn write(State(values): State<Values>, Path(key): Path<String>, value: Bytes) -> &'static str {
    values.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
    r#"{"revision":1,"created":true}"#
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    raftkv_runtime::workers::runtime(SHARE_OF_CORES)?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new().route("/v1/kv/{key}", get(read).put(write)).with_state(Values::default());
        axum::serve(listener, router).await?;
        Ok(())
    })
}
