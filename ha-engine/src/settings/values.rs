//! How configured values are read: the readers of `postgres::value`, for JSON values.
//!
//! Configuration comes from YAML, JSON and the environment, and the same setting may be `30`, `"30"` or `"30s"`. What
//! counts is the text form.

use serde_json::Value;

use crate::postgres::value;

/// The text form of a value: what two values are compared by, and what messages show. Booleans are `True` and `False`,
/// null is `None`.
pub fn text(value: &Value) -> String {
    value::text_form(value)
}

/// Whether a value counts as set: anything but null, false, zero and the empty string, list or mapping.
pub fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Reads a boolean word: `on`, `true`, `yes`, `1` and `off`, `false`, `no`, `0`, in any case.
pub fn bool_word(value: &Value) -> Option<bool> {
    value::bool_word(&text(value))
}

/// Reads a switch that the operator wrote: a boolean word counts as its meaning, and anything else that is set as true.
pub fn switch(value: &Value) -> bool {
    bool_word(value).unwrap_or_else(|| is_set(value))
}

/// Reads an integer as PostgreSQL does: decimal, `0x` hexadecimal or `0` octal, a fraction is rounded half to even. A
/// unit is taken only if `base_unit` says what it is converted to (`kB`, `8kB`, `MB`, `ms`, `s`, …).
pub fn int(value: &Value, base_unit: Option<&str>) -> Option<i64> {
    value::parse_int(&text(value), base_unit)
}

/// Reads a real number, with the unit rules of [`int`] and without the final rounding.
pub fn real(value: &Value, base_unit: Option<&str>) -> Option<f64> {
    value::parse_real(&text(value), base_unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{bool_word, int, real, switch, text};

    #[test]
    fn integers_are_read_like_postgresql_does() {
        for (value, unit, expected) in [
            (json!(1), None, Some(1)),
            (json!("51"), None, Some(51)),
            (json!(" 0x400 MB "), Some("16384kB"), Some(64)),
            (json!("1MB"), Some("kB"), Some(1024)),
            (json!("1000 ms"), Some("s"), Some(1)),
            (json!("1TB"), Some("GB"), None),
            (json!("6GB"), Some("16MB"), Some(384)),
            (json!("4097.4kB"), Some("kB"), Some(4097)),
            (json!("4097.5kB"), Some("kB"), Some(4098)),
            (json!("1.5GB"), Some("MB"), Some(1536)),
            (json!("0.5"), Some("MB"), Some(0)),
            (json!("90s"), Some("min"), Some(2)),
            (json!("100us"), Some("ms"), Some(0)),
            (json!("5min"), Some("s"), Some(300)),
            (json!("2.5"), None, Some(2)),
            (json!("1.5"), None, Some(2)),
            (json!("1e3"), None, Some(1000)),
            (json!(" -070"), None, Some(-56)),
            (json!("08"), None, None),
            (json!("1gb"), Some("MB"), None),
            (json!("1MB"), None, None),
            (json!("9223372036854775807"), None, Some(i64::MAX)),
            (json!("9223372036854775808"), None, Some(i64::MAX)),
            (json!(true), None, None),
            (json!(null), None, None),
            (json!("nonsense"), Some("kB"), None),
            (json!(""), None, None),
        ] {
            assert_eq!(int(&value, unit), expected, "{value} in {unit:?}");
        }
    }

    #[test]
    fn a_terabyte_is_not_nothing_in_large_blocks() {
        assert_eq!(int(&json!("1TB"), Some("16384kB")), Some(65536));
    }

    #[test]
    fn reals_keep_their_fraction() {
        assert_eq!(real(&json!(" +0.0005 "), None), Some(0.0005));
        assert_eq!(real(&json!("0.0005ms"), Some("ms")), Some(0.0));
        assert_eq!(real(&json!("0.00051ms"), Some("ms")), Some(0.001));
        assert_eq!(real(&json!("A"), None), None);
    }

    #[test]
    fn booleans_are_words() {
        for value in [json!("On"), json!(true), json!("YES"), json!(1)] {
            assert_eq!(bool_word(&value), Some(true), "{value}");
        }
        for value in [json!("off"), json!(false), json!("No"), json!(0)] {
            assert_eq!(bool_word(&value), Some(false), "{value}");
        }
        for value in [json!("y"), json!(2), json!(null), json!([])] {
            assert_eq!(bool_word(&value), None, "{value}");
        }
        assert!(switch(&json!("anything")));
        assert!(!switch(&json!("false")));
        assert!(!switch(&json!(null)));
    }

    #[test]
    fn text_forms_are_those_that_existing_tools_print() {
        assert_eq!(text(&json!({"a": [1, "b", true, null]})), "{'a': [1, 'b', True, None]}");
        assert_eq!(text(&json!("plain")), "plain");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(input in ".{0,40}", unit in "[0-9]{0,5}[A-Za-z]{0,3}") {
            let value = json!(input);
            let _ = (int(&value, None), int(&value, Some(&unit)), real(&value, Some(&unit)), bool_word(&value));
        }
    }
}
