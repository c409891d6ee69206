//! Merging server parameters: those that must be the same on every node come only from the dynamic configuration.

use ha_engine::postgres::cluster_wide::{CLUSTER_WIDE, find};
use serde_json::{Map, Value};

/// The parameters of a cluster that configures none.
pub(super) fn defaults() -> Map<String, Value> {
    CLUSTER_WIDE.iter().filter_map(|parameter| Some((parameter.name.to_owned(), parameter.default?.into()))).collect()
}

/// Lays the local parameters over `merged`. Cluster-wide ones are left out without a word.
pub(super) fn add_local(merged: &mut Map<String, Value>, local: &Map<String, Value>) {
    for (name, value) in local {
        if find(name).is_none() {
            insert(merged, name, value.clone());
        }
    }
}

/// Lays the parameters of the dynamic configuration over `merged`. A cluster-wide one that is out of bounds is refused
/// with a warning, and its default stays.
pub(super) fn add_dynamic(merged: &mut Map<String, Value>, dynamic: &Map<String, Value>, warnings: &mut Vec<String>) {
    for (name, value) in dynamic {
        match find(name).map(|parameter| parameter.accept(value)) {
            None => insert(merged, name, value.clone()),
            Some(Ok(accepted)) => insert(merged, name, accepted),
            Some(Err(warning)) => warnings.push(warning),
        }
    }
}

/// Sets a parameter; names differ only by more than their case.
fn insert(merged: &mut Map<String, Value>, name: &str, value: Value) {
    let known = merged.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned();
    merged.insert(known.unwrap_or_else(|| name.to_owned()), value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dynamic(parameters: Value) -> (Map<String, Value>, Vec<String>) {
        let (mut merged, mut warnings) = (defaults(), Vec::new());
        add_dynamic(&mut merged, parameters.as_object().expect("an object"), &mut warnings);
        (merged, warnings)
    }

    #[test]
    fn too_few_connections_are_refused_and_a_hundred_stay() {
        let (merged, warnings) = dynamic(json!({"max_connections": 10}));
        assert_eq!(merged["max_connections"], "100");
        assert_eq!(warnings, ["postgresql parameter max_connections=10 failed validation, defaulting to 100"]);
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
    fn local_values_win_except_for_what_is_cluster_wide() {
        let (mut merged, _) = dynamic(json!({"work_mem": "4MB", "max_connections": 200}));
        let local = json!({"Work_Mem": "8MB", "max_connections": 300, "archive_mode": true});
        add_local(&mut merged, local.as_object().expect("an object"));
        assert_eq!((&merged["work_mem"], &merged["max_connections"]), (&json!("8MB"), &json!(200)));
        assert_eq!(merged["archive_mode"], true);
    }
}
