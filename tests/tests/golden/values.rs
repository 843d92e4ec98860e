//! Values of every type and every length of MsgPack's encodings, and keys with odd bytes.

use rmpv::Value;

/// A value of so many bytes that compress well.
fn text(bytes: usize) -> String {
    (0u32..).flat_map(|number| format!("{number:07} ").into_bytes()).take(bytes).map(char::from).collect()
}

/// With a name for each.
pub(super) fn all() -> Vec<(String, Value)> {
    let ints = [0, 1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX];
    let negative = [-1, -32, -33, -128, -129, -32_768, -32_769, i64::from(i32::MIN), i64::from(i32::MIN) - 1, i64::MIN];
    let mut all = vec![
        ("nil".to_owned(), Value::Nil),
        ("false".to_owned(), Value::from(false)),
        ("true".to_owned(), Value::from(true)),
        ("float32".to_owned(), Value::F32(0.1)),
        ("array-nested".to_owned(), nested(12)),
        ("map-odd-keys".to_owned(), odd_map()),
        ("str-unicode".to_owned(), Value::from("\u{0}\u{7f}é\u{2028}漢字🦀")),
    ];
    all.extend(ints.map(|int| (format!("int-{int}"), Value::from(int))));
    all.extend(negative.map(|int| (format!("int{int}"), Value::from(int))));
    let floats = [0.0, -0.0, 1.5, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    all.extend(floats.map(|float| (format!("float-{float:e}"), Value::F64(float))));
    for len in [0, 1, 31, 32, 255, 256, 20_000] {
        all.push((format!("str-{len}"), Value::from(text(len))));
        all.push((
            format!("bin-{len}"),
            Value::Binary(text(len).into_bytes().iter().map(|byte| byte ^ 0xff).collect()),
        ));
    }
    for len in [0u64, 1, 15, 16, 2_000] {
        all.push((format!("array-{len}"), (0..len).map(|number| Value::from(number % 200)).collect::<Vec<_>>().into()));
        let pairs = (0..len).map(|number| (Value::from(format!("k{number}")), Value::from(number % 200)));
        all.push((format!("map-{len}"), Value::Map(pairs.collect())));
    }
    all
}

fn nested(depth: u32) -> Value {
    (0..depth).fold(Value::Nil, |inner, level| match level % 2 {
        0 => Value::Array(vec![Value::from(level), inner]),
        _ => Value::Map(vec![(Value::from("in"), inner)]),
    })
}

/// Keys of a map that JSON has no words for.
fn odd_map() -> Value {
    Value::Map(vec![
        (Value::Nil, Value::from("nil")),
        (Value::from(-1), Value::from("int")),
        (Value::F64(0.5), Value::from("float")),
        (Value::Binary(vec![0, 255]), Value::from("bin")),
        (Value::Array(vec![Value::from(1)]), Value::Map(Vec::new())),
        (Value::from("twice"), Value::from(1)),
        (Value::from("twice"), Value::from(2)),
    ])
}

/// Keys that are no plain text, the longest one among them.
pub(super) fn odd_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        &b"/"[..],
        b"//",
        b"a/../b",
        b" ",
        b"%2F",
        b"?query=1#fragment",
        b"\x01",
        b"a\x00b",
        b"\x7f",
        b"\xff",
        b"\xff\xff\xff",
        b"\xc3\x28",
        b"{tag}one",
        b"{tag}two",
        b"{}empty-tag",
        b"line\nbreak\ttab\"quote\\",
    ]
    .iter()
    .map(|key| key.to_vec())
    .collect();
    keys.push("schlüssel/漢字/🦀".as_bytes().to_vec());
    keys.push(text(4_096).into_bytes());
    keys
}
