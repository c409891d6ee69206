//! The rules, in the order of their findings.

use super::Type::{Boolean, Integer, List, Mapping, Text};
use super::checks;
use super::{Check, Key, Rule, Type};

fn required(key: &'static str, rule: Rule) -> (Key, Rule) {
    (Key::Required(key), rule)
}

fn optional(key: &'static str, rule: Rule) -> (Key, Rule) {
    (Key::Optional(key), rule)
}

fn one_of(keys: Vec<(&'static str, Rule)>) -> (Key, Rule) {
    (Key::OneOf(keys), Rule::Keys(Vec::new()))
}

fn not_two_of(keys: Vec<(&'static str, Rule)>) -> (Key, Rule) {
    (Key::NotTwoOf(keys), Rule::Keys(Vec::new()))
}

/// Optional keys of one type.
fn all(wanted: Type, keys: &[&'static str]) -> Vec<(Key, Rule)> {
    keys.iter().map(|key| optional(key, Rule::Is(wanted))).collect()
}

fn section(parts: Vec<Vec<(Key, Rule)>>) -> Rule {
    Rule::Keys(parts.into_iter().flatten().collect())
}

fn text() -> Rule {
    Rule::Is(Text)
}

fn texts() -> Rule {
    Rule::Each(Box::new(text()))
}

/// A YAML integer within bounds.
fn integer(least: Option<i64>, most: Option<i64>) -> Rule {
    Rule::Number { strictly: true, least, most, unit: None, aligned: None }
}

/// A number within bounds, which may be a text.
fn number(least: i64, most: Option<i64>) -> Rule {
    Rule::Number { strictly: false, least: Some(least), most, unit: None, aligned: None }
}

fn word(words: &'static [&'static str]) -> Rule {
    Rule::Word { words, exactly: true }
}

fn passes(wanted: Type, check: Check) -> Rule {
    Rule::Passes(Some(wanted), check)
}

fn reachable_hosts() -> Rule {
    Rule::Either(vec![passes(Text, checks::reachable_list), Rule::Each(Box::new(Rule::Passes(None, checks::reachable)))])
}

const PORT: Option<i64> = Some(65535);

/// The whole. `low_ttl`: the new cluster asks for timings below the usual minimums.
pub(super) fn root(low_ttl: bool) -> Rule {
    let stack_size = Rule::Number { strictly: true, least: Some(65536), most: None, unit: Some("B"), aligned: Some(65536) };
    Rule::Keys(vec![
        required("name", text()),
        required("scope", text()),
        optional("thread_pool_size", integer(Some(5), None)),
        optional("thread_stack_size", stack_size),
        optional("log", log()),
        optional("ctl", section(vec![all(Boolean, &["insecure"]), all(Text, &["cacert", "certfile", "keyfile", "keyfile_password"])])),
        required("restapi", rest_api()),
        optional("bootstrap", bootstrap(low_ttl)),
        one_of(stores()),
        optional("citus", Rule::Keys(vec![required("database", text()), required("group", integer(Some(0), None))])),
        required("postgresql", postgresql()),
        optional(
            "watchdog",
            Rule::Keys(vec![
                optional("mode", Rule::Passes(None, checks::watchdog_mode)),
                optional("device", text()),
                optional("safety_margin", integer(Some(-1), None)),
            ]),
        ),
        optional("tags", tags()),
    ])
}

fn log() -> Rule {
    Rule::Keys(vec![
        optional("type", word(&["plain", "json"])),
        optional("level", word(&["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"])),
        optional("traceback_level", Rule::Word { words: &["DEBUG", "ERROR"], exactly: false }),
        optional("format", Rule::Passes(None, checks::log_format)),
        optional("dateformat", text()),
        optional("static_fields", Rule::Is(Mapping)),
        optional("max_queue_size", Rule::Is(Integer)),
        optional("dir", text()),
        optional("file_num", Rule::Is(Integer)),
        optional("file_size", Rule::Is(Integer)),
        optional("mode", integer(Some(0), Some(511))),
        optional("loggers", Rule::Is(Mapping)),
        optional("deduplicate_heartbeat_logs", Rule::Is(Boolean)),
    ])
}

fn rest_api() -> Rule {
    Rule::Keys(vec![
        optional("thread_pool_size", integer(Some(5), None)),
        required("listen", passes(Text, checks::listen)),
        required("connect_address", passes(Text, checks::connect_address)),
        optional("authentication", Rule::Keys(vec![required("username", text()), required("password", text())])),
        optional("certfile", text()),
        optional("keyfile", text()),
        optional("keyfile_password", text()),
        optional("cafile", text()),
        optional("ciphers", text()),
        optional("verify_client", word(&["none", "optional", "required"])),
        optional("allowlist", texts()),
        optional("allowlist_include_members", Rule::Is(Boolean)),
        optional("http_extra_headers", Rule::Is(Mapping)),
        optional("https_extra_headers", Rule::Is(Mapping)),
        optional("request_queue_size", integer(Some(0), Some(4096))),
        optional("server_tokens", Rule::Word { words: &["minimal", "productonly", "original"], exactly: false }),
    ])
}

fn bootstrap(low_ttl: bool) -> Rule {
    let server_limit = || number(0, Some(262_143));
    let parameters = Rule::Keys(vec![
        optional("max_connections", number(1, Some(262_143))),
        optional("max_locks_per_transaction", number(10, Some(2_147_483_647))),
        optional("max_prepared_transactions", server_limit()),
        optional("max_replication_slots", server_limit()),
        optional("max_wal_senders", server_limit()),
        optional("max_worker_processes", server_limit()),
    ]);
    let postgresql = Rule::Keys(vec![
        optional("parameters", parameters),
        optional("use_pg_rewind", Rule::Is(Boolean)),
        optional("pg_hba", texts()),
        optional("pg_ident", texts()),
        optional("pg_ctl_timeout", number(0, None)),
        optional("use_slots", Rule::Is(Boolean)),
    ]);
    let standby_cluster = Rule::Keys(vec![
        one_of(vec![("host", text()), ("port", integer(None, PORT)), ("restore_command", text())]),
        optional("primary_slot_name", text()),
        optional("create_replica_methods", texts()),
        optional("archive_cleanup_command", text()),
        optional("recovery_min_apply_delay", text()),
    ]);
    let (least_ttl, least_retry) = if low_ttl { (5, 1) } else { (20, 3) };
    let seconds = Rule::Number { strictly: false, least: Some(0), most: None, unit: Some("s"), aligned: None };
    let dcs = Rule::Keys(vec![
        optional("ttl", number(least_ttl, None)),
        optional("loop_wait", number(1, None)),
        optional("retry_timeout", number(least_retry, None)),
        optional("maximum_lag_on_failover", number(0, None)),
        optional("maximum_lag_on_syncnode", number(-1, None)),
        optional("member_slots_ttl", seconds),
        optional("postgresql", postgresql),
        optional("primary_start_timeout", number(0, None)),
        optional("primary_stop_timeout", number(0, None)),
        optional("standby_cluster", standby_cluster),
        optional("synchronous_mode", Rule::Passes(None, checks::synchronous_mode)),
        optional("synchronous_mode_strict", Rule::Is(Boolean)),
        optional("synchronous_node_count", number(1, None)),
    ]);
    Rule::Keys(vec![
        required("dcs", dcs),
        optional("initdb", Rule::Each(Box::new(Rule::Either(vec![text(), Rule::Is(Mapping)])))),
        optional("method", text()),
    ])
}

fn stores() -> Vec<(&'static str, Rule)> {
    let consul = section(vec![
        vec![one_of(vec![("host", Rule::Passes(None, checks::reachable)), ("url", text())])],
        vec![optional("port", integer(None, PORT))],
        all(Text, &["scheme", "token"]),
        all(Boolean, &["verify"]),
        all(Text, &["cacert", "cert", "key", "dc"]),
        vec![optional("checks", texts())],
        all(Boolean, &["register_service"]),
        vec![optional("service_tags", texts())],
        all(Text, &["service_check_interval", "service_check_tls_server_name"]),
        vec![optional("consistency", word(&["default", "consistent", "stale"]))],
    ]);
    let exhibitor = Rule::Keys(vec![
        required("hosts", texts()),
        required("port", integer(None, PORT)),
        optional("poll_interval", integer(Some(1), None)),
    ]);
    let ports = Rule::Keys(vec![required("name", text()), required("port", integer(None, PORT))]);
    let kubernetes = section(vec![
        vec![required("labels", Rule::Is(Mapping))],
        all(Boolean, &["bypass_api_service"]),
        all(Text, &["namespace", "scope_label", "role_label", "leader_label_value", "follower_label_value"]),
        all(Text, &["standby_leader_label_value", "tmp_role_label"]),
        all(Boolean, &["use_endpoints"]),
        vec![optional("pod_ip", Rule::Either(vec![Rule::Passes(None, checks::ipv4), Rule::Passes(None, checks::ipv6)]))],
        vec![optional("ports", Rule::Each(Box::new(ports)))],
        all(Text, &["cacert"]),
        vec![optional("retriable_http_codes", Rule::Either(vec![Rule::Is(Integer), Rule::Each(Box::new(Rule::Is(Integer)))]))],
        all(Mapping, &["bootstrap_labels"]),
    ]);
    let raft = Rule::Keys(vec![
        required("self_addr", passes(Text, checks::connect_address)),
        optional("bind_addr", passes(Text, checks::listen)),
        required("partner_addrs", passes(List, checks::reachable_list)),
        optional("data_dir", text()),
        optional("password", text()),
        optional("tls", Rule::Keys(vec![required("cert", text()), optional("key", text()), required("ca", text())])),
        optional("heartbeat_ms", number(10, None)),
        optional("election_ms", number(50, None)),
        optional("snapshot_entries", number(100, None)),
    ]);
    let zookeeper = section(vec![
        vec![required("hosts", reachable_hosts())],
        all(Boolean, &["use_ssl"]),
        all(Text, &["cacert", "cert", "key", "key_password"]),
        all(Boolean, &["verify"]),
        all(Mapping, &["set_acls", "auth_data"]),
    ]);
    vec![
        ("consul", consul),
        ("etcd", etcd()),
        ("etcd3", etcd()),
        ("exhibitor", exhibitor),
        ("kubernetes", kubernetes),
        ("raft", raft),
        ("zookeeper", zookeeper),
    ]
}

fn etcd() -> Rule {
    section(vec![
        vec![one_of(vec![
            ("host", Rule::Passes(None, checks::reachable)),
            ("hosts", reachable_hosts()),
            ("srv", text()),
            ("srv_suffix", text()),
            ("url", text()),
            ("proxy", text()),
        ])],
        all(Text, &["protocol", "username", "password", "cacert", "cert", "key"]),
    ])
}

fn postgresql() -> Rule {
    let user = || Rule::Keys(vec![required("username", text()), optional("password", text())]);
    let programs = ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"];
    let programs = programs.into_iter().map(|program| optional(program, passes(Text, checks::program))).collect();
    Rule::Keys(vec![
        required("listen", passes(Text, checks::listen_on_several)),
        required("connect_address", passes(Text, checks::connect_address)),
        optional("proxy_address", passes(Text, checks::connect_address)),
        required(
            "authentication",
            Rule::Keys(vec![required("replication", user()), required("superuser", user()), optional("rewind", user())]),
        ),
        required("data_dir", passes(Text, checks::data_dir)),
        optional("bin_name", Rule::Keys(programs)),
        (Key::OrEmpty("bin_dir"), Rule::BinDirectory),
        optional("parameters", Rule::Keys(vec![optional("unix_socket_directories", text())])),
        optional("pg_hba", texts()),
        optional("pg_ident", texts()),
        optional("pg_ctl_timeout", number(0, None)),
        optional("use_pg_rewind", Rule::Is(Boolean)),
    ])
}

fn tags() -> Rule {
    Rule::Keys(vec![
        not_two_of(vec![("nofailover", Rule::Is(Boolean)), ("failover_priority", integer(Some(0), None))]),
        optional("clonefrom", Rule::Is(Boolean)),
        optional("noloadbalance", Rule::Is(Boolean)),
        optional("replicatefrom", text()),
        not_two_of(vec![("nosync", Rule::Is(Boolean)), ("sync_priority", integer(Some(0), None))]),
        optional("nostream", Rule::Is(Boolean)),
    ])
}
