//! Numbers as other agents write them: sometimes as text, sometimes with a fraction.

use serde_json::Value;

use crate::model::Lsn;

/// An integer from a number (its fraction cut off) or its text; nothing for everything else.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// An integer that is not negative.
pub(super) fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) if number.is_u64() => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        other => u64::try_from(integer(other)?).ok(),
    }
}

/// A WAL position in bytes.
pub(super) fn lsn(value: &Value) -> Option<Lsn> {
    unsigned(value).map(Lsn)
}

fn whole(float: f64) -> Option<i64> {
    let fits = float.is_finite() && float.abs() < 9.0e18;
    #[expect(clippy::cast_possible_truncation, reason = "cutting the fraction off is meant, and it fits")]
    fits.then_some(float as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_are_read_from_numbers_and_from_text() {
        assert_eq!(integer(&json!(-5)), Some(-5));
        assert_eq!(integer(&json!("42 ")), Some(42));
        assert_eq!(integer(&json!(1.9)), Some(1));
        assert_eq!(unsigned(&json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(unsigned(&json!(-1)), None);
        for not in [json!(1e300), json!("x"), json!(null), json!(true), json!([1])] {
            assert_eq!(integer(&not), None, "{not}");
        }
    }
}
