//! The named fields of a request body, in JSON or in MsgPack.
//!
//! JSON is translated to MsgPack first, exactly, so that there is one reader and no number is rounded on the way.

use raftkv_kv::{Key, Kind, Limits, Parts, Value};

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
    fields(&object, names, Unknown::Ignore)
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
) -> Result<[Option<Value>; N], Problem> {
    let parts = map.parts().filter(|_| map.kind() == Kind::Map);
    let mut parts = parts.ok_or_else(|| malformed(format!("expected a map with the fields {}", names.join(", "))))?;
    let mut found = [const { None }; N];
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let name = name.as_str();
        let known = name.and_then(|name| names.iter().position(|known| *known == name));
        match known {
            Some(at) if found[at].is_some() => {
                return Err(malformed(format!("the field {} is there twice", names[at])));
            }
            Some(at) => found[at] = Some(value.to_value()),
            None if unknown == Unknown::Refuse => {
                let name = name.unwrap_or("that is no text");
                return Err(malformed(format!("there is no field {name:.64} here; there are {}", names.join(", "))));
            }
            None => {}
        }
    }
    Ok(found)
}

/// The values of an array, at most `max` of them.
pub(crate) fn elements(array: &Value, max: usize) -> Result<Parts<'_>, Problem> {
    let parts = array.parts().filter(|_| array.kind() == Kind::Array);
    let parts = parts.ok_or_else(|| malformed("expected an array"))?;
    let count = parts.left();
    if count > max as u64 {
        let detail = format!("the batch has {count} operations; the limit is {max}");
        return Err(Problem::too_large("batch_too_large", detail, max));
    }
    Ok(parts)
}

/// A key given as str or bin.
pub(crate) fn key(field: Option<Value>, limits: &Limits) -> Result<Key, Problem> {
    let field = field.ok_or_else(|| malformed("the field key is missing"))?;
    let bytes = field.content().ok_or_else(|| malformed("the key is neither text nor bytes"))?;
    Ok(Key::new(bytes, limits)?)
}

/// A value out of a message, against the limits of values.
pub(crate) fn value(field: Value, limits: &Limits) -> Result<Value, Problem> {
    Ok(field.within(limits)?)
}

/// A text out of a message.
pub(crate) fn text<'a>(field: &'a Option<Value>, name: &str) -> Result<&'a str, Problem> {
    match field.as_ref().map(Value::as_str) {
        Some(Some(text)) => Ok(text),
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
        let problem = fields(&object, ["key"], Unknown::Refuse).unwrap_err();
        assert!(problem.detail.contains("kye"), "{}", problem.detail);
        let twice = Value::from_msgpack(&b"\x82\xa1a\x01\xa1a\x02"[..], &limits).unwrap();
        assert!(fields(&twice, ["a"], Unknown::Ignore).is_err());
    }
}
