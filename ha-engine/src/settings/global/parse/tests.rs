//! The document's rules, each under its own name.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{GlobalConfig, LeaseGuardMode, SyncMode};

fn document(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn read(value: Value) -> (GlobalConfig, Vec<String>) {
    GlobalConfig::from_document(&document(value)).expect("a usable document")
}

fn config(value: Value) -> GlobalConfig {
    read(value).0
}

fn timings(config: &GlobalConfig) -> (u64, u64, u64) {
    (config.ttl.as_secs(), config.loop_wait.as_secs(), config.retry_timeout.as_secs())
}

#[test]
fn an_empty_document_means_the_defaults() {
    let (config, warnings) = read(json!({}));
    assert_eq!(timings(&config), (30, 10, 10));
    assert_eq!(config.maximum_lag_on_failover, 1_048_576);
    assert_eq!(config.maximum_lag_on_syncnode, -1);
    assert_eq!(config.primary_start_timeout, Duration::from_secs(300));
    assert_eq!(config.primary_stop_timeout, Duration::ZERO);
    assert_eq!(config.member_slots_ttl, Duration::from_secs(1800));
    assert_eq!(config.synchronous_node_count, 1);
    assert_eq!(config.lease_guard, LeaseGuardMode::Automatic);
    assert_eq!((config.pause, config.failsafe_mode, config.check_timeline), (false, false, false));
    assert_eq!(config.standby_cluster, None);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn timings_below_their_minimum_are_raised_and_the_document_keeps_its_numbers() {
    let (config, warnings) = read(json!({"ttl": 10, "loop_wait": 0, "retry_timeout": 1}));
    assert_eq!(timings(&config), (20, 1, 3));
    assert_eq!(config.document["ttl"], 10);
    assert_eq!(
        warnings,
        [
            "loop_wait=0 can't be smaller than 1, adjusting...",
            "retry_timeout=1 can't be smaller than 3, adjusting...",
            "ttl=10 can't be smaller than 20, adjusting...",
        ]
    );
}

#[test]
fn retry_timeout_yields_only_when_loop_wait_cannot() {
    let (config, warnings) = read(json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}));
    assert_eq!(timings(&config), (20, 1, 9));
    assert_eq!(
        warnings,
        ["Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=20. Adjusting loop_wait from 10 to 1 and \
          retry_timeout from 10 to 9"]
    );

    let (config, warnings) = read(json!({"ttl": 25, "loop_wait": 10, "retry_timeout": 10}));
    assert_eq!(timings(&config), (25, 5, 10));
    assert_eq!(
        warnings,
        ["Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=25 and retry_timeout=10. Adjusting \
          loop_wait from 10 to 5"]
    );
}

#[test]
fn low_ttl_lowers_the_minimums_and_keeps_the_arithmetic() {
    let low = json!({"low_ttl": true});
    assert_eq!(timings(&config(json!({"ttl": 6, "loop_wait": 1, "retry_timeout": 2, "quorate": low}))), (6, 1, 2));
    assert_eq!(timings(&config(json!({"ttl": 1, "loop_wait": 0, "retry_timeout": 0, "quorate": low}))), (5, 1, 1));
    assert_eq!(timings(&config(json!({"ttl": 6, "quorate": low}))), (6, 1, 2));
    assert_eq!(timings(&config(json!({"ttl": 6, "quorate": {"low_ttl": false}}))), (20, 1, 9));
}

#[test]
fn a_ttl_that_is_no_number_is_refused_and_the_modes_are_still_read() {
    let former = config(json!({"ttl": 40}));
    let broken = document(json!({"ttl": "abc", "pause": true}));
    let error = GlobalConfig::from_document(&broken).expect_err("not a number");
    assert_eq!(error.to_string(), "`ttl` in the dynamic configuration is abc, and must be a whole number of seconds, without unit");
    let used = former.with_modes_of(&broken);
    assert_eq!((used.ttl.as_secs(), used.pause), (40, true));
}

#[test]
fn numbers_may_be_texts() {
    assert_eq!(timings(&config(json!({"ttl": "40", "loop_wait": 5.7}))), (40, 5, 10));
    assert!(GlobalConfig::from_document(&document(json!({"ttl": null}))).is_err());
    assert!(GlobalConfig::from_document(&document(json!({"ttl": "30s"}))).is_err());
}

#[test]
fn the_cache_keeps_the_numbers_that_are_used() {
    let stored = document(json!({"ttl": 10, "loop_wait": 5, "x": 1}));
    let adjusted = GlobalConfig::adjusted_document(&stored).expect("a usable document");
    assert_eq!(Value::from(adjusted), json!({"ttl": 20, "loop_wait": 1, "x": 1, "retry_timeout": 9}));
}

#[test]
fn the_old_name_of_a_timeout_counts_only_without_the_new_one() {
    assert_eq!(config(json!({"master_start_timeout": 0})).primary_start_timeout, Duration::ZERO);
    let both = config(json!({"master_start_timeout": 0, "primary_start_timeout": 300}));
    assert_eq!(both.primary_start_timeout, Duration::from_secs(300));
    assert_eq!(config(json!({"master_stop_timeout": 7})).primary_stop_timeout, Duration::from_secs(7));
}

#[test]
fn a_lag_with_a_unit_is_the_default() {
    assert_eq!(config(json!({"maximum_lag_on_failover": "2MB"})).maximum_lag_on_failover, 1_048_576);
    assert_eq!(config(json!({"maximum_lag_on_failover": "2097152"})).maximum_lag_on_failover, 2_097_152);
}

#[test]
fn the_life_of_member_slots_may_have_a_unit() {
    for value in [json!("5min"), json!(300), json!("300s")] {
        assert_eq!(config(json!({"member_slots_ttl": value})).member_slots_ttl, Duration::from_secs(300));
    }
    assert_eq!(config(json!({"member_slots_ttl": 0})).member_slots_ttl, Duration::ZERO);
    assert_eq!(config(json!({"member_slots_ttl": "soon"})).member_slots_ttl, Duration::from_secs(1800));
}

#[test]
fn quorum_commit_is_a_word_in_any_case() {
    assert_eq!(config(json!({"synchronous_mode": "Quorum"})).synchronous_mode, SyncMode::Quorum);
    assert_eq!(config(json!({"synchronous_mode": "on"})).synchronous_mode, SyncMode::On);
    assert_eq!(config(json!({"synchronous_mode": "maybe"})).synchronous_mode, SyncMode::Off);
}

#[test]
fn a_standby_cluster_is_never_synchronous() {
    let config = config(json!({"synchronous_mode": true, "standby_cluster": {"host": "a,b"}}));
    assert_eq!(config.synchronous_mode, SyncMode::Off);
    assert_eq!(config.standby_cluster.expect("a standby cluster").host.as_deref(), Some("a,b"));
}

#[test]
fn a_standby_cluster_needs_a_host_a_port_or_an_archive() {
    for section in [json!({}), json!({"primary_slot_name": "x"}), json!({"host": ""}), json!(null), json!("host")] {
        assert_eq!(config(json!({"standby_cluster": section})).standby_cluster, None);
    }
    let section = json!({"port": 5433, "create_replica_methods": ["wal_g", "basebackup"]});
    let standby = config(json!({"standby_cluster": section})).standby_cluster.expect("a standby cluster");
    assert_eq!(standby.port, Some(5433));
    assert_eq!(standby.create_replica_methods, ["wal_g", "basebackup"]);
}

#[test]
fn strict_mode_wants_at_least_one_standby() {
    let count = |value| config(value).synchronous_node_count;
    assert_eq!(count(json!({"synchronous_mode_strict": true, "synchronous_node_count": 0})), 1);
    assert_eq!(count(json!({"synchronous_node_count": 2})), 2);
    assert_eq!(count(json!({"synchronous_node_count": -1})), 0);
}

#[test]
fn old_names_of_slots_come_first_unless_they_are_empty() {
    let slots = |value| config(value).slots.keys().cloned().collect::<Vec<_>>();
    assert_eq!(slots(json!({"slots": {"a": null}, "permanent_slots": {"b": null}})), ["b"]);
    assert_eq!(slots(json!({"slots": {"a": null}, "permanent_replication_slots": {}})), ["a"]);
}

#[test]
fn unknown_keys_stay_in_the_document() {
    let config = config(json!({"primary_race_backoff": 1, "mine": {"x": [1]}}));
    assert_eq!(config.document["mine"]["x"][0], 1);
}

#[test]
fn the_lease_guard_is_a_word_or_what_yaml_makes_of_it() {
    let guard = |value| config(json!({"quorate": {"lease_guard": value}})).lease_guard;
    assert_eq!(guard(json!("on")), LeaseGuardMode::On);
    assert_eq!(guard(json!(false)), LeaseGuardMode::Off);
    assert_eq!(guard(json!("Automatic")), LeaseGuardMode::Automatic);
    let (config, warnings) = read(json!({"quorate": {"lease_guard": "sometimes"}}));
    assert_eq!((config.lease_guard, warnings.len()), (LeaseGuardMode::Automatic, 1));
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5_i64..60).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-z.]{0,6}".prop_map(Value::from),
        Just(json!({"host": "h"})),
        Just(json!([1])),
    ]
}

proptest! {
    #[test]
    fn whatever_is_accepted_obeys_the_rule(
        ttl in anything(), loop_wait in anything(), retry_timeout in anything(), low in any::<bool>(), other in anything(),
    ) {
        let mut document = document(json!({
            "ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout, "quorate": {"low_ttl": low},
        }));
        for key in ["slots", "ignore_slots", "standby_cluster", "synchronous_node_count", "member_slots_ttl", "pause"] {
            document.insert(key.to_owned(), other.clone());
        }
        if let Ok((config, _)) = GlobalConfig::from_document(&document) {
            prop_assert!(config.loop_wait + 2 * config.retry_timeout <= config.ttl);
            prop_assert!(config.loop_wait >= Duration::from_secs(1) && config.retry_timeout >= Duration::from_secs(1));
            let least = if low { 5 } else { 20 };
            prop_assert!(config.ttl.as_secs() >= least);
            let again = GlobalConfig::adjusted_document(&document).expect("was accepted");
            let (again, warnings) = GlobalConfig::from_document(&again).expect("was accepted");
            prop_assert_eq!(timings(&again), timings(&config));
            prop_assert!(warnings.is_empty());
        }
    }
}
