//! [`check_document`]: validates documents under system keys, as far as a group can.
//!
//! The routers' documents are JSON and belong to the routers, which also check the full meaning. But any process with
//! access to proposals can write a document, so a group rejects a document in a form unreadable to every router.

use crate::{
    Kind, Limits, MAX_SYSTEM_KEY_BYTES, MAX_SYSTEM_VALUE_BYTES, Part, ROUTER_VERSIONS_KEY, Refusal, RouterVersions,
    UPGRADE_KEY, UpgradePolicy, Value,
};

/// Name of the JSON document with the layout of a sharded store; in the meta group only.
pub const CLUSTER_KEY: &[u8] = b"cluster";
/// Name of the JSON document with the list of running routers; in the meta group only.
pub const ROUTERS_KEY: &[u8] = b"routers";

/// Maximum nesting of a document; router documents stay below 8.
const MAX_DEPTH: usize = 32;
/// The known format of both JSON documents. A document in another format must only be an object with a format.
const FORMAT: &[u8] = &[1];

/// Members of the cluster document, written by all versions of this format.
const CLUSTER_MEMBERS: &[(&str, Kind)] = &[
    ("store", Kind::Str),
    ("epoch", Kind::Int),
    ("replicas", Kind::Int),
    ("next_group", Kind::Int),
    ("next_move", Kind::Int),
    ("next_operation", Kind::Int),
    ("writes", Kind::Array),
    ("past_moves", Kind::Array),
    ("groups", Kind::Map),
    ("nodes", Kind::Map),
    ("operations", Kind::Map),
];
/// Members of the routers' document.
const ROUTERS_MEMBERS: &[(&str, Kind)] =
    &[("writer", Kind::Str), ("coordinator", Kind::Str), ("counter", Kind::Int), ("routers", Kind::Map)];

/// Checks whether `value` may be written under the system key `key`. Unknown keys accept any value.
///
/// # Errors
/// Empty or too long name, too large document, or wrong form: do not write the document.
pub fn check_document(key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    check_size(key, value)?;
    let found = match key {
        CLUSTER_KEY => check_json(value, CLUSTER_MEMBERS),
        ROUTERS_KEY => check_json(value, ROUTERS_MEMBERS),
        UPGRADE_KEY => UpgradePolicy::parse(value).map(drop).map_err(|error| error.to_string()),
        // Routers without a common version write a minimum above the maximum.
        ROUTER_VERSIONS_KEY => RouterVersions::decode(value).map(drop).map_err(|error| error.to_string()),
        _ => Ok(()),
    };
    found.map_err(|why| Refusal::Malformed(format!("the document {:?}: {why}", key.escape_ascii().to_string())))
}

/// Checks the size of the name and the document.
pub(crate) fn check_size(key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::Malformed("a system key has a name".to_owned()));
    }
    for (bytes, limit) in [(key.len(), MAX_SYSTEM_KEY_BYTES), (value.len(), MAX_SYSTEM_VALUE_BYTES)] {
        if bytes > limit {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
    }
    Ok(())
}

fn check_json(document: &[u8], members: &[(&str, Kind)]) -> Result<(), String> {
    // MsgPack is shorter than JSON text except for floats, which do not occur in these documents.
    let limits =
        Limits { max_value_bytes: 2 * MAX_SYSTEM_VALUE_BYTES, max_value_depth: MAX_DEPTH, ..Limits::default() };
    let value = Value::from_json(document, &limits).map_err(|error| error.to_string())?;
    let parts = value.parts().filter(|_| value.kind() == Kind::Map).ok_or("it is no JSON object")?;
    let parts: Vec<Part<'_>> = parts.collect();
    let member = |name: &str| {
        let found = parts.chunks_exact(2).find(|pair| pair[0].as_str() == Some(name));
        found.map(|pair| pair[1].to_value())
    };
    let format = member("format").filter(|format| format.kind() == Kind::Int).ok_or("it has no format")?;
    if format.as_msgpack() != FORMAT {
        // Written by a newer router, which defines the members.
        return Ok(());
    }
    for (name, kind) in members {
        match member(name) {
            None => return Err(format!("it has no member {name}")),
            Some(value) if value.kind() != *kind => return Err(format!("its member {name} is of the wrong kind")),
            Some(value) if *kind == Kind::Int && is_negative(&value) => {
                return Err(format!("its member {name} is negative"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn is_negative(value: &Value) -> bool {
    value.to_json().is_some_and(|text| text.first() == Some(&b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"{"format":1,"writes":[],"store":"0000000000000001","epoch":1,"replicas":3,"next_group":2,
        "next_move":1,"next_operation":1,"groups":{},"nodes":{},"moving":null,"past_moves":[],"operations":{}}"#;

    fn takes(key: &[u8], value: &[u8]) -> bool {
        check_document(key, value).is_ok()
    }

    #[test]
    fn documents_that_routers_write_are_taken() {
        assert_eq!(check_document(CLUSTER_KEY, CLUSTER.as_bytes()), Ok(()));
        let routers = br#"{"format":1,"writer":"r1","coordinator":"","counter":18446744073709551615,"routers":{"r1":{"version":"0.1.0","counter":7}}}"#;
        assert_eq!(check_document(ROUTERS_KEY, routers), Ok(()));
        assert!(takes(UPGRADE_KEY, &UpgradePolicy { hold: true }.encode()));
        for (min, max) in [(1, 3), (2, 1)] {
            assert!(takes(ROUTER_VERSIONS_KEY, &RouterVersions { min, max }.encode()));
        }
        assert!(takes(b"of a later version", b"\xff\x00"), "what is not known here");
        assert!(takes(CLUSTER_KEY, br#"{"format":2}"#), "of a later version");
    }

    #[test]
    fn what_no_router_could_read_is_refused() {
        let good = CLUSTER;
        let wrong = [
            good.replacen("\"format\":1", "\"format\":\"1\"", 1),
            good.replacen("\"groups\":{}", "\"groups\":[]", 1),
            good.replacen("\"epoch\":1", "\"epoch\":-1", 1),
            good.replacen("\"store\":", "\"stores\":", 1),
            format!("{good}x"),
            good[..good.len() - 1].to_owned(),
        ];
        for bad in wrong.iter().map(String::as_bytes).chain([&b"not json"[..], b"", b"[]", b"{}", b"1", b"\xff"]) {
            for key in [CLUSTER_KEY, ROUTERS_KEY] {
                let refusal = check_document(key, bad).unwrap_err();
                assert!(matches!(refusal, Refusal::Malformed(_)), "{}: {refusal}", bad.escape_ascii());
            }
        }
        let deep = format!("{{\"format\":1,\"x\":{}1{}}}", "[".repeat(40), "]".repeat(40));
        assert!(!takes(CLUSTER_KEY, deep.as_bytes()), "too deep");
        assert!(!takes(UPGRADE_KEY, b"{}") && !takes(ROUTER_VERSIONS_KEY, b"{}"));
        assert!(!takes(b"", b"x") && !takes(&[b'k'; MAX_SYSTEM_KEY_BYTES + 1], b"x"));
        assert!(!takes(b"k", &vec![0; MAX_SYSTEM_VALUE_BYTES + 1]));
    }
}
