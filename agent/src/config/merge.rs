//! The effective configuration: defaults, what the dynamic document may set, and the local configuration on top.
//!
//! ```text
//!   defaults ◄── dynamic (filtered) ◄── local (key by key) ◄── old layouts brought into the present one
//! ```
//!
//! Everything here is a pure function of trees.

use ha_engine::settings::values;
use serde_json::{Map, Value, json};

use super::cluster_wide;
use super::env::AUTHENTICATION_KEYS;
use super::error::{KeyError, KeyPlace};

/// Keys of `postgresql` that belong to one node. In the dynamic document they are dropped without a word.
const LOCAL_ONLY: [&str; 7] = ["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"];

/// The effective configuration, still as a tree.
#[derive(Debug)]
pub(super) struct Merged {
    /// Without the dynamic document's own keys, which `GlobalConfig` reads.
    pub(super) tree: Map<String, Value>,
    /// What was refused.
    pub(super) warnings: Vec<String>,
}

/// Merges `dynamic` and `local`.
pub(super) fn effective(dynamic: &Map<String, Value>, local: &Map<String, Value>) -> Result<Merged, KeyError> {
    let mut warnings = Vec::new();
    let mut postgresql = Map::new();
    let mut parameters = cluster_wide::defaults();
    postgresql.insert("use_slots".to_owned(), Value::Bool(true));

    let dynamic_section = mapping(dynamic.get("postgresql"), "postgresql", KeyPlace::Dynamic)?;
    for (key, value) in dynamic_section.into_iter().flatten() {
        match key.as_str() {
            "parameters" => {
                if let Some(configured) = parameters_of(value, KeyPlace::Dynamic)? {
                    cluster_wide::add_dynamic(&mut parameters, configured, &mut warnings);
                }
            }
            key if LOCAL_ONLY.contains(&key) => {}
            key => {
                postgresql.insert(key.to_owned(), value.clone());
            }
        }
    }

    let mut tree = Map::new();
    for (key, value) in local {
        match key.as_str() {
            "postgresql" => {
                let section = mapping(Some(value), "postgresql", KeyPlace::Unknown)?;
                for (key, value) in section.into_iter().flatten() {
                    match key.as_str() {
                        "parameters" => {
                            if let Some(configured) = parameters_of(value, KeyPlace::Unknown)? {
                                cluster_wide::add_local(&mut parameters, configured);
                            }
                        }
                        "use_slots" => {}
                        key => {
                            postgresql.insert(key.to_owned(), value.clone());
                        }
                    }
                }
            }
            // Cluster-wide: only the document in the store has a say.
            "ttl" | "loop_wait" | "retry_timeout" | "standby_cluster" => {}
            "citus" if !is_citus(value) => {}
            key => {
                let value = if values::is_set(value) { value.clone() } else { json!({}) };
                tree.insert(key.to_owned(), value);
            }
        }
    }

    modernise(&mut tree, &mut postgresql);
    postgresql.insert("parameters".to_owned(), Value::Object(parameters));
    tree.insert("postgresql".to_owned(), Value::Object(postgresql));
    Ok(Merged { tree, warnings })
}

/// Brings layouts of old files into the present one.
fn modernise(tree: &mut Map<String, Value>, postgresql: &mut Map<String, Value>) {
    if let Some(exhibitor) = tree.get_mut("zookeeper").and_then(|section| section.as_object_mut()?.remove("exhibitor")) {
        tree.remove("zookeeper");
        tree.insert("exhibitor".to_owned(), exhibitor);
    }

    let mut authentication = match postgresql.remove("authentication") {
        Some(Value::Object(users)) => users,
        Some(_) => Map::new(),
        None => {
            postgresql.insert("use_pg_rewind".to_owned(), Value::Bool(postgresql.contains_key("pg_rewind")));
            ["replication", "superuser"].into_iter().filter_map(|user| Some((user.to_owned(), postgresql.get(user)?.clone()))).collect()
        }
    };
    if !authentication.contains_key("superuser")
        && let Some(user) = postgresql.get("pg_rewind")
    {
        authentication.insert("superuser".to_owned(), user.clone());
    }
    for user in authentication.values_mut() {
        if let Value::Object(settings) = user {
            settings.retain(|key, _| AUTHENTICATION_KEYS.contains(&key.as_str()));
        }
    }
    postgresql.insert("authentication".to_owned(), Value::Object(authentication));

    if !tree.contains_key("name")
        && let Some(name) = postgresql.get("name")
    {
        tree.insert("name".to_owned(), name.clone());
    }
}

/// Whether a `citus` section is complete; others are dropped.
pub(super) fn is_citus(value: &Value) -> bool {
    value.get("group").is_some_and(|group| group.is_i64() || group.is_u64()) && value.get("database").is_some_and(Value::is_string)
}

fn parameters_of(value: &Value, place: KeyPlace) -> Result<Option<&Map<String, Value>>, KeyError> {
    match value {
        Value::Object(parameters) => Ok(Some(parameters)),
        value if values::is_set(value) => Err(KeyError {
            key: "postgresql.parameters".to_owned(),
            place,
            problem: "postgresql.parameters is not a dictionary".to_owned(),
            hint: Some("write one `name: value` per line below it".to_owned()),
        }),
        _ => Ok(None),
    }
}

fn mapping<'a>(value: Option<&'a Value>, key: &str, place: KeyPlace) -> Result<Option<&'a Map<String, Value>>, KeyError> {
    match value {
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(value) if values::is_set(value) => {
            Err(KeyError { key: key.to_owned(), place, problem: format!("`{key}` must be a mapping"), hint: None })
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(dynamic: Value, local: Value) -> Value {
        let object = |value: Value| value.as_object().expect("an object").clone();
        Value::Object(effective(&object(dynamic), &object(local)).expect("mergeable").tree)
    }

    #[test]
    fn cluster_wide_settings_have_no_effect_in_the_local_file() {
        let tree = merged(
            json!({}),
            json!({"ttl": 99, "loop_wait": 1, "retry_timeout": 1, "standby_cluster": {"host": "x"},
                   "postgresql": {"use_slots": false}}),
        );
        for key in ["ttl", "loop_wait", "retry_timeout", "standby_cluster"] {
            assert_eq!(tree.get(key), None, "{key}");
        }
        assert_eq!(tree["postgresql"]["use_slots"], true);
        let dynamic = json!({"postgresql": {"use_slots": false}});
        assert_eq!(merged(dynamic, json!({}))["postgresql"]["use_slots"], false);
    }

    #[test]
    fn a_local_list_hides_the_dynamic_one_entirely() {
        let dynamic = json!({"postgresql": {"pg_hba": ["a", "b"], "recovery_conf": {"x": 1}, "pg_ident": ["c"]}});
        let local = json!({"postgresql": {"pg_hba": ["d"], "recovery_conf": {"y": 2}}});
        let tree = merged(dynamic, local);
        assert_eq!(tree["postgresql"]["pg_hba"], json!(["d"]));
        assert_eq!(tree["postgresql"]["recovery_conf"], json!({"y": 2}));
        assert_eq!(tree["postgresql"]["pg_ident"], json!(["c"]));
    }

    #[test]
    fn what_belongs_to_one_node_is_dropped_from_the_document_without_a_word() {
        let dynamic = json!({"postgresql": {
            "listen": "x", "authentication": {"superuser": {"username": "x"}}, "data_dir": "x", "pgpass": "x",
        }});
        let result = effective(dynamic.as_object().expect("an object"), &Map::new()).expect("mergeable");
        assert!(result.warnings.is_empty());
        assert_eq!(result.tree["postgresql"].get("listen"), None);
        assert_eq!(result.tree["postgresql"]["authentication"], json!({}));
    }

    #[test]
    fn parameters_that_are_no_mapping_are_refused() {
        for (dynamic, local) in
            [(json!({"postgresql": {"parameters": [1]}}), json!({})), (json!({}), json!({"postgresql": {"parameters": "x"}}))]
        {
            let error = effective(dynamic.as_object().expect("one"), local.as_object().expect("one")).expect_err("refused");
            assert!(error.to_string().contains("postgresql.parameters is not a dictionary"), "{error}");
        }
    }

    #[test]
    fn users_of_the_first_layout_are_found() {
        let tree = merged(
            json!({}),
            json!({"postgresql": {
                "name": "n", "replication": {"username": "r", "password": "p", "network": "1.2.3.0/24"},
                "pg_rewind": {"username": "w"},
            }}),
        );
        assert_eq!(
            tree["postgresql"]["authentication"],
            json!({"replication": {"username": "r", "password": "p"}, "superuser": {"username": "w"}})
        );
        assert_eq!(tree["postgresql"]["use_pg_rewind"], true);
        assert_eq!(tree["name"], "n");
    }

    #[test]
    fn exhibitor_inside_zookeeper_is_a_section_of_its_own() {
        let tree = merged(json!({}), json!({"zookeeper": {"exhibitor": {"port": 8181}}}));
        assert_eq!(tree["exhibitor"], json!({"port": 8181}));
        assert_eq!(tree.get("zookeeper"), None);
    }

    #[test]
    fn an_incomplete_citus_section_is_dropped() {
        assert_eq!(merged(json!({}), json!({"citus": {"group": "0"}})).get("citus"), None);
        assert!(merged(json!({}), json!({"citus": {"group": 0, "database": "d"}})).get("citus").is_some());
    }
}
