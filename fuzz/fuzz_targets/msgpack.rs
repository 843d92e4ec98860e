//! MsgPack: as a value, compared with another reader, and as the body of every request that takes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::http::Server;
use raftkv_fuzz::memory::bounded;
use raftkv_kv::{Kind, Limits, Value};

const MSGPACK: &str = "application/msgpack";

/// The kind that another reader sees.
fn kind_of(value: &rmpv::ValueRef<'_>) -> Option<Kind> {
    Some(match value {
        rmpv::ValueRef::Nil => Kind::Nil,
        rmpv::ValueRef::Boolean(_) => Kind::Bool,
        rmpv::ValueRef::Integer(_) => Kind::Int,
        rmpv::ValueRef::F32(_) | rmpv::ValueRef::F64(_) => Kind::Float,
        rmpv::ValueRef::String(_) => Kind::Str,
        rmpv::ValueRef::Binary(_) => Kind::Bin,
        rmpv::ValueRef::Array(_) => Kind::Array,
        rmpv::ValueRef::Map(_) => Kind::Map,
        rmpv::ValueRef::Ext(..) => return None,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let split = bounded(bytes.len(), 64 * 1024, 16, || {
        let (value, rest) = Value::split_first(bytes.to_vec(), &limits)?;
        Ok::<_, raftkv_kv::ValueError>((value, rest))
    });
    if let Ok((value, rest)) = &split {
        assert_eq!([value.as_msgpack(), rest].concat(), bytes, "a value is not what was given");
        let mut unread = bytes;
        let theirs = rmpv::decode::read_value_ref(&mut unread).expect("another reader takes it");
        assert_eq!(unread.len(), rest.len(), "another reader sees another end");
        assert_eq!(kind_of(&theirs), Some(value.kind()));
        if let Some(json) = value.to_json() {
            let again = Value::from_json(&json, &Limits { max_value_bytes: usize::MAX, ..limits.clone() });
            let again = again.expect("our JSON is read again");
            assert_eq!(again.to_json(), Some(json), "another value comes back");
            assert_eq!(again.kind(), value.kind());
        }
    }
    let whole = Value::from_msgpack(bytes.to_vec(), &limits);
    assert_eq!(whole.is_ok(), split.is_ok_and(|(_, rest)| rest.is_empty()));

    let server = Server::new();
    let stored = server.send("PUT", "/v1/kv/k", MSGPACK, bytes);
    assert_eq!(stored.status == 200, whole.is_ok(), "the surface and the decoder differ");
    if whole.is_ok() {
        // Text and bytes may come without their header; a client that takes MsgPack only gets what was stored.
        let read = server.send("GET", "/v1/kv/k", MSGPACK, b"");
        assert_eq!((read.status.as_u16(), &read.body[..]), (200, bytes), "another value comes back");
        let page = server.send("GET", "/v1/kv", MSGPACK, b"");
        let mut content = &page.body[..];
        rmpv::decode::read_value(&mut content).expect("a listing is MsgPack");
        assert!(content.is_empty());
        server.send("GET", "/v1/kv", "application/json", b"");
        server.send("GET", "/get-val?key=k", "*/*", b"");
        server.send("GET", "/v1/storage/key/k", "*/*", b"");
    }
    server.send("POST", "/insert-val", MSGPACK, bytes);
    let batch = server.send("POST", "/v1/batch", MSGPACK, bytes);
    if batch.status == 200 {
        rmpv::decode::read_value(&mut &batch.body[..]).expect("results are MsgPack");
    }
});
