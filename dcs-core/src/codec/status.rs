//! `status`, `optime/leader` and `failsafe`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Decoded, json, kind, numbers};
use crate::model::{Lsn, Status};

/// The status as stored; slots and retained slots only if there are any.
pub fn encode_status(status: &Status) -> String {
    let mut object = Map::new();
    object.insert("optime".to_owned(), status.last_lsn.0.into());
    if let Some(slots) = status.slots.as_ref().filter(|slots| !slots.is_empty()) {
        let slots: Map<_, _> = slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
        object.insert("slots".to_owned(), Value::Object(slots));
    }
    if !status.retain_slots.is_empty() {
        object.insert("retain_slots".to_owned(), status.retain_slots.clone().into());
    }
    Value::Object(object).to_string()
}

/// Reads `status`. A bare integer is the position alone.
pub fn decode_status(bytes: &[u8]) -> Decoded<Status> {
    let value = match json(bytes) {
        Ok(value) => value,
        Err(problem) => return Decoded::damaged(Status::default(), problem),
    };
    let object = match &value {
        Value::Object(object) => object,
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            return match numbers::lsn(&value) {
                Some(last_lsn) => Decoded::good(Status { last_lsn, ..Status::default() }),
                None => Decoded::damaged(Status::default(), "it is a negative position"),
            };
        }
        other => return Decoded::damaged(Status::default(), format!("it is {}, not an object", kind(other))),
    };
    let mut wrong = Vec::new();
    let status = Status {
        last_lsn: match object.get("optime") {
            None | Some(Value::Null) => Lsn::ZERO,
            Some(optime) => numbers::lsn(optime).unwrap_or_else(|| {
                wrong.push("optime");
                Lsn::ZERO
            }),
        },
        slots: unwrapped(object.get("slots")).and_then(|slots| match slots {
            Value::Object(slots) => Some(positions(&slots)),
            _ => {
                wrong.push("slots");
                None
            }
        }),
        retain_slots: unwrapped(object.get("retain_slots")).map_or_else(Vec::new, |retained| match retained {
            Value::Array(names) => names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            _ => {
                wrong.push("retain_slots");
                Vec::new()
            }
        }),
    };
    let problem = (!wrong.is_empty()).then(|| format!("it has fields of the wrong type: {}", wrong.join(", ")));
    Decoded::with(status, problem)
}

/// Reads `optime/leader`, a decimal integer as text.
pub fn decode_optime(bytes: &[u8]) -> Decoded<Lsn> {
    match std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()) {
        Some(position) => Decoded::good(Lsn(position)),
        None => Decoded::damaged(Lsn::ZERO, "it is not a decimal integer"),
    }
}

/// Reads `failsafe`. JSON of another kind is kept, for the REST API to complain about; it is not usable.
pub fn decode_failsafe(bytes: &[u8]) -> Decoded<Option<Value>> {
    match json(bytes) {
        Ok(Value::Object(members)) => Decoded::good(Some(Value::Object(members))),
        Ok(other) => {
            let problem = format!("it is {}, not an object", kind(&other));
            Decoded::damaged(Some(other), problem)
        }
        Err(problem) => Decoded::damaged(None, problem),
    }
}

/// A field that may be JSON inside a string, as the annotations of Kubernetes have it. Absent and null are nothing.
fn unwrapped(field: Option<&Value>) -> Option<Value> {
    match field? {
        Value::Null => None,
        Value::String(text) => Some(serde_json::from_str(text).unwrap_or(Value::Null)),
        other => Some(other.clone()),
    }
}

fn positions(slots: &Map<String, Value>) -> BTreeMap<String, Lsn> {
    slots.iter().map(|(name, position)| (name.clone(), numbers::lsn(position).unwrap_or(Lsn::ZERO))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(pairs: &[(&str, u64)]) -> Option<BTreeMap<String, Lsn>> {
        Some(pairs.iter().map(|(name, position)| ((*name).to_owned(), Lsn(*position))).collect())
    }

    #[test]
    fn it_is_written_without_what_is_empty() {
        assert_eq!(encode_status(&Status { last_lsn: Lsn(42), ..Status::default() }), r#"{"optime":42}"#);
        assert_eq!(encode_status(&Status { slots: slots(&[]), ..Status::default() }), r#"{"optime":0}"#);
        let full = Status { last_lsn: Lsn(42), slots: slots(&[("b", 2), ("a", 1)]), retain_slots: vec!["c".into()] };
        assert_eq!(encode_status(&full), r#"{"optime":42,"slots":{"a":1,"b":2},"retain_slots":["c"]}"#);
        assert_eq!(decode_status(encode_status(&full).as_bytes()), Decoded::good(full));
    }

    #[test]
    fn what_is_not_json_is_nothing() {
        for text in ["", "garbage", "{", "[1]", "\"5\"", "null", "1.5", "-7"] {
            let decoded = decode_status(text.as_bytes());
            assert_eq!(decoded.value, Status::default(), "{text}");
            assert!(decoded.problem.is_some(), "{text}");
        }
    }

    #[test]
    fn a_bare_integer_is_the_position() {
        assert_eq!(decode_status(b"42"), Decoded::good(Status { last_lsn: Lsn(42), ..Status::default() }));
    }

    #[test]
    fn an_unreadable_position_is_zero_and_the_rest_is_kept() {
        let decoded = decode_status(br#"{"optime":"x","slots":{"a":1}}"#);
        assert_eq!(decoded.value, Status { slots: slots(&[("a", 1)]), ..Status::default() });
        assert!(decoded.problem.is_some());
        assert_eq!(decode_status(br#"{"optime":"42"}"#).value.last_lsn, Lsn(42));
        assert_eq!(decode_status(b"{}"), Decoded::good(Status::default()));
    }

    #[test]
    fn slots_may_be_json_in_a_string_and_nothing_else() {
        assert_eq!(decode_status(br#"{"slots":"{\"a\":1}"}"#).value.slots, slots(&[("a", 1)]));
        for text in [r#"{"slots":[1]}"#, r#"{"slots":"x"}"#, r#"{"slots":7}"#] {
            assert_eq!(decode_status(text.as_bytes()).value.slots, None, "{text}");
        }
    }

    #[test]
    fn retained_slots_may_be_json_in_a_string_and_nothing_else() {
        let retained = |text: &str| decode_status(text.as_bytes()).value.retain_slots;
        assert_eq!(retained(r#"{"retain_slots":["a","b"]}"#), ["a", "b"]);
        assert_eq!(retained(r#"{"retain_slots":"[\"a\"]"}"#), ["a"]);
        assert!(retained(r#"{"retain_slots":{"a":1}}"#).is_empty());
        assert!(retained(r#"{"retain_slots":"x"}"#).is_empty());
    }

    #[test]
    fn a_slot_without_a_number_is_at_zero() {
        let decoded = decode_status(br#"{"slots":{"a":"x","b":null,"c":"3","d":-1}}"#);
        assert_eq!(decoded.value.slots, slots(&[("a", 0), ("b", 0), ("c", 3), ("d", 0)]));
    }

    #[test]
    fn the_legacy_position_is_a_decimal_integer() {
        assert_eq!(decode_optime(b"42"), Decoded::good(Lsn(42)));
        assert_eq!(decode_optime(b"x").value, Lsn::ZERO);
        assert_eq!(decode_optime(b"\xff").value, Lsn::ZERO);
    }

    #[test]
    fn failsafe_that_is_no_object_is_kept_and_reported() {
        assert_eq!(decode_failsafe(b"garbage").value, None);
        let list = decode_failsafe(b"[1]");
        assert_eq!(list.value, Some(serde_json::json!([1])));
        assert!(list.problem.is_some());
        assert_eq!(decode_failsafe(br#"{"a":"u"}"#), Decoded::good(Some(serde_json::json!({"a": "u"}))));
    }
}
