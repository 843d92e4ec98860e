//! MsgPack: as a value, compared with another reader, and as the body of every request that takes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::http::Server;
use raftkv_fuzz::memory::bounded;
use raftkv_kv::{Kind, Limits, Value, ValueError};

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

/// The parts are what follows the header, and as many as another reader sees.
fn check_parts(value: &Value, theirs: &rmpv::ValueRef<'_>) {
    let parts: Option<Vec<Value>> = value.parts().map(|parts| parts.map(|part| part.to_value()).collect());
    let count = match theirs {
        rmpv::ValueRef::Array(elements) => Some(elements.len()),
        rmpv::ValueRef::Map(pairs) => Some(2 * pairs.len()),
        _ => None,
    };
    assert_eq!(parts.as_ref().map(Vec::len), count, "another reader sees other parts");
    let Some(parts) = parts else { return };
    let content = parts.iter().map(Value::as_msgpack).collect::<Vec<_>>().concat();
    assert!(value.as_msgpack().ends_with(&content), "the parts are not what is in it");
    let header = value.as_msgpack().len() - content.len();
    assert!(matches!(header, 1 | 3 | 5), "something is in no part");
    for part in parts {
        assert_eq!(Value::from_msgpack(part.as_msgpack().to_vec(), &Limits::default()), Ok(part), "a part is no value");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let made = |bytes: &[u8]| bounded(bytes.len(), 64 * 1024, 16, || Value::from_msgpack(bytes.to_vec(), &limits));
    let whole = made(bytes);
    let extra = match &whole {
        Ok(_) => Some(0),
        Err(ValueError::TrailingBytes { extra }) => Some(*extra),
        Err(_) => None,
    };
    if let Some(extra) = extra {
        let (front, rest) = bytes.split_at(bytes.len() - extra);
        let value = made(front).expect("a value without what follows it is one");
        assert_eq!(value.as_msgpack(), front, "a value is not what was given");
        let mut unread = bytes;
        let theirs = rmpv::decode::read_value_ref(&mut unread).expect("another reader takes it");
        assert_eq!(unread.len(), rest.len(), "another reader sees another end");
        assert_eq!(kind_of(&theirs), Some(value.kind()));
        check_parts(&value, &theirs);
        if let Some(json) = value.to_json() {
            let again = Value::from_json(&json, &Limits { max_value_bytes: usize::MAX, ..limits.clone() });
            let again = again.expect("our JSON is read again");
            assert_eq!(again.to_json(), Some(json), "another value comes back");
            assert_eq!(again.kind(), value.kind());
        }
    }

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
