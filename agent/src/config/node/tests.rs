//! Whatever is configured, an answer comes back.

use ha_engine::settings::ReplicaMethod;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::config::{Environment, LocalConfig, yaml};

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-10.0..1e12_f64).prop_map(Value::from),
        "[-a-z0-9:,.*'\"\\[\\] %()]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::vec(("(command|username|password|host|hosts|on_start|initdb|[a-z]{1,5})", inner), 0..3)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

const PATHS: &str = "(name|scope|namespace|tags|watchdog|quorate|citus|etcd3|consul|zookeeper|log|ctl|bootstrap|restapi|postgresql|\
    log\\.(level|format|type|dir|file_size|loggers|static_fields)|restapi\\.(listen|authentication|allowlist|http_extra_headers|certfile)|\
    bootstrap\\.(dcs|method|users|initdb|pg_hba|post_init)|tags\\.(nofailover|failover_priority|x)|watchdog\\.mode|quorate\\.lease_guard|\
    postgresql\\.(listen|data_dir|parameters|pg_hba|callbacks|authentication|recovery_conf|basebackup|create_replica_methods|wal_g|\
    pg_ctl_timeout|bin_name|use_slots|replication|pg_rewind))";

fn set(tree: &mut Value, path: &str, value: Value) {
    let (section, key) = path.split_once('.').map_or((None, path), |(section, key)| (Some(section), key));
    let target = match section {
        Some(section) => match tree.get_mut(section) {
            Some(section) if section.is_object() => section,
            _ => return,
        },
        None => tree,
    };
    target[key] = value;
}

fn good() -> Value {
    json!({
        "name": "n", "scope": "s", "restapi": {"listen": "a:1"}, "etcd3": {"host": "a"}, "log": {}, "tags": {}, "bootstrap": {"dcs": {}},
        "watchdog": {}, "quorate": {},
        "postgresql": {"listen": "a", "data_dir": "/nonexistent", "authentication": {"superuser": {"username": "u"}}},
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_values_make_the_settings_panic(
        changes in proptest::collection::vec((PATHS, anything()), 0..6),
        dynamic in proptest::collection::vec(("(ttl|pause|slots|postgresql|standby_cluster|quorate|loop_wait)", anything()), 0..3),
    ) {
        let mut tree = good();
        for (path, value) in changes {
            set(&mut tree, &path, value);
        }
        let text = yaml::block(&tree);
        let environment = Environment::read([("PATRONI_CONFIGURATION", text.as_str())]);
        let Ok(local) = LocalConfig::load(None, environment) else { return Ok(()) };
        let dynamic: Map<String, Value> = dynamic.into_iter().collect();
        for (settings, _) in [super::effective(&local, &Map::new()), super::effective(&local, &dynamic)].into_iter().flatten() {
            prop_assert!(!settings.postgresql.create_replica_methods.is_empty());
            prop_assert!(!settings.scope.is_empty());
        }
        let _ = super::check_watchdog(&local);
        let _ = super::remarks(&local);
        if let Ok((log, _)) = local.log() {
            let _ = format!("{log:?}");
        }
        let _ = (local.rest_api(), local.ctl());
        if let Ok(store) = local.store() {
            let _ = crate::stores::check(&store);
        }
    }
}

#[test]
fn members_of_a_standby_cluster_are_built_as_its_section_says() {
    let mut tree = good();
    tree["postgresql"]["create_replica_methods"] = json!(["wal_g", "basebackup"]);
    tree["postgresql"]["wal_g"] = json!({"command": "wal-g", "no_leader": true});
    tree["postgresql"]["barman"] = json!({"command": "barman recover"});
    let text = yaml::block(&tree);
    let local = LocalConfig::load(None, Environment::read([("PATRONI_CONFIGURATION", text.as_str())])).expect("it can be read");
    let methods = |standby_cluster: Value| {
        let dynamic = Map::from_iter([("standby_cluster".to_owned(), standby_cluster)]);
        let (settings, _) = super::effective(&local, &dynamic).expect("it can be used");
        let name = |method: &ReplicaMethod| match method {
            ReplicaMethod::BaseBackup(_) => "basebackup".to_owned(),
            ReplicaMethod::Custom { name, .. } => name.clone(),
        };
        settings.postgresql.create_replica_methods.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(methods(json!({"host": "x", "create_replica_methods": ["barman", "basebackup"]})), ["barman", "basebackup"]);
    assert_eq!(methods(json!({"host": "x"})), ["basebackup"], "the other list is not consulted");
    assert_eq!(methods(json!({"primary_slot_name": "x", "create_replica_methods": ["barman"]})), ["wal_g", "basebackup"], "C12-5");
}
