//! Values: accepted and rejected input, and the equivalence of JSON and MsgPack.

use bytes::Bytes;
use proptest::prelude::*;
use raftkv_kv::{Kind, Limits, Value, ValueError};

fn limits() -> Limits {
    Limits::default()
}

fn msgpack(bytes: &[u8]) -> Result<Value, ValueError> {
    Value::from_msgpack(Bytes::copy_from_slice(bytes), &limits())
}

fn json_within(text: &str, limits: &Limits) -> Result<Value, ValueError> {
    Value::from_json(text.as_bytes(), limits)
}

fn json(text: &str) -> Result<Value, ValueError> {
    Value::from_json(text.as_bytes(), &limits())
}

fn through_json(text: &str) -> String {
    let value = json(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    msgpack(value.as_msgpack()).unwrap_or_else(|e| panic!("{text} made malformed MsgPack: {e}"));
    String::from_utf8(value.to_json().unwrap_or_else(|| panic!("{text}: no JSON"))).unwrap()
}

#[test]
fn numbers_come_back_as_they_were_put() {
    for exact in [
        "0",
        "-1",
        "127",
        "128",
        "-32",
        "-33",
        "-129",
        "65536",
        "18446744073709551615",
        "9223372036854775808",
        "-9223372036854775808",
        "1.0",
        "-0.0",
        "0.1",
        "1e300",
        "5e-324",
        "9007199254740993",
        "1.7976931348623157e308",
    ] {
        assert_eq!(through_json(exact), exact);
    }
    assert_eq!(through_json("1E2"), "100.0");
    assert_eq!(json("1.0").unwrap().kind(), Kind::Float);
    assert_eq!(json("1").unwrap().kind(), Kind::Int);
}

#[test]
fn what_json_cannot_keep_exactly_is_refused() {
    for refused in [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "01",
        "1.",
        ".5",
        "-",
        "+1",
        "NaN",
        "1e",
        "0x10",
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"c":1}"#,
        r#""\ud800""#,
        r#""\ud800\u0041""#,
        r#""\udc00""#,
        r#""\x""#,
        r#""\u12g4""#,
        "\"\n\"",
        "\"",
        "tru",
        "truex",
        "",
        " ",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{1:2}",
        "[",
        "{",
        "]",
        "[}",
        "{]",
        "1 2",
    ] {
        assert!(json(refused).is_err(), "{refused} was taken");
    }
    assert!(matches!(Value::from_json(b"\"\xff\"", &limits()), Err(ValueError::MalformedJson(_))));
    assert_eq!(json("1 x"), Err(ValueError::TrailingBytes { extra: 1 }));
}

#[test]
fn containers_and_strings_come_back() {
    for exact in
        ["[]", "{}", "[[],{}]", r#"{"a":[1,2.0,null,true],"b":{"c":"d"}}"#, r#""""#, r#""\"\\\n\r\t\u0001é😀""#]
    {
        assert_eq!(through_json(exact), exact);
    }
    assert_eq!(through_json(r#" { "a" : [ 1 , 2 ] } "#), r#"{"a":[1,2]}"#);
    assert_eq!(through_json(r#""\ud83d\ude00\/\b\f""#), "\"😀/\\u0008\\u000c\"");
    let many = format!("[{}]", vec!["[1]"; 70_000].join(","));
    assert_eq!(through_json(&many), many);
}

#[test]
fn json_is_not_given_where_it_would_lose_something() {
    let lossy: [&[u8]; 6] = [
        &[0xc4, 1, 0],                         // bin
        &[0x91, 0xc4, 0],                      // bin within
        &[0x81, 1, 2],                         // a key that is no string
        &[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], // infinity
        &[0xca, 0x7f, 0xc0, 0, 0],             // not a number
        &[0x82, 0xa1, b'a', 1, 0xa1, b'a', 2], // a key that is there twice
    ];
    for bytes in lossy {
        let value = msgpack(bytes).unwrap();
        assert_eq!(value.to_json(), None, "{bytes:x?}");
        let mut out = b"before".to_vec();
        assert!(!value.write_json(&mut out));
        assert_eq!(out, b"before");
    }
}

#[test]
fn a_float_of_32_bits_survives() {
    let bytes = [0xca, 0x3d, 0xcc, 0xcc, 0xcd]; // 0.1
    let value = msgpack(&bytes).unwrap();
    assert_eq!(value.as_msgpack(), bytes);
    assert_eq!(value.to_json().unwrap(), b"0.10000000149011612");
}

#[test]
fn malformed_msgpack_is_refused() {
    let malformed: [&[u8]; 10] = [
        &[],
        &[0xc1],
        &[0xd4, 1, 2],
        &[0xc7, 0, 1],
        &[0xa2, b'a'],
        &[0xa1, 0xff],
        &[0x92, 1],
        &[0x81, 1],
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xc6, 0xff, 0xff, 0xff, 0xff, 0],
    ];
    for bytes in malformed {
        assert!(matches!(msgpack(bytes), Err(ValueError::Malformed(_))), "{bytes:x?}");
    }
    assert_eq!(msgpack(&[1, 2, 3]), Err(ValueError::TrailingBytes { extra: 2 }));
}

#[test]
fn nesting_has_a_limit_and_never_exhausts_the_stack() {
    let limit = limits().max_value_depth;
    let nested_json = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let nested_msgpack = |depth: usize| [vec![0x91; depth - 1], vec![0x90]].concat();
    assert_eq!(through_json(&nested_json(limit)), nested_json(limit));
    assert!(msgpack(&nested_msgpack(limit)).is_ok());
    for depth in [limit + 1, 100_000, 1_000_000] {
        assert_eq!(json(&nested_json(depth)), Err(ValueError::TooDeep { limit }));
        assert_eq!(msgpack(&nested_msgpack(depth)), Err(ValueError::TooDeep { limit }));
        let objects = "{\"a\":".repeat(depth);
        assert_eq!(json(&objects), Err(ValueError::TooDeep { limit }));
    }
    // A value never validated can have any depth.
    let _ = Value::from_stored(nested_msgpack(1_000_000)).to_json();
}

#[test]
fn the_size_limit_counts_the_encoded_bytes() {
    let limits = Limits { max_value_bytes: 10, ..Limits::default() };
    assert!(Value::text("123456789", &limits).is_ok());
    let too_large = Err(ValueError::TooLarge { len: 11, limit: 10 });
    assert_eq!(Value::text("1234567890", &limits), too_large);
    assert_eq!(Value::binary(b"123456789", &limits), too_large);
    assert_eq!(Value::from_json(b"\"1234567890\"", &limits), too_large);
    assert_eq!(Value::from_msgpack(&b"\xaa1234567890"[..], &limits), too_large);
}

#[test]
fn a_json_text_is_read_no_further_than_the_value_may_be_large() {
    let limits = Limits { max_value_bytes: 10, ..Limits::default() };
    // The parser stops before the malformed end.
    for text in ["[0,0,0,0,0,0,0,0,0,0,x", "[{},{},{},{},{},{},{},{},{},{},x", "{\"12345678\":1,x", "[\"12345678\",1,x"]
    {
        assert_eq!(json_within(text, &limits), Err(ValueError::TooLarge { len: 11, limit: 10 }), "{text}");
    }
    assert!(json_within("[0,0,0,0,0,0,0,0,0]", &limits).is_ok());
    assert!(json_within("[{},{},{},{},{},{},{},{},{}]", &limits).is_ok());
}

#[test]
fn arrays_of_a_message_are_counted_before_they_are_read() {
    let limits = limits();
    let too_many = Err(ValueError::TooMany { limit: 3 });
    let message = |text: &str| Value::message_from_json(text.as_bytes(), &limits, 3);
    for fits in [r#"{"a":[1,2,3],"b":[[1,2,3,4],2]}"#, "[1,2,3,4]", "[[1,2,3,4]]", r#"{"a":{"b":[1,2,3,4]}}"#, "1"] {
        let value = Value::from_json(fits.as_bytes(), &limits).unwrap();
        assert_eq!(message(fits).as_ref(), Ok(&value), "{fits}");
        assert_eq!(Value::message_from_msgpack(value.as_msgpack().to_vec(), &limits, 3), Ok(value), "{fits}");
    }
    // The parser stops before the malformed part behind the excess element.
    assert!(matches!(message(r#"{"a":[1],"\u0062":[{},{},{}x"#), Err(ValueError::MalformedJson(_))));
    assert_eq!(message(r#"{"a":[1],"\u0062":[{},{},{},{},x"#), too_many);
    let with = |array: &[u8]| [b"\x82\xa1a\x91\x01\xa1b", array, &[0xc1; 4]].concat();
    for array in [&b"\x94"[..], b"\xdc\x00\x04", b"\xdd\x00\x00\x00\x04"] {
        assert_eq!(Value::message_from_msgpack(with(array), &limits, 3), too_many, "{array:x?}");
    }
    for array in [&b"\x93"[..], b"\xdd\xff\xff\xff\xff"] {
        let malformed = Value::message_from_msgpack(with(array), &limits, 3);
        assert!(matches!(malformed, Err(ValueError::Malformed(_))), "{array:x?}");
    }
}

#[test]
fn a_message_is_checked_like_any_value() {
    let limits = Limits { max_value_depth: 2, ..limits() };
    let msgpack = |bytes: &[u8]| Value::message_from_msgpack(bytes.to_vec(), &limits, 3);
    assert!(msgpack(b"\x81\xa1a\x90").is_ok());
    assert_eq!(msgpack(b"\x81\xa1a\x91\x90"), Err(ValueError::TooDeep { limit: 2 }));
    assert_eq!(msgpack(b"\x81\xa1a\x90\x00"), Err(ValueError::TrailingBytes { extra: 1 }));
    for bytes in [&b""[..], b"\x81", b"\x81\xa1a", b"\x82\xa1a\x90", b"\x81\xa1a\xc1", b"\x81\xa1\xff\x90"] {
        let (checked, plain) = (msgpack(bytes), Value::from_msgpack(bytes.to_vec(), &limits));
        assert!(matches!(checked, Err(ValueError::Malformed(_))), "{bytes:x?}");
        assert_eq!(checked, plain, "{bytes:x?}");
    }
    let none = Limits { max_value_depth: 0, ..limits.clone() };
    assert_eq!(Value::message_from_msgpack(b"\x80".to_vec(), &none, 3), Err(ValueError::TooDeep { limit: 0 }));
}

#[test]
fn accessors_tell_text_from_bytes() {
    for len in [0, 5, 31, 32, 255, 256, 70_000] {
        let text = "x".repeat(len);
        let value = Value::text(&text, &limits()).unwrap();
        assert_eq!((value.kind(), value.as_str(), value.as_bin()), (Kind::Str, Some(text.as_str()), None));
        assert_eq!(value.content().unwrap(), text);
        let value = Value::binary(text.as_bytes(), &limits()).unwrap();
        assert_eq!((value.kind(), value.as_str(), value.as_bin()), (Kind::Bin, None, Some(text.as_bytes())));
        assert_eq!(value.content().unwrap(), text);
    }
    assert_eq!(json("[1]").unwrap().content(), None);
    assert_eq!(json("null").unwrap().kind(), Kind::Nil);
    assert_eq!(json("{}").unwrap().kind(), Kind::Map);
}

fn any_json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:?}")),
        any::<String>().prop_map(|s| quoted(&s)),
    ];
    scalar.prop_recursive(6, 64, 12, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..12).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::btree_map(any::<String>(), inner, 0..12).prop_map(|m| {
                let pairs: Vec<_> = m.iter().map(|(k, v)| format!("{}:{v}", quoted(k))).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    })
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    raftkv_kv::write_json_string(text, &mut out);
    String::from_utf8(out).unwrap()
}

proptest! {
    #[test]
    fn json_to_msgpack_to_json_is_the_same(text in any_json()) {
        prop_assert_eq!(through_json(&text), text);
    }

    #[test]
    fn random_bytes_never_panic_and_agree_with_another_decoder(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Value::from_json(&bytes, &limits());
        let _ = Value::from_stored(bytes.clone()).to_json();
        let unchecked = Value::from_stored(bytes.clone());
        let _ = (unchecked.kind(), unchecked.as_str(), unchecked.as_bin(), unchecked.content());
        let _ = unchecked.parts().map(|parts| parts.for_each(|part| drop(part.to_value())));
        if msgpack(&bytes).is_ok() {
            let mut rest = &bytes[..];
            prop_assert!(rmpv::decode::read_value(&mut rest).is_ok());
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn json_like_bytes_never_panic(text in "[\\[\\]{}:,\"\\\\0-9.eEu+\\- ntfa]{0,48}") {
        if let Ok(value) = json(&text) {
            prop_assert!(msgpack(value.as_msgpack()).is_ok());
            let again = value.to_json().unwrap();
            prop_assert_eq!(Value::from_json(&again, &limits()).unwrap(), value);
        }
    }
}

#[test]
fn the_parts_of_a_value_are_its_elements_or_names_and_values_in_turn() {
    let whole = json(r#"{"a":[1,-1,70000,[{}],"text",null,2.5],"b":{"c":"d"},"":true}"#).unwrap();
    let mut parts = whole.parts().unwrap();
    assert_eq!(parts.left(), 6);
    assert_eq!(parts.next().unwrap().as_str(), Some("a"));
    let list = parts.next().unwrap();
    assert_eq!(list.as_str(), None);
    let list = list.to_value();
    let texts: Vec<_> = list.parts().unwrap().map(|part| part.to_value().to_json().unwrap()).collect();
    assert_eq!(texts.join(&b","[..]), br#"1,-1,70000,[{}],"text",null,2.5"#);
    let rest: Vec<_> = parts.map(|part| part.to_value().to_json().unwrap()).collect();
    assert_eq!(rest.join(&b" "[..]), br#""b" {"c":"d"} "" true"#);
    for scalar in ["1", "null", r#""text""#, "2.5"] {
        assert!(json(scalar).unwrap().parts().is_none(), "{scalar}");
    }
    assert_eq!(json("[]").unwrap().parts().unwrap().count(), 0);
}

#[test]
fn a_value_is_held_to_narrower_limits() {
    let narrow = Limits { max_value_depth: 2, max_value_bytes: 5, ..limits() };
    assert!(json("[[1,2]]").unwrap().within(&narrow).is_ok());
    assert_eq!(json("[[[]]]").unwrap().within(&narrow), Err(ValueError::TooDeep { limit: 2 }));
    assert_eq!(json(r#""12345""#).unwrap().within(&narrow), Err(ValueError::TooLarge { len: 6, limit: 5 }));
}

/// Covers every length encoding of one or two bytes and every width of numbers.
#[test]
fn parts_of_every_kind_end_where_a_decoder_says() {
    use rmpv::Value as Tree;
    let mut trees = vec![Tree::Nil, Tree::Boolean(true), Tree::F32(1.5), Tree::F64(-2.5)];
    trees.extend((0..64).map(|bit| Tree::from(u64::MAX >> bit)));
    trees.extend((0..64).map(|bit| Tree::from(i64::MIN >> bit)));
    for len in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
        trees.push(Tree::from("x".repeat(len)));
        trees.push(Tree::Binary(vec![7; len]));
        trees.push(Tree::Array(vec![Tree::from("y"); len]));
        trees.push(Tree::Map(vec![(Tree::from("z"), Tree::Array(vec![Tree::Nil])); len]));
    }
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &Tree::Array(trees.clone())).unwrap();
    let whole = Value::from_msgpack(bytes, &Limits { max_value_bytes: usize::MAX, ..limits() }).unwrap();
    let parts: Vec<_> = whole.parts().unwrap().map(|part| part.to_value()).collect();
    assert_eq!(parts.len(), trees.len());
    for (part, tree) in parts.iter().zip(&trees) {
        let mut expected = Vec::new();
        rmpv::encode::write_value(&mut expected, tree).unwrap();
        assert!(part.as_msgpack() == expected, "{tree:.100}");
    }
}
