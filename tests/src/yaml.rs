//! Writing a configuration as YAML that a person can read.

use std::fmt::Write;

use serde_json::Value;

/// The block style of a value. Scalars are written as JSON, which YAML reads as they are meant.
#[must_use]
pub fn render(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                // Writing to a string cannot fail.
                let _ = write!(out, "{:indent$}{key}:", "");
                nested(value, indent + 2, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{:indent$}-", "");
                nested(item, indent + 2, out);
            }
        }
        scalar => {
            let _ = writeln!(out, "{:indent$}{scalar}", "");
        }
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::String(text) if is_plain(text) => {
            let _ = writeln!(out, " {text}");
        }
        small => {
            let _ = writeln!(out, " {small}");
        }
    }
}

/// Whether YAML takes this text for a string as it stands.
fn is_plain(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/' | b'.');
    let ambiguous = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(word)
        && !ambiguous.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn nested_maps_and_lists_come_out_in_block_style() {
        let value = json!({"name": "pg1", "tags": {}, "port": 5432, "hba": ["host all all", {"a": "on"}], "dcs": {"ttl": 30}});
        assert_eq!(render(&value), "name: pg1\ntags: {}\nport: 5432\nhba:\n  - \"host all all\"\n  -\n    a: \"on\"\ndcs:\n  ttl: 30\n");
    }
}
