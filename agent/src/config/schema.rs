//! Which keys exist. Unknown ones are ignored, as the reference does, but not without a word: most are misspelt.

use super::env::AUTHENTICATION_KEYS;
use super::postgresql;
use super::tree::{Content, Entry, Mapping, join};

/// What may stand below a key.
#[derive(Clone, Copy)]
enum Below {
    /// A value, or something whose keys are free (parameters, tags, headers).
    Anything,
    /// A mapping with these keys.
    Keys(&'static [(&'static str, Below)]),
    /// A mapping with these keys, and sections of commands under names that the operator chooses.
    KeysAndMethods(&'static [(&'static str, Below)]),
    /// The twelve settings of a database user.
    Credentials,
    /// The section `postgresql`.
    Postgresql,
}

use Below::{Anything, Credentials, Keys, KeysAndMethods, Postgresql};

/// A list of keys below which anything may stand.
macro_rules! keys {
    ($($key:literal)+ $(, $name:literal: $below:expr)* $(,)?) => {
        &[$(($key, Anything),)+ $(($name, $below),)*]
    };
}

const ROOT: &[(&str, Below)] = keys![
    "scope" "namespace" "name" "thread_pool_size" "thread_stack_size" "tags"
    "ttl" "loop_wait" "retry_timeout" "standby_cluster",
    "log": Keys(LOG),
    "restapi": Keys(REST_API),
    "ctl": Keys(CTL),
    "bootstrap": KeysAndMethods(BOOTSTRAP),
    "postgresql": Postgresql,
    "watchdog": Keys(keys!["mode" "device" "safety_margin" "driver"]),
    "quorate": Keys(QUORATE),
    "citus": Keys(keys!["group" "database"]),
    "consul": Keys(CONSUL),
    "etcd": Keys(ETCD),
    "etcd3": Keys(ETCD),
    "exhibitor": Keys(EXHIBITOR),
    "kubernetes": Keys(KUBERNETES),
    "raft": Keys(RAFT),
    "zookeeper": Keys(ZOOKEEPER),
];
const RAFT: &[(&str, Below)] = keys![
    "self_addr" "bind_addr" "partner_addrs" "data_dir" "password" "heartbeat_ms" "election_ms" "snapshot_entries",
    "tls": Keys(keys!["cert" "key" "ca"]),
];
const LOG: &[(&str, Below)] = keys![
    "type" "level" "traceback_level" "format" "dateformat" "static_fields" "max_queue_size" "dir" "mode" "file_size"
    "file_num" "loggers" "deduplicate_heartbeat_logs"
];
const BASIC_AUTH: Below = Keys(keys!["username" "password"]);
const REST_API: &[(&str, Below)] = keys![
    "listen" "connect_address" "certfile" "keyfile" "keyfile_password" "cafile" "ciphers" "verify_client" "allowlist"
    "allowlist_include_members" "http_extra_headers" "https_extra_headers" "request_queue_size" "thread_pool_size"
    "server_tokens",
    "authentication": BASIC_AUTH,
];
const CTL: &[(&str, Below)] = keys![
    "insecure" "cacert" "certfile" "keyfile" "keyfile_password",
    "authentication": BASIC_AUTH,
];
const BOOTSTRAP: &[(&str, Below)] = keys![
    "method" "initdb" "pg_hba" "pg_ident" "post_bootstrap" "post_init" "users",
    "dcs": Keys(DYNAMIC),
];
const DYNAMIC: &[(&str, Below)] = keys![
    "ttl" "loop_wait" "retry_timeout" "maximum_lag_on_failover" "maximum_lag_on_syncnode" "max_timelines_history"
    "check_timeline" "primary_start_timeout" "primary_stop_timeout" "master_start_timeout" "master_stop_timeout"
    "synchronous_mode" "synchronous_mode_strict" "synchronous_node_count" "failsafe_mode" "pause" "member_slots_ttl"
    "slots" "permanent_slots" "permanent_replication_slots" "ignore_slots",
    "postgresql": Postgresql,
    "standby_cluster": Keys(STANDBY_CLUSTER),
    "quorate": Keys(QUORATE),
];
const STANDBY_CLUSTER: &[(&str, Below)] = keys![
    "host" "port" "primary_slot_name" "create_replica_methods" "restore_command" "archive_cleanup_command"
    "recovery_min_apply_delay"
];
const QUORATE: &[(&str, Below)] = keys!["low_ttl" "lease_guard" "keep_divergent_wal"];
const ETCD: &[(&str, Below)] = keys![
    "host" "hosts" "port" "url" "proxy" "use_proxies" "srv" "discovery_srv" "srv_domain" "srv_suffix" "protocol"
    "username" "password" "cacert" "cert" "key" "version_prefix"
];
const CONSUL: &[(&str, Below)] = keys![
    "host" "url" "port" "scheme" "token" "verify" "cacert" "cert" "key" "dc" "consistency" "checks" "register_service"
    "service_tags" "service_check_interval" "service_check_tls_server_name"
];
const EXHIBITOR: &[(&str, Below)] = keys!["hosts" "port" "poll_interval"];
const KUBERNETES: &[(&str, Below)] = keys![
    "namespace" "labels" "scope_label" "role_label" "leader_label_value" "follower_label_value"
    "standby_leader_label_value" "tmp_role_label" "bootstrap_labels" "use_endpoints" "pod_ip" "ports" "cacert"
    "bypass_api_service" "retriable_http_codes" "context"
];
const ZOOKEEPER: &[(&str, Below)] = keys![
    "hosts" "use_ssl" "cacert" "cert" "key" "key_password" "verify" "set_acls" "auth_data",
    "exhibitor": Keys(EXHIBITOR),
];
const BINARIES: &[(&str, Below)] = keys![
    "pg_ctl" "initdb" "pg_controldata" "pg_basebackup" "postgres" "pg_isready" "pg_rewind" "pg_waldump"
];
const CALLBACKS: &[(&str, Below)] = keys!["on_start" "on_stop" "on_restart" "on_reload" "on_role_change"];
const USERS: &[(&str, Below)] = &[("superuser", Credentials), ("replication", Credentials), ("rewind", Credentials)];

/// A warning for every key that nothing reads.
pub(super) fn unknown_keys(tree: &Mapping) -> Vec<String> {
    let mut warnings = Vec::new();
    check("", tree, Keys(ROOT), &mut warnings);
    warnings
}

fn check(path: &str, mapping: &Mapping, allowed: Below, warnings: &mut Vec<String>) {
    let (known, methods): (Vec<(&str, Below)>, bool) = match allowed {
        Anything => return,
        Keys(keys) => (keys.to_vec(), false),
        KeysAndMethods(keys) => (keys.to_vec(), true),
        Credentials => (AUTHENTICATION_KEYS.iter().map(|key| (*key, Anything)).collect(), false),
        Postgresql => (postgresql_keys(), true),
    };
    for entry in mapping.entries() {
        let path = join(path, &entry.key);
        match known.iter().find(|(name, _)| *name == entry.key) {
            Some((_, below)) => {
                if let Content::Mapping(inner) = &entry.node.content {
                    check(&path, inner, *below, warnings);
                }
            }
            None => {
                let near = nearest(&entry.key, &known);
                // A section under a free name is the options of a command, unless it looks like a slip of the pen.
                let is_section = matches!(entry.node.content, Content::Mapping(_) | Content::List(_));
                if !(methods && is_section && near.is_none()) {
                    warnings.push(warning(entry, &path, near));
                }
            }
        }
    }
}

fn postgresql_keys() -> Vec<(&'static str, Below)> {
    let below = |key: &str| match key {
        "authentication" => Keys(USERS),
        "bin_name" => Keys(BINARIES),
        "callbacks" => Keys(CALLBACKS),
        _ => Anything,
    };
    postgresql::KEYS.into_iter().chain(["basebackup"]).map(|key| (key, below(key))).collect()
}

fn warning(entry: &Entry, path: &str, near: Option<&str>) -> String {
    let place = &entry.place;
    match near {
        Some(near) => format!("{place}: unknown key `{path}` is ignored; did you mean `{near}`?"),
        None => format!("{place}: unknown key `{path}` is ignored"),
    }
}

/// The known name that `key` is probably meant to be.
fn nearest<'a>(key: &str, known: &[(&'a str, Below)]) -> Option<&'a str> {
    let allowed = (key.chars().count() / 3).max(1);
    known
        .iter()
        .map(|(name, _)| (strsim::damerau_levenshtein(key, name), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::tree::Source;
    use crate::config::yaml;

    fn warnings(text: &str) -> Vec<String> {
        let document = yaml::parse(text, &Arc::new(Source::File("q.yml".into()))).expect("valid YAML");
        let Content::Mapping(mapping) = document.root.content else { panic!("a mapping was expected") };
        unknown_keys(&mapping)
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_nearest_name() {
        assert_eq!(
            warnings("restapi:\n  lisen: a\npostgresql:\n  callbacks:\n    on_strat: x\nscop: y\nbootstrap:\n  dcs: {tll: 3}\n"),
            [
                "q.yml:2:3: unknown key `restapi.lisen` is ignored; did you mean `listen`?",
                "q.yml:5:5: unknown key `postgresql.callbacks.on_strat` is ignored; did you mean `on_start`?",
                "q.yml:6:1: unknown key `scop` is ignored; did you mean `scope`?",
                "q.yml:8:9: unknown key `bootstrap.dcs.tll` is ignored; did you mean `ttl`?",
            ]
        );
    }

    #[test]
    fn a_strange_key_is_named_without_a_guess() {
        assert_eq!(warnings("gadget: 1\n"), ["q.yml:1:1: unknown key `gadget` is ignored"]);
    }

    #[test]
    fn what_the_operator_names_is_never_unknown() {
        let text = "tags: {mine: 1}\nbootstrap:\n  method: clone\n  clone: {command: c}\npostgresql:\n  wal_g: {command: x}\n  \
                    basebackup: [verbose]\n  parameters: {my.ext: 1}\n  pg_hba: []\nlog: {loggers: {patroni.x: DEBUG}}\n";
        assert_eq!(warnings(text), Vec::<String>::new());
    }

    #[test]
    fn a_misspelt_section_is_not_taken_for_a_method() {
        assert_eq!(
            warnings("postgresql:\n  paramters: {work_mem: 1}\n"),
            ["q.yml:2:3: unknown key `postgresql.paramters` is ignored; did you mean `parameters`?"]
        );
    }
}
