//! `pyyaml_cases.json` was written by PyYAML 6.0.3 itself: each entry has a value and its two texts.

use serde_json::{Value, json};

use super::{block, float_text, flow};

#[test]
fn every_text_is_the_one_that_pyyaml_writes() {
    let cases: Value = serde_json::from_str(include_str!("pyyaml_cases.json")).expect("the file is JSON");
    for case in cases.as_array().expect("the file is a list") {
        let value = &case["value"];
        assert_eq!(block(value), case["block"].as_str().expect("a text"), "block form of {value}");
        assert_eq!(flow(value), case["flow"].as_str().expect("a text"), "flow form of {value}");
    }
}

#[test]
fn a_string_that_looks_like_something_else_is_quoted() {
    for text in ["on", "No", "012", "1_000", "12:30:45", "2024-01-01", "~", "1.", "0x1f", "<<", ""] {
        assert_eq!(block(&json!({ "k": text })), format!("k: '{text}'\n"));
    }
    for text in ["y", "1e3", "4MB", "host all all md5", "12:99", "a:b", "1.2.3", "-"] {
        let written = block(&json!({ "k": text }));
        assert_eq!(written, if text == "-" { "k: '-'\n".to_owned() } else { format!("k: {text}\n") });
    }
}

#[test]
fn floats_are_written_as_python_writes_them() {
    for (value, text) in [
        (1.5, "1.5"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e16, "1e+16"),
        (9_999_999_999_999_998.0, "9999999999999998.0"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.25e-7, "1.25e-07"),
        (1e100, "1e+100"),
    ] {
        assert_eq!(float_text(value), text);
    }
}
