//! JSON: as a value, compared with another reader, and as the body of every request that takes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::http::Server;
use raftkv_fuzz::memory::bounded;
use raftkv_kv::{Limits, Value, ValueError};

/// Where JSON bodies are taken.
const BODIES: [(&str, &str); 8] = [
    ("PUT", "/v1/kv/k"),
    ("POST", "/v1/batch"),
    ("POST", "/put"),
    ("POST", "/get"),
    ("POST", "/delete"),
    ("POST", "/store"),
    ("POST", "/raft/join"),
    ("POST", "/raft/remove"),
];

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let ours = bounded(bytes.len(), 64 * 1024, 128, || Value::from_json(bytes, &limits));
    let theirs = serde_json::from_slice::<serde_json::Value>(bytes);
    match &ours {
        Ok(value) => {
            let json = value.to_json().expect("what came as JSON has a JSON form");
            let again = Value::from_json(&json, &limits).expect("it is read again");
            assert_eq!(&again, value, "another value comes back from {}", String::from_utf8_lossy(&json));
            let read = serde_json::from_slice::<serde_json::Value>(&json);
            match (theirs, read) {
                (Ok(input), Ok(output)) => assert_eq!(input, output, "another reader sees another value"),
                (Err(input), Err(output)) => {
                    assert!(input.to_string().contains("recursion"), "only we take it: {input}");
                    assert!(output.to_string().contains("recursion"), "only we write it: {output}");
                }
                (input, output) => panic!("{input:?} became {output:?}"),
            }
        }
        Err(ValueError::MalformedJson(why)) if theirs.is_ok() => {
            let stricter = why.contains("twice in the object") || why.contains("does not fit 64 bits");
            assert!(stricter, "only the other reader takes it: {why}");
        }
        Err(_) => {}
    }

    let server = Server::new();
    for (method, path) in BODIES {
        let reply = server.send(method, path, "application/json", bytes);
        if path == "/v1/kv/k" {
            assert_eq!(reply.status == 200, ours.is_ok(), "the surface and the decoder differ");
            if let Ok(value) = &ours {
                let stored = server.send("GET", "/v1/kv/k", "application/msgpack", b"");
                assert_eq!(stored.body, value.as_msgpack(), "another value is stored");
            }
        }
        if ours.is_err() && reply.status.is_success() {
            // A message may be larger and deeper than a value.
            let of_size = matches!(ours, Err(ValueError::TooLarge { .. } | ValueError::TooDeep { .. }));
            assert!(of_size, "{path} takes what is no JSON");
        }
    }
});
