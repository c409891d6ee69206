//! The server parameters that must be the same on every node, so that only the dynamic configuration sets them.

use ha_engine::settings::values;
use serde_json::{Map, Value, json};

/// What a cluster-wide parameter may be.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// Nothing: it follows from other settings.
    Never,
    /// A boolean word.
    Word,
    /// A boolean word that means true.
    True,
    /// One of the labels, in any case.
    Label(&'static [&'static str]),
    /// A number of at least that much, in the unit.
    AtLeast(i64, Option<&'static str>),
}

const TABLE: [(&str, Check); 15] = [
    ("listen_addresses", Check::Never),
    ("port", Check::Never),
    ("cluster_name", Check::Never),
    ("wal_level", Check::Label(&["hot_standby", "replica", "logical"])),
    ("hot_standby", Check::True),
    ("max_connections", Check::AtLeast(25, None)),
    ("max_wal_senders", Check::AtLeast(3, None)),
    ("wal_keep_segments", Check::AtLeast(1, None)),
    ("wal_keep_size", Check::AtLeast(16, Some("MB"))),
    ("max_prepared_transactions", Check::AtLeast(0, None)),
    ("max_locks_per_transaction", Check::AtLeast(32, None)),
    ("track_commit_timestamp", Check::Word),
    ("max_replication_slots", Check::AtLeast(4, None)),
    ("max_worker_processes", Check::AtLeast(2, None)),
    ("wal_log_hints", Check::Word),
];

/// The parameters of a cluster that configures none.
pub(super) fn defaults() -> Map<String, Value> {
    let parameters = json!({
        "wal_level": "hot_standby",
        "hot_standby": "on",
        "max_connections": 100,
        "max_wal_senders": 10,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
        "track_commit_timestamp": "off",
        "max_replication_slots": 10,
        "max_worker_processes": 8,
        "wal_log_hints": "on",
    });
    match parameters {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    }
}

/// What stands in for a refused value.
fn default_of(name: &str) -> Value {
    match name {
        "wal_keep_segments" => json!(8),
        "wal_keep_size" => json!("128MB"),
        name => defaults().remove(name).unwrap_or(Value::Null),
    }
}

fn check_of(name: &str) -> Option<(&'static str, Check)> {
    TABLE.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).copied()
}

/// Lays the local parameters over `merged`. Cluster-wide ones are left out without a word.
pub(super) fn add_local(merged: &mut Map<String, Value>, local: &Map<String, Value>) {
    for (name, value) in local {
        if check_of(name).is_none() {
            insert(merged, name, value.clone());
        }
    }
}

/// Lays the parameters of the dynamic configuration over `merged`. A cluster-wide one that is out of bounds is refused
/// with a warning, and its default stays.
pub(super) fn add_dynamic(merged: &mut Map<String, Value>, dynamic: &Map<String, Value>, warnings: &mut Vec<String>) {
    for (name, value) in dynamic {
        let Some((known, check)) = check_of(name) else {
            insert(merged, name, value.clone());
            continue;
        };
        match accept(check, value) {
            Some(accepted) => insert(merged, name, accepted),
            None => warnings.push(format!(
                "postgresql parameter {name}={} failed validation, defaulting to {}",
                values::text(value),
                values::text(&default_of(known)),
            )),
        }
    }
}

fn accept(check: Check, value: &Value) -> Option<Value> {
    let accepted = match check {
        Check::Never => false,
        Check::Word => values::bool_word(value).is_some(),
        Check::True => values::bool_word(value) == Some(true),
        Check::Label(labels) => value.as_str().is_some_and(|text| labels.iter().any(|label| label.eq_ignore_ascii_case(text))),
        Check::AtLeast(least, unit) => {
            let in_bounds = values::int(value, unit).is_some_and(|number| number >= least);
            return in_bounds.then(|| values::int(value, None).map_or_else(|| value.clone(), Value::from));
        }
    };
    accepted.then(|| value.clone())
}

/// Sets a parameter; names differ only by more than their case.
fn insert(merged: &mut Map<String, Value>, name: &str, value: Value) {
    let known = merged.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned();
    merged.insert(known.unwrap_or_else(|| name.to_owned()), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(parameters: Value) -> (Map<String, Value>, Vec<String>) {
        let (mut merged, mut warnings) = (defaults(), Vec::new());
        add_dynamic(&mut merged, parameters.as_object().expect("an object"), &mut warnings);
        (merged, warnings)
    }

    #[test]
    fn too_few_connections_are_refused_and_a_hundred_stay() {
        let (merged, warnings) = dynamic(json!({"max_connections": 10}));
        assert_eq!(merged["max_connections"], 100);
        assert_eq!(warnings, ["postgresql parameter max_connections=10 failed validation, defaulting to 100"]);
    }

    #[test]
    fn minimal_wal_is_refused_and_its_other_levels_are_accepted() {
        let (merged, warnings) = dynamic(json!({"wal_level": "minimal"}));
        assert_eq!((&merged["wal_level"], warnings.len()), (&json!("hot_standby"), 1));
        for level in ["replica", "hot_standby", "LOGICAL"] {
            let (merged, warnings) = dynamic(json!({"wal_level": level}));
            assert_eq!((&merged["wal_level"], warnings.len()), (&json!(level), 0));
        }
    }

    #[test]
    fn numbers_are_normalised_and_units_stay() {
        let (merged, warnings) =
            dynamic(json!({"Max_Connections": "0x100", "wal_keep_size": "1GB", "wal_log_hints": false, "work_mem": "1"}));
        assert_eq!(merged["max_connections"], 256);
        assert_eq!(merged["wal_keep_size"], "1GB");
        assert_eq!(merged["wal_log_hints"], false);
        assert_eq!(merged["work_mem"], "1");
        assert!(warnings.is_empty());
    }

    #[test]
    fn addresses_and_hot_standby_are_not_for_the_document() {
        let (merged, warnings) = dynamic(json!({"port": 1, "hot_standby": "off", "wal_keep_size": "1MB"}));
        assert_eq!((merged.get("port"), &merged["hot_standby"]), (None, &json!("on")));
        assert_eq!(
            warnings,
            [
                "postgresql parameter port=1 failed validation, defaulting to None",
                "postgresql parameter hot_standby=off failed validation, defaulting to on",
                "postgresql parameter wal_keep_size=1MB failed validation, defaulting to 128MB",
            ]
        );
    }

    #[test]
    fn local_values_win_except_for_what_is_cluster_wide() {
        let (mut merged, _) = dynamic(json!({"work_mem": "4MB", "max_connections": 200}));
        let local = json!({"Work_Mem": "8MB", "max_connections": 300, "archive_mode": true});
        add_local(&mut merged, local.as_object().expect("an object"));
        assert_eq!((&merged["work_mem"], &merged["max_connections"]), (&json!("8MB"), &json!(200)));
        assert_eq!(merged["archive_mode"], true);
    }
}
