use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(variables: &[(&str, &str)]) -> Environment {
    Environment::read(variables.iter().map(|(name, value)| (format!("PATRONI_{name}"), (*value).to_owned())))
}

fn tree(variables: &[(&str, &str)]) -> Value {
    Value::Object(read(variables).tree().to_map())
}

#[test]
fn every_group_finds_its_section() {
    assert_eq!(
        tree(&[
            ("SCOPE", "demo"),
            ("NAME", "n1"),
            ("RESTAPI_LISTEN", "0.0.0.0:8008"),
            ("RESTAPI_USERNAME", "admin"),
            ("CTL_INSECURE", "on"),
            ("POSTGRESQL_DATA_DIR", "/data"),
            ("POSTGRESQL_BIN_PG_CTL", "pg_ctl15"),
            ("SUPERUSER_USERNAME", "postgres"),
            ("REPLICATION_SSLMODE", "require"),
            ("ETCD3_HOST", "localhost:2379"),
            ("ETCD3_USERNAME", "root"),
            ("LOG_MODE", "0644"),
            ("RESTAPI_HTTP_EXTRA_HEADERS", "X-A: b, X-C: 1"),
        ]),
        json!({
            "name": "n1",
            "scope": "demo",
            "restapi": {
                "listen": "0.0.0.0:8008", "http_extra_headers": {"X-A": "b", "X-C": 1},
                "authentication": {"username": "admin"},
            },
            "ctl": {"insecure": true},
            "postgresql": {
                "data_dir": "/data", "bin_name": {"pg_ctl": "pg_ctl15"},
                "authentication": {"replication": {"sslmode": "require"}, "superuser": {"username": "postgres"}},
            },
            "log": {"mode": 420},
            "etcd3": {"host": "localhost:2379", "username": "root"},
        })
    );
}

#[test]
fn the_new_name_of_a_log_setting_wins_over_the_old_one() {
    assert_eq!(tree(&[("LOGLEVEL", "DEBUG")]), json!({"log": {"level": "DEBUG"}}));
    assert_eq!(tree(&[("LOGLEVEL", "DEBUG"), ("LOG_LEVEL", "ERROR")]), json!({"log": {"level": "ERROR"}}));
}

#[test]
fn a_list_of_hosts_may_be_quoted_words_or_yaml() {
    let expected = json!({"etcd3": {"hosts": ["a:1", "b:2"]}});
    for text in ["'a:1','b:2'", "a:1, b:2", "['a:1', 'b:2']", "- a:1\n- b:2"] {
        assert_eq!(tree(&[("ETCD3_HOSTS", text)]), expected, "{text}");
    }
}

#[test]
fn a_user_name_alone_does_not_make_an_etcd_section() {
    let environment = read(&[("ETCD3_USERNAME", "root")]);
    assert!(environment.tree().is_empty());
    assert!(!environment.hides(OsStr::new("PATRONI_ETCD3_USERNAME")), "left alone, as it was not recognised");
}

#[test]
fn what_cannot_be_read_is_ignored_with_a_warning() {
    let environment = read(&[("LOG_FILE_SIZE", "much"), ("RESTAPI_ALLOWLIST", "[a"), ("CTL_INSECURE", "maybe")]);
    assert!(environment.tree().is_empty());
    assert_eq!(environment.warnings().len(), 3, "{:?}", environment.warnings());
    assert!(environment.warnings().iter().any(|line| line.starts_with("Exception when parsing list in PATRONI_RESTAPI_ALLOWLIST")));
}

#[test]
fn empty_variables_are_unset_except_in_stores() {
    assert_eq!(tree(&[("SCOPE", ""), ("ETCD3_HOST", "")]), json!({"etcd3": {"host": ""}}));
}

#[test]
fn a_log_format_is_a_text_with_placeholders_or_a_list() {
    assert_eq!(tree(&[("LOG_FORMAT", "%(message)s")]), json!({"log": {"format": "%(message)s"}}));
    assert_eq!(tree(&[("LOG_FORMAT", "message, levelname: level")]), json!({"log": {"format": ["message", {"levelname": "level"}]}}));
}

#[test]
fn children_see_no_recognised_variable_and_every_other_one() {
    let environment = read(&[("SCOPE", "demo"), ("SOMETHING_ELSE", "x"), ("CONFIGURATION", "scope: a")]);
    for (name, hidden) in [("PATRONI_SCOPE", true), ("PATRONI_CONFIGURATION", true), ("PATRONI_SOMETHING_ELSE", false), ("PATH", false)] {
        assert_eq!(environment.hides(OsStr::new(name)), hidden, "{name}");
    }
    for (name, hidden) in [("PATRONI_SOMETHING_ELSE", true), ("KUBERNETES_SERVICE_HOST", true), ("NOTIFY_SOCKET", true), ("LANG", false)] {
        assert_eq!(Environment::hides_from_postmaster(OsStr::new(name)), hidden, "{name}");
    }
}

#[test]
fn passwords_do_not_show() {
    let shown = format!("{:?}", read(&[("SUPERUSER_PASSWORD", "geheim")]));
    assert!(!shown.contains("geheim"), "{shown}");
}

#[test]
fn old_gaps_are_closed() {
    assert_eq!(tree(&[("CONSUL_SCHEME", "https")]), json!({"consul": {"scheme": "https"}}));
    assert_eq!(tree(&[("RESTAPI_THREAD_POOL_SIZE", "7")]), json!({"restapi": {"thread_pool_size": 7}}));
    assert_eq!(tree(&[("ZOOKEEPER_USE_SSL", "false")]), json!({"zookeeper": {"use_ssl": false}}));
}

proptest! {
    #[test]
    fn no_environment_makes_the_reader_panic(
        name in "(LOG_FORMAT|RESTAPI_ALLOWLIST|LOG_MODE|ETCD3_HOSTS|KUBERNETES_LABELS|[A-Z_]{0,12})",
        value in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        use std::os::unix::ffi::OsStringExt as _;
        let value = OsString::from_vec(value);
        let _ = Environment::read([(OsString::from(format!("PATRONI_{name}")), value)]);
    }
}

/// The variables outside PostgreSQL, the REST API and the log, by what they begin with.
const EVERY_VARIABLE: &[(&str, &[&str])] = &[
    ("", &["CONFIGURATION", "NAME", "NAMESPACE", "SCOPE", "THREAD_POOL_SIZE", "THREAD_STACK_SIZE"]),
    ("CITUS_", &["DATABASE", "GROUP"]),
    (
        "CONSUL_",
        &[
            "CACERT",
            "CERT",
            "CHECKS",
            "CONSISTENCY",
            "DC",
            "HOST",
            "KEY",
            "PORT",
            "REGISTER_SERVICE",
            "SCHEME",
            "SERVICE_CHECK_INTERVAL",
            "SERVICE_CHECK_TLS_SERVER_NAME",
            "SERVICE_TAGS",
            "TOKEN",
            "URL",
            "VERIFY",
        ],
    ),
    ("CTL_", &["CACERT", "CERTFILE", "INSECURE", "KEYFILE", "KEYFILE_PASSWORD", "PASSWORD", "USERNAME"]),
    ("ETCD_", ETCD),
    ("ETCD3_", ETCD),
    ("EXHIBITOR_", &["HOSTS", "PORT"]),
    (
        "KUBERNETES_",
        &[
            "BOOTSTRAP_LABELS",
            "BYPASS_API_SERVICE",
            "CACERT",
            "CONTEXT",
            "FOLLOWER_LABEL_VALUE",
            "LABELS",
            "LEADER_LABEL_VALUE",
            "NAMESPACE",
            "POD_IP",
            "PORTS",
            "RETRIABLE_HTTP_CODES",
            "ROLE_LABEL",
            "SCOPE_LABEL",
            "STANDBY_LEADER_LABEL_VALUE",
            "TMP_ROLE_LABEL",
            "USE_ENDPOINTS",
        ],
    ),
    ("RAFT_", &["BIND_ADDR", "DATA_DIR", "PARTNER_ADDRS", "PASSWORD", "SELF_ADDR"]),
    ("ZOOKEEPER_", &["AUTH_DATA", "CACERT", "CERT", "HOSTS", "KEY", "KEY_PASSWORD", "SET_ACLS", "USE_SSL", "VERIFY"]),
];
const ETCD: &[&str] = &[
    "CACERT",
    "CERT",
    "HOST",
    "HOSTS",
    "KEY",
    "PASSWORD",
    "PORT",
    "PROTOCOL",
    "PROXY",
    "SRV",
    "SRV_SUFFIX",
    "URL",
    "USERNAME",
    "USE_PROXIES",
];

#[test]
fn every_variable_is_read_and_kept_from_children() {
    let names: Vec<String> =
        EVERY_VARIABLE.iter().flat_map(|(section, names)| names.iter().map(move |name| format!("{section}{name}"))).collect();
    let environment = read(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
    let unread: Vec<&String> = names.iter().filter(|name| !environment.hides(OsStr::new(&format!("PATRONI_{name}")))).collect();
    assert!(unread.is_empty(), "{unread:?}");
    let expected = json!({"hosts": [1], "port": 1});
    assert_eq!(Value::Object(environment.tree().to_map())["exhibitor"], expected);
}

#[test]
fn the_options_of_every_store_have_the_types_of_the_file() {
    for (variables, expected) in [
        (
            &[
                ("CONSUL_HOST", "h:1"),
                ("CONSUL_PORT", "8501"),
                ("CONSUL_CHECKS", "a, b"),
                ("CONSUL_REGISTER_SERVICE", "on"),
                ("CONSUL_SERVICE_TAGS", "['x']"),
                ("CONSUL_SERVICE_CHECK_INTERVAL", "7s"),
                ("CONSUL_VERIFY", "false"),
            ][..],
            json!({"consul": {
                "host": "h:1", "port": 8501, "checks": ["a", "b"], "register_service": true, "service_tags": ["x"],
                "service_check_interval": "7s", "verify": false,
            }}),
        ),
        (
            &[
                ("ZOOKEEPER_HOSTS", "'a:1','b:2'"),
                ("ZOOKEEPER_USE_SSL", "yes"),
                ("ZOOKEEPER_SET_ACLS", "CN=a: [ALL]"),
                ("ZOOKEEPER_AUTH_DATA", "digest: 'u:p'"),
            ],
            json!({"zookeeper": {
                "hosts": ["a:1", "b:2"], "use_ssl": true, "set_acls": {"CN=a": ["ALL"]}, "auth_data": {"digest": "u:p"},
            }}),
        ),
        (
            &[
                ("KUBERNETES_LABELS", "{application: quorate, tier: db}"),
                ("KUBERNETES_BOOTSTRAP_LABELS", "first: steps"),
                ("KUBERNETES_USE_ENDPOINTS", "true"),
                ("KUBERNETES_PORTS", "[{name: postgresql, port: 5433}]"),
                ("KUBERNETES_RETRIABLE_HTTP_CODES", "502, 503"),
                ("KUBERNETES_POD_IP", "10.0.0.7"),
                ("KUBERNETES_BYPASS_API_SERVICE", "off"),
            ],
            json!({"kubernetes": {
                "labels": {"application": "quorate", "tier": "db"}, "bootstrap_labels": {"first": "steps"}, "use_endpoints": true,
                "ports": [{"name": "postgresql", "port": 5433}], "retriable_http_codes": [502, 503], "pod_ip": "10.0.0.7",
                "bypass_api_service": false,
            }}),
        ),
        (
            &[("ETCD_SRV", "example.com"), ("ETCD_SRV_SUFFIX", "x"), ("ETCD_PROXY", "http://p"), ("ETCD_USE_PROXIES", "1")],
            json!({"etcd": {"srv": "example.com", "srv_suffix": "x", "proxy": "http://p", "use_proxies": true}}),
        ),
        (
            &[("RAFT_SELF_ADDR", "a:1"), ("RAFT_PARTNER_ADDRS", "b:2,c:3"), ("RAFT_DATA_DIR", "/d")],
            json!({"raft": {"self_addr": "a:1", "partner_addrs": ["b:2", "c:3"], "data_dir": "/d"}}),
        ),
    ] {
        let found = tree(variables);
        // In any order.
        for (section, options) in expected.as_object().expect("sections") {
            assert_eq!(&found[section], options, "{section}");
        }
    }
}
