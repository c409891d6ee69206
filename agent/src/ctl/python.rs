//! Values in the forms that Python's `json.dumps` and `str` give them, which are what scripts parse.

use std::fmt::Write as _;

use serde_json::Value;

use crate::config::yaml::float_text;

/// One line of JSON, `, ` and `: ` as separators, ASCII only.
pub fn json(value: &Value) -> String {
    let mut text = String::new();
    write_json(&mut text, value);
    text
}

fn write_json(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&number_text(number)),
        Value::String(string) => write_json_string(text, string),
        Value::Array(list) => {
            text.push('[');
            for (index, item) in list.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_json(text, item);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_json_string(text, key);
                text.push_str(": ");
                write_json(text, item);
            }
            text.push('}');
        }
    }
}

fn write_json_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
}

/// The text of a value in a table or a `tsv` cell: strings bare, `None`, `True` and `False` as Python says them.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(string) => string.clone(),
        other => literal(other),
    }
}

/// The value as a Python literal, as it appears inside lists: `['a', 'b']`.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number_text(number),
        Value::String(string) => quoted(string),
        Value::Array(list) => format!("[{}]", list.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(key, item)| format!("{}: {}", quoted(key), literal(item))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A list of names as Python prints it: `['a', 'b']`.
pub fn name_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", names.into_iter().map(quoted).collect::<Vec<_>>().join(", "))
}

/// The string in single quotes, or in double quotes if it holds a single and no double quote.
pub fn quoted(string: &str) -> String {
    let mark = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    let mut text = String::from(mark);
    for character in string.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other if other == mark => {
                text.push('\\');
                text.push(other);
            }
            other if other.is_ascii_control() => {
                let _ = write!(text, "\\x{:02x}", u32::from(other));
            }
            other => text.push(other),
        }
    }
    text.push(mark);
    text
}

fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float_text(float),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{json as dumps, literal, name_list, quoted, text};

    #[test]
    fn json_is_one_line_of_ascii_with_blanks_after_separators() {
        let value = json!({"a": [1, 1.0, null, true], "größe": "\u{1f600}\n\"\\\u{7f}"});
        assert_eq!(dumps(&value), r#"{"a": [1, 1.0, null, true], "gr\u00f6\u00dfe": "\ud83d\ude00\n\"\\\u007f"}"#);
    }

    #[test]
    fn cells_show_words_that_python_shows() {
        for (value, shown) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(1e20), "1e+20"),
            (json!("it's"), "it's"),
            (json!(["it's", 'b']), "[\"it's\", 'b']"),
            (json!({"a": false}), "{'a': False}"),
        ] {
            assert_eq!(text(&value), shown);
        }
    }

    #[test]
    fn names_are_quoted_as_literals() {
        assert_eq!(name_list(["a", "b"]), "['a', 'b']");
        assert_eq!(quoted("a'b\"c"), "'a\\'b\"c'");
        assert_eq!(literal(&json!([])), "[]");
    }
}
