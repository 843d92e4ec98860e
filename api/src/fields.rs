//! The named fields of a request body, in JSON or in MsgPack.
//!
//! JSON is translated to MsgPack first, exactly, so that there is one reader and no number is rounded on the way.

use bytes::{Buf, Bytes};
use raftkv_kv::{Key, Kind, Limits, Value};

use crate::problem::Problem;

/// How much deeper than a value the message around it may be: batch, operations, operation, condition.
const ENVELOPE_DEPTH: usize = 4;

/// The limits of a message that holds values: its size was limited when it was received.
pub(crate) fn envelope_limits(limits: &Limits) -> Limits {
    Limits { max_value_bytes: usize::MAX, max_value_depth: limits.max_value_depth + ENVELOPE_DEPTH, ..limits.clone() }
}

/// The fields of a JSON object.
pub(crate) fn json_fields<const N: usize>(
    body: &[u8],
    names: [&str; N],
    limits: &Limits,
) -> Result<[Option<Value>; N], Problem> {
    let object = Value::from_json(body, &envelope_limits(limits))?;
    fields(&object, names, Unknown::Ignore, limits)
}

/// What is done with fields that no one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Old clients may send more than is read.
    Ignore,
    /// A misspelt field must not silently mean nothing.
    Refuse,
}

/// The values of the fields `names` of a map, each at most once.
pub(crate) fn fields<const N: usize>(
    map: &Value,
    names: [&str; N],
    unknown: Unknown,
    limits: &Limits,
) -> Result<[Option<Value>; N], Problem> {
    let limits = envelope_limits(limits);
    if map.kind() != Kind::Map {
        return Err(malformed(format!("expected a map with the fields {}", names.join(", "))));
    }
    let mut content = map.as_msgpack();
    let count = rmp::decode::read_map_len(&mut content).map_err(|e| malformed(e.to_string()))?;
    let mut rest = tail(map, content.len());
    let mut found = [const { None }; N];
    for _ in 0..count {
        let (name, after) = Value::split_first(rest, &limits)?;
        let (value, after) = Value::split_first(after, &limits)?;
        rest = after;
        let known = name.as_str().and_then(|name| names.iter().position(|n| *n == name));
        match known {
            Some(at) if found[at].is_some() => {
                return Err(malformed(format!("the field {} is there twice", names[at])));
            }
            Some(at) => found[at] = Some(value),
            None if unknown == Unknown::Refuse => {
                let name = name.as_str().unwrap_or("that is no text");
                return Err(malformed(format!("there is no field {name:.64} here; there are {}", names.join(", "))));
            }
            None => {}
        }
    }
    Ok(found)
}

/// The values of an array, at most `max` of them.
pub(crate) fn elements(array: &Value, max: usize, limits: &Limits) -> Result<Vec<Value>, Problem> {
    let limits = envelope_limits(limits);
    if array.kind() != Kind::Array {
        return Err(malformed("expected an array"));
    }
    let mut content = array.as_msgpack();
    let count = rmp::decode::read_array_len(&mut content).map_err(|e| malformed(e.to_string()))? as usize;
    if count > max {
        let detail = format!("the batch has {count} operations; the limit is {max}");
        return Err(Problem::too_large("batch_too_large", detail, max));
    }
    let mut rest = tail(array, content.len());
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let (element, after) = Value::split_first(rest, &limits)?;
        rest = after;
        elements.push(element);
    }
    Ok(elements)
}

fn tail(value: &Value, len: usize) -> Bytes {
    let mut bytes = value.clone().into_msgpack();
    bytes.advance(bytes.len() - len);
    bytes
}

/// A key given as str or bin.
pub(crate) fn key(field: Option<Value>, limits: &Limits) -> Result<Key, Problem> {
    let field = field.ok_or_else(|| malformed("the field key is missing"))?;
    let bytes = field.content().ok_or_else(|| malformed("the key is neither text nor bytes"))?;
    Ok(Key::new(bytes, limits)?)
}

/// A value out of a message, against the limits of values.
pub(crate) fn value(field: Value, limits: &Limits) -> Result<Value, Problem> {
    Ok(Value::from_msgpack(field.into_msgpack(), limits)?)
}

/// A text out of a message.
pub(crate) fn text(field: Option<Value>, name: &str) -> Result<String, Problem> {
    match field.as_ref().map(Value::as_str) {
        Some(Some(text)) => Ok(text.to_owned()),
        Some(None) => Err(malformed(format!("the field {name} is not a text"))),
        None => Err(malformed(format!("the field {name} is missing"))),
    }
}

/// A message that is well-formed but not what is expected.
pub(crate) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::bad_request("malformed_request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_order() {
        let limits = Limits::default();
        let [key, val] = json_fields(br#"{"val":[1],"more":{},"key":"k"}"#, ["key", "val"], &limits).unwrap();
        assert_eq!(key.unwrap().as_str(), Some("k"));
        assert_eq!(val.unwrap().to_json().unwrap(), b"[1]");
        let [missing] = json_fields(b"{}", ["key"], &limits).unwrap();
        assert_eq!(missing, None);
    }

    #[test]
    fn what_is_not_expected_is_refused() {
        let limits = Limits::default();
        assert!(json_fields(b"[]", ["key"], &limits).is_err());
        let object = Value::from_json(br#"{"kye":1}"#, &limits).unwrap();
        let problem = fields(&object, ["key"], Unknown::Refuse, &limits).unwrap_err();
        assert!(problem.detail.contains("kye"), "{}", problem.detail);
        let twice = Value::from_msgpack(&b"\x82\xa1a\x01\xa1a\x02"[..], &limits).unwrap();
        assert!(fields(&twice, ["a"], Unknown::Ignore, &limits).is_err());
    }
}
