//! What an unquoted YAML word means.
//!
//! Existing files were written for YAML 1.1 as PyYAML reads it: `off` is false but `y` is a text, `0644` is octal, `1e3`
//! is a text because it has no dot. Our parser follows another edition here and there, so plain words are decided by
//! these rules. Two forms of 1.1 are left out on purpose, because nobody means them: base-60 numbers (`12:30`) and dates
//! stay texts.

use serde_json::{Number, Value};

/// The value of the plain (unquoted, untagged) scalar `word`.
pub(super) fn resolve(word: &str) -> Value {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => integer(word).or_else(|| float(word)).unwrap_or_else(|| Value::String(word.to_owned())),
    }
}

fn integer(word: &str) -> Option<Value> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    let (digits, radix) = if let Some(rest) = digits.strip_prefix("0b") {
        (rest, 2)
    } else if let Some(rest) = digits.strip_prefix("0x") {
        (rest, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (&digits[1..], 8)
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        (digits, 10)
    } else {
        return None;
    };
    if !digits.chars().all(|c| c == '_' || c.is_digit(radix)) {
        return None;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let number = i128::from_str_radix(&digits, radix).ok()?;
    let number = if word.starts_with('-') { -number } else { number };
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => Some(number.into()),
        (_, Ok(number)) => Some(number.into()),
        _ => None,
    }
}

/// A float has a dot, digits before or after it, and an exponent only with a sign.
fn float(word: &str) -> Option<Value> {
    let unsigned = word.strip_prefix(['-', '+']).unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits = |part: &str| part.chars().all(|c| c == '_' || c.is_ascii_digit());
    let leads = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let shaped = if whole.is_empty() {
        // `.5`, which takes no sign.
        word.len() == unsigned.len() && leads(fraction) && digits(fraction)
    } else {
        leads(whole) && digits(whole) && digits(fraction)
    };
    let exponent_shaped = exponent.is_none_or(|exponent| {
        exponent.strip_prefix(['-', '+']).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    });
    if !shaped || !exponent_shaped {
        return None;
    }
    let text: String = word.chars().filter(|c| *c != '_').collect();
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::resolve;

    #[test]
    fn booleans_come_in_three_spellings() {
        for word in ["on", "Yes", "TRUE"] {
            assert_eq!(resolve(word), json!(true));
        }
        for word in ["off", "No", "FALSE"] {
            assert_eq!(resolve(word), json!(false));
        }
        for word in ["y", "n", "Y", "oN", "tRue"] {
            assert_eq!(resolve(word), json!(word));
        }
    }

    #[test]
    fn integers_have_four_bases() {
        for (word, value) in [("0644", 420), ("017", 15), ("0", 0), ("-12", -12), ("+7", 7), ("1_000", 1000), ("0x1F", 31), ("0b101", 5)] {
            assert_eq!(resolve(word), json!(value), "{word}");
        }
        for word in ["08", "0o644", "1:30", "12:30:45", "0x", "99999999999999999999999", "--1", "1a"] {
            assert_eq!(resolve(word), json!(word));
        }
        assert_eq!(resolve("18446744073709551615"), json!(u64::MAX));
    }

    #[test]
    fn floats_have_a_dot() {
        for (word, value) in [("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("-1.5e+3", -1500.0), ("1_0.5", 10.5)] {
            assert_eq!(resolve(word), json!(value), "{word}");
        }
        for word in ["1e3", "1.0e3", ".", "-.5", "1.2.3", ".inf", "1.5e+", "2024-01-01"] {
            assert_eq!(resolve(word), json!(word));
        }
    }
}
