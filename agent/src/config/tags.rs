//! This node's tags: which are published, and which contradict each other.

use dcs_core::model::Tags;
use ha_engine::settings::values;
use serde_json::{Map, Value};

/// Published only when they are true.
const SWITCHES: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];
/// A switch, and the priority that says the same in numbers.
const PAIRS: [(&str, &str); 2] = [("nofailover", "failover_priority"), ("nosync", "sync_priority")];

/// The tags as published: switches only when they are on (or when a priority that they could contradict is there),
/// everything else as it is. A switch written as a word (`"false"`) counts with its meaning.
pub(super) fn published(configured: &Map<String, Value>) -> Tags {
    let tags = configured.iter().filter_map(|(key, value)| {
        if !SWITCHES.contains(&key.as_str()) {
            return Some((key.clone(), value.clone()));
        }
        let value = match value {
            Value::String(_) => values::bool_word(value).map_or_else(|| value.clone(), Value::Bool),
            value => value.clone(),
        };
        let has_priority = PAIRS.iter().any(|(switch, priority)| switch == key && configured.contains_key(*priority));
        (values::is_set(&value) || has_priority).then(|| (key.clone(), value))
    });
    Tags(tags.collect())
}

/// What contradicts itself, in the words that operators know.
pub(super) fn contradictions(configured: &Map<String, Value>) -> Vec<String> {
    PAIRS
        .into_iter()
        .filter_map(|(switch, priority)| {
            let value = configured.get(switch)?;
            let number = configured.get(priority).and_then(|value| values::int(value, None))?;
            let on = values::switch(value);
            let shown = values::text(value);
            (on == (number > 0)).then(|| {
                format!(
                    "Conflicting configuration between {switch}: {shown} and {priority}: {number}. Defaulting to \
                     {switch}: {shown}"
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tags(value: Value) -> Value {
        Value::Object(published(value.as_object().expect("an object")).0)
    }

    fn conflicts(value: Value) -> Vec<String> {
        contradictions(value.as_object().expect("an object"))
    }

    #[test]
    fn switches_that_are_off_are_not_published_unless_a_priority_is_there() {
        assert_eq!(tags(json!({"nofailover": false, "clonefrom": false, "x": 1.5})), json!({"x": 1.5}));
        assert_eq!(
            tags(json!({"nofailover": false, "clonefrom": false, "x": 1.5, "failover_priority": 1})),
            json!({"nofailover": false, "x": 1.5, "failover_priority": 1})
        );
        assert_eq!(tags(json!({"nosync": "no", "nostream": "on"})), json!({"nostream": true}));
    }

    #[test]
    fn a_switch_and_a_priority_that_disagree_are_named() {
        assert_eq!(
            conflicts(json!({"nofailover": false, "failover_priority": 0})),
            ["Conflicting configuration between nofailover: False and failover_priority: 0. Defaulting to nofailover: False"]
        );
        assert_eq!(conflicts(json!({"nosync": true, "sync_priority": 2})).len(), 1);
        assert!(conflicts(json!({"nofailover": true, "failover_priority": 0})).is_empty());
        assert!(conflicts(json!({"failover_priority": 0})).is_empty());
    }
}
