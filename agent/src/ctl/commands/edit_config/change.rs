//! Reading changes and making them.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Source, yaml};
use crate::ctl::failure::Failure;

/// Reads a YAML document that must be an object. `name` says where it comes from.
pub(super) fn parse_object(text: &str, name: &str) -> Result<Map<String, Value>, Failure> {
    match parse(text, name)? {
        Value::Object(map) => Ok(map),
        _ => Err(Failure::error(format!("{name} is not a configuration: it does not contain `key: value` lines"))),
    }
}

fn parse(text: &str, name: &str) -> Result<Value, Failure> {
    let source = Arc::new(Source::Variable(name.to_owned()));
    let document = yaml::parse(text, &source).map_err(|error| Failure::error(error.to_string()))?;
    for warning in document.warnings {
        tracing::warn!("{warning}");
    }
    Ok(document.root.to_value())
}

/// Sets one value: `KEY=VALUE`, the key a path with dots, the value YAML. Null removes it, and with it every object that
/// becomes empty on the way.
///
/// Below `postgresql.parameters` the rest of the path is one name, because PostgreSQL's names may have dots.
pub(super) fn assign(config: &mut Map<String, Value>, assignment: &str) -> Result<(), Failure> {
    let invalid = || Failure::error(format!("Invalid parameter setting {assignment}"));
    let (key, text) = assignment.split_once('=').ok_or_else(invalid)?;
    let value = parse(text, &format!("the value of {}", key.trim()))?;
    set(config, &path(key.trim()), value);
    Ok(())
}

fn path(key: &str) -> Vec<&str> {
    const PARAMETERS: &str = "postgresql.parameters.";
    match key.strip_prefix(PARAMETERS) {
        Some(name) => vec!["postgresql", "parameters", name],
        None => key.split('.').collect(),
    }
}

fn set(config: &mut Map<String, Value>, path: &[&str], value: Value) {
    let [key, rest @ ..] = path else { return };
    if rest.is_empty() {
        match value {
            Value::Null => {
                config.shift_remove(*key);
            }
            value => {
                config.insert((*key).to_owned(), value);
            }
        }
        return;
    }
    let inner = config.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    if let Value::Object(inner) = inner {
        set(inner, rest, value);
        if inner.is_empty() {
            config.shift_remove(*key);
        }
    }
}

/// Whether two configurations say the same: `30` and `30.0` do, `30` and `"30"` do not.
pub(super) fn same_data(left: &Map<String, Value>, right: &Map<String, Value>) -> bool {
    left.len() == right.len() && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
}

fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => same_data(left, right),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{assign, parse_object, same_data};

    fn assigned(config: Value, assignments: &[&str]) -> Value {
        let mut config = config.as_object().expect("an object").clone();
        for assignment in assignments {
            assign(&mut config, assignment).expect("it can be set");
        }
        Value::Object(config)
    }

    #[test]
    fn values_are_yaml_and_keys_are_paths() {
        assert_eq!(
            assigned(json!({"ttl": 30}), &[" ttl =31", "a.b.c=off", "a.b.d=4MB", "a.e=[1, x]", "s='on'", "f=1.5"]),
            json!({"ttl": 31, "a": {"b": {"c": false, "d": "4MB"}, "e": [1, "x"]}, "s": "on", "f": 1.5})
        );
    }

    #[test]
    fn a_parameter_may_have_dots_in_its_name() {
        assert_eq!(
            assigned(json!({}), &["postgresql.parameters.work_mem.sub=1", "postgresql.parameters.a=b=c"]),
            json!({"postgresql": {"parameters": {"work_mem.sub": 1, "a": "b=c"}}})
        );
    }

    #[test]
    fn null_removes_and_empty_objects_go_along() {
        let config = json!({"postgresql": {"parameters": {"work_mem": "4MB"}}});
        assert_eq!(assigned(config.clone(), &["postgresql.parameters.work_mem=null"]), json!({}));
        assert_eq!(assigned(config.clone(), &["postgresql.parameters.work_mem="]), json!({}));
        assert_eq!(assigned(config.clone(), &["nothing.there=null"]), config);
    }

    #[test]
    fn a_path_through_something_else_replaces_it() {
        assert_eq!(assigned(json!({"a": 1, "b": 2}), &["a.x=1"]), json!({"a": {"x": 1}, "b": 2}));
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        let mut config = serde_json::Map::new();
        let message = |result: Result<(), crate::ctl::failure::Failure>| result.map_err(|failure| failure.to_string());
        assert_eq!(message(assign(&mut config, "ttl")), Err("Invalid parameter setting ttl".to_owned()));
        assert!(message(assign(&mut config, "ttl=[1")).is_err_and(|text| text.contains("the value of ttl")));
        for text in ["", "- a\n", "just text", "a: [1"] {
            assert!(parse_object(text, "file.yml").is_err_and(|failure| failure.to_string().contains("file.yml")), "{text}");
        }
    }

    #[test]
    fn numbers_are_the_same_by_value_and_texts_by_type() {
        let object = |value: Value| value.as_object().expect("an object").clone();
        assert!(same_data(&object(json!({"a": [30], "b": 1})), &object(json!({"b": 1.0, "a": [30.0]}))));
        for other in [json!({"a": "30"}), json!({"a": true}), json!({}), json!({"a": 30, "b": null})] {
            assert!(!same_data(&object(json!({"a": 30})), &object(other)));
        }
    }
}
