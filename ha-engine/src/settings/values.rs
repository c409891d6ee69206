//! How configured values are read: words for booleans, numbers with units, text forms.
//!
//! Configuration comes from YAML, JSON and the environment, and the same setting may be `30`, `"30"` or `"30s"`. These
//! functions read all of them the way existing clusters were configured, which is PostgreSQL's own way.

use serde_json::Value;

/// The text form of a value: what is written into configuration files, and what two values are compared by. Booleans
/// are `True` and `False`, null is `None`.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => literal(other),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map.iter().map(|(key, value)| format!("'{key}': {}", literal(value))).collect();
            format!("{{{}}}", items.join(", "))
        }
    }
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
    match text(value).to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Reads a switch that the operator wrote: a boolean word counts as its meaning, and anything else that is set as true.
pub fn switch(value: &Value) -> bool {
    bool_word(value).unwrap_or_else(|| is_set(value))
}

/// Reads an integer as PostgreSQL does: decimal, `0x` hexadecimal or `0` octal, a fraction is rounded half to even. A
/// unit is taken only if `base_unit` says what it is converted to (`kB`, `8kB`, `MB`, `ms`, `s`, …).
pub fn int(value: &Value, base_unit: Option<&str>) -> Option<i64> {
    let text = text(value);
    let text = text.trim();
    let (number, rest) = match leading_integer(text) {
        Some((number, rest)) if !rest.starts_with(['.', 'e', 'E']) => (number as f64, rest),
        Some(_) => leading_real(text)?,
        None if text.starts_with('.') => leading_real(text)?,
        None => return None,
    };
    let unit = rest.trim();
    let number = if unit.is_empty() {
        // A plain integer must not lose digits on the way through a float.
        if let Some((exact, "")) = leading_integer(text) {
            return i64::try_from(exact).ok();
        }
        number
    } else {
        convert(number, unit, base_unit?)?
    };
    let rounded = number.round_ties_even();
    (rounded.abs() < 9.2e18).then_some(rounded as i64)
}

/// Reads a real number, with the unit rules of [`int`] and without the final rounding.
pub fn real(value: &Value, base_unit: Option<&str>) -> Option<f64> {
    let text = text(value);
    let (number, rest) = leading_real(text.trim())?;
    match rest.trim() {
        "" => Some(number),
        unit => convert(number, unit, base_unit?),
    }
}

/// `strtol` with base detection: the number and what follows it.
fn leading_integer(text: &str) -> Option<(i128, &str)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").filter(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (digits, radix) = match hexadecimal {
        Some(rest) => (rest, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let number = i128::from_str_radix(&digits[..end], radix).ok()?;
    Some((if negative { -number } else { number }, &digits[end..]))
}

/// `strtod` for decimal numbers: the number and what follows it.
fn leading_real(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let digits_from = |start: usize| bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = digits_from(start);
    let mut end = start + whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits_from(end + 1);
        if fraction > 0 {
            end += 1 + fraction;
        }
    }
    if end == start {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits_from((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Units from the largest to the smallest, in the smallest one.
const MEMORY: [(&str, f64); 5] = [("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1024.0), ("B", 1.0)];
const TIME: [(&str, f64); 6] =
    [("d", 86_400_000_000.0), ("h", 3_600_000_000.0), ("min", 60_000_000.0), ("s", 1_000_000.0), ("ms", 1000.0), ("us", 1.0)];

/// Converts `number` in `unit` to `base_unit`, rounding first to a multiple of the next smaller unit, as PostgreSQL does.
fn convert(number: f64, unit: &str, base_unit: &str) -> Option<f64> {
    let (multiplier, base) = match leading_integer(base_unit) {
        Some((multiplier, rest)) => (multiplier as f64, rest),
        None => (1.0, base_unit),
    };
    let table: &[(&str, f64)] = match base {
        "B" | "kB" | "MB" => &MEMORY,
        "ms" | "s" | "min" => &TIME,
        _ => return None,
    };
    let size = |name: &str| table.iter().find(|(unit, _)| *unit == name).map(|(_, size)| *size);
    let step = size(base)? * multiplier;
    let position = table.iter().position(|(name, _)| *name == unit)?;
    let value = number * table[position].1 / step;
    Some(match table.get(position + 1) {
        Some((_, smaller)) => {
            let grain = smaller / step;
            (value / grain).round_ties_even() * grain
        }
        None => value,
    })
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
            (json!("9223372036854775808"), None, None),
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
