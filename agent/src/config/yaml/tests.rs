use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Document, block, flow, parse};
use crate::config::tree::{Content, Source};

fn source() -> Arc<Source> {
    Arc::new(Source::File("quorate.yml".into()))
}

fn document(text: &str) -> Document {
    parse(text, &source()).expect("valid YAML")
}

fn value(text: &str) -> Value {
    document(text).root.to_value()
}

#[test]
fn words_have_the_meaning_of_yaml_1_1() {
    assert_eq!(
        value("a: off\nb: 'off'\nc: 0644\nd: y\ne: 1e3\nf: ~\ng:\nh: 12:30\ni: !!str 12\nj: \"5\"\nk: 1.5\nl: 2024-01-01\nm: 08"),
        json!({
            "a": false, "b": "off", "c": 420, "d": "y", "e": "1e3", "f": null, "g": null, "h": "12:30", "i": "12",
            "j": "5", "k": 1.5, "l": "2024-01-01", "m": "08",
        })
    );
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    assert_eq!(
        value("base: &b {x: 1, y: on}\nuse: *b\nmerged:\n  <<: *b\n  y: 0644\n"),
        json!({"base": {"x": 1, "y": true}, "use": {"x": 1, "y": true}, "merged": {"x": 1, "y": 420}})
    );
}

#[test]
fn block_texts_and_comments_are_kept_and_dropped() {
    assert_eq!(
        value("a: |\n  true\n  x\nb: >-\n  1\n  2 # not a comment\n# a comment\n"),
        json!({"a": "true\nx\n", "b": "1 2 # not a comment"})
    );
}

#[test]
fn a_key_written_twice_counts_with_its_last_value_and_is_warned_about() {
    let document = document("a: 1\nb:\n  c: 1\n  c: 2\n");
    assert_eq!(document.root.to_value(), json!({"a": 1, "b": {"c": 2}}));
    assert_eq!(document.warnings, ["quorate.yml:4:3: `b.c` is written twice (first at quorate.yml:3:3); the last value counts"]);
}

#[test]
fn keys_know_their_line_and_column() {
    let document = document("a: 1\nb:\n  - c: 1\n  - {d: 2}\n");
    let Content::Mapping(mapping) = &document.root.content else { panic!("a mapping") };
    let places = mapping.places();
    assert_eq!(places.nearest("b.0.c").expect("known").to_string(), "quorate.yml:3:5");
    assert_eq!(places.nearest("b.1.d").expect("known").to_string(), "quorate.yml:4:6");
}

#[test]
fn an_error_shows_line_column_and_the_line_itself() {
    let error = parse("scope: demo\nrestapi:\n  listen: a: b\n", &source()).expect_err("a missing quote").to_string();
    assert!(error.starts_with("quorate.yml is not valid YAML (line 3, column "), "{error}");
    assert!(error.contains("listen: a: b"), "{error}");
    assert!(error.contains('^'), "{error}");
}

#[test]
fn an_empty_document_is_null() {
    for text in ["", "\n", "# only a comment\n", "---\n"] {
        assert_eq!(value(text), Value::Null, "{text:?}");
    }
}

#[test]
fn several_documents_are_refused() {
    assert!(parse("a: 1\n---\nb: 2\n", &source()).is_err());
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let error = parse(&"[".repeat(100_000), &source()).expect_err("too deep");
    assert!(error.to_string().contains("not valid YAML"));
}

#[test]
fn what_is_written_is_read_back() {
    let before = json!({
        "texts": ["on", "0644", "1e3", "", "null", "a: b", "multi\nline", "- x", "#", "y", "1:30", "08", "~"],
        "numbers": [1, -2, 1.5], "null": null, "flag": true, "empty": {}, "none": [],
    });
    for text in [block(&before), flow(&before)] {
        assert_eq!(value(&text), before, "{text}");
    }
}

/// Values as configurations hold them.
fn anything() -> impl Strategy<Value = Value> {
    let text = "\\PC{0,40}|[-a-z0-9:{}\\[\\]&*!|>'\"%@#, \n\t]{0,40}|on|0644|1:30|~|2024-01-01";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(text, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back(before in anything()) {
        for text in [block(&before), flow(&before)] {
            prop_assert_eq!(&value(&text), &before, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,120}|[-a-z0-9:{}\\[\\]&*!|>'\"%@#, \n]{0,120}") {
        let _ = parse(&text, &source());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&String::from_utf8_lossy(&bytes), &source());
    }
}
