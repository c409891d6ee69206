//! Equality by text, and the merge patch of the dynamic configuration that is built on it.
//!
//! Existing agents compare scalars by their printed form, in Python's spelling: `101` and `"101"` are the same, `true` and
//! `"true"` are not (it prints as `True`). Agents of both kinds write the same keys, so both must agree on what counts
//! as a change; otherwise they would undo each other's formatting for ever.

use serde_json::{Map, Value};

/// Whether two objects have the same keys at every level and scalars (and lists) of the same text.
pub fn same_object(left: &Map<String, Value>, right: &Map<String, Value>) -> bool {
    left.len() == right.len() && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same_value(value, other)))
}

/// Whether two values are the same by the rule of [`same_object`].
pub fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => same_object(left, right),
        (Value::Object(_), _) | (_, Value::Object(_)) => false,
        _ => left == right || printed(left) == printed(right),
    }
}

/// Merges `patch` into `config` and tells whether anything changed.
///
/// Null removes a key. An object goes into an object recursively, and replaces anything else. A scalar or list replaces
/// whatever is there unless it has the same text; then what is stored stays as it is. An object that becomes empty
/// stays. A new object is stored as given, nulls included (a permanent slot may have null for its attributes).
pub fn merge_patch(config: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in patch {
        match (config.get_mut(key), value) {
            // Keeps the order of the other keys, which people see in their editor.
            (Some(_), Value::Null) => changed |= config.shift_remove(key).is_some(),
            (None, Value::Null) => {}
            (Some(Value::Object(inner)), Value::Object(patch)) => changed |= merge_patch(inner, patch),
            (Some(present), _) if same_value(present, value) => {}
            (Some(present), _) => {
                *present = value.clone();
                changed = true;
            }
            (None, _) => {
                config.insert(key.clone(), value.clone());
                changed = true;
            }
        }
    }
    changed
}

/// The text form that decides about equality.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => quoted(other),
    }
}

/// The text form inside a list, where strings stand in quotes.
fn quoted(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(list) => format!("[{}]", list.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key:?}: {}", quoted(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(config: Value, patch: Value) -> (Value, bool) {
        let (Value::Object(mut config), Value::Object(patch)) = (config, patch) else { panic!("objects") };
        let changed = merge_patch(&mut config, &patch);
        (Value::Object(config), changed)
    }

    #[test]
    fn numbers_and_their_text_are_the_same_and_booleans_and_theirs_are_not() {
        assert!(same_value(&json!(101), &json!("101")));
        assert!(same_value(&json!(1.5), &json!("1.5")));
        assert!(!same_value(&json!(true), &json!("true")));
        assert!(same_value(&json!(true), &json!("True")));
        assert!(!same_value(&json!([1]), &json!(["1"])));
        assert!(same_value(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"c": "2", "b": "1"}})));
        assert!(!same_value(&json!({"a": 1}), &json!({"a": 1, "b": 1})));
        assert!(!same_value(&json!({}), &json!("{}")));
    }

    #[test]
    fn null_removes_one_parameter_and_leaves_the_emptied_object() {
        let config = json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 100}}});
        let (config, changed) = patched(config, json!({"postgresql": {"parameters": {"max_connections": null}}}));
        assert_eq!(config, json!({"ttl": 30, "postgresql": {"parameters": {}}}));
        assert!(changed);
    }

    #[test]
    fn what_has_the_same_text_is_not_a_change_and_keeps_its_form() {
        let (config, changed) = patched(json!({"a": "101", "b": "x"}), json!({"a": 101, "b": "x", "c": null}));
        assert_eq!(config, json!({"a": "101", "b": "x"}));
        assert!(!changed);
        let (config, changed) = patched(json!({"a": "true"}), json!({"a": true}));
        assert_eq!(config, json!({"a": true}));
        assert!(changed);
    }

    #[test]
    fn objects_replace_scalars_and_scalars_replace_objects() {
        let (config, changed) = patched(json!({"a": 1, "b": {"c": 2}}), json!({"a": {"x": 1}, "b": 3}));
        assert_eq!(config, json!({"a": {"x": 1}, "b": 3}));
        assert!(changed);
    }

    #[test]
    fn a_new_object_is_stored_as_given() {
        let (config, changed) = patched(json!({}), json!({"slots": {"permanent": null}}));
        assert_eq!(config, json!({"slots": {"permanent": null}}));
        assert!(changed);
    }
}
