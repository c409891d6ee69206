//! Whole configurations: what people have on disk, and what becomes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_engine::settings::{BootstrapMethod, EffectiveSettings, ReplicaMethod, SettingsSource};
use serde_json::{Map, Value, json};

use super::AgentSettings;
use crate::config::{Environment, LocalConfig, Origin, RestApiSettings, VerifyClient};

const GUIDE: &str = include_str!("fixtures/guide.yml");
const SLIDES: &str = include_str!("fixtures/slides.yml");
const MINIMAL: &str = include_str!("fixtures/minimal.yml");

/// A directory with configuration files, and the data directory that they name.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("data")).expect("a data directory");
        Self { dir }
    }

    fn with(text: &str) -> Self {
        let node = Self::new();
        node.write("quorate.yml", text);
        node
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("quorate.yml")
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("{DATA}", &self.data_dir().display().to_string());
        fs::write(self.dir.path().join(name), text).expect("writable");
    }

    fn load(&self, variables: &[(&str, &str)]) -> LocalConfig {
        LocalConfig::load(Some(&self.file()), environment(variables)).expect("loadable")
    }

    fn settings(&self) -> AgentSettings {
        AgentSettings::new(self.load(&[])).expect("usable")
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::read(variables.iter().map(|(name, value)| (format!("PATRONI_{name}"), (*value).to_owned())))
}

fn document(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn effective(text: &str, dynamic: Value) -> EffectiveSettings {
    let node = Node::with(text);
    let settings = node.settings().effective(&document(dynamic)).expect("usable");
    (*settings).clone()
}

/// `MINIMAL` with lines of YAML laid over it.
fn minimal_with(more: &str) -> String {
    format!("{MINIMAL}\n{more}\n")
}

fn refusal(text: &str) -> String {
    let node = Node::with(text);
    let loaded = LocalConfig::load(Some(&node.file()), Environment::empty());
    let error = match loaded.and_then(AgentSettings::new) {
        Ok(_) => panic!("this configuration should be refused:\n{text}"),
        Err(error) => error.to_string(),
    };
    error.replace(&node.dir.path().display().to_string(), "DIR")
}

#[test]
fn the_file_of_a_production_guide_gives_what_its_author_meant() {
    let node = Node::with(GUIDE);
    let local = node.load(&[]);
    let warnings: Vec<_> = local.warnings().iter().map(|line| line.rsplit_once("unknown key").expect("unknown").1).collect();
    assert_eq!(warnings, [" `postgresql.authentication.global` is ignored"]);
    let store = local.store().expect("a store");
    assert_eq!((store.section, store.namespace.as_deref(), store.scope.as_str()), ("etcd3", Some("/db/"), "postgres-cluster"));
    assert_eq!(store.options["hosts"], "192.0.2.1:2379,192.0.2.2:2379,192.0.2.3:2379");

    let settings = AgentSettings::new(local).expect("usable");
    let dynamic = settings.initial_dynamic();
    assert_eq!(dynamic["maximum_lag_on_failover"], 1_048_576);
    let effective = settings.effective(&dynamic).expect("usable");
    assert_eq!(effective.api_url, "http://192.0.2.1:8008/patroni");
    assert_eq!(effective.global.ttl, Duration::from_secs(30));
    assert!(effective.tags.0.is_empty(), "switches that are off are not published");
    let postgresql = &effective.postgresql;
    assert!(postgresql.use_pg_rewind && postgresql.use_slots);
    assert_eq!(postgresql.parameters["max_wal_senders"], "20");
    assert_eq!(postgresql.parameters["wal_level"], "replica");
    assert_eq!(postgresql.parameters["hot_standby"], "on");
    assert_eq!(postgresql.parameters["wal_keep_size"], "128MB");
    assert_eq!(postgresql.parameters["cluster_name"], "postgres-cluster");
    assert_eq!(postgresql.authentication.superuser.password.as_ref().expect("one").expose(), "12345");
    let bootstrap = effective.bootstrap.as_ref().expect("a bootstrap section");
    assert_eq!(bootstrap.initdb, json!([{"encoding": "UTF8"}, "data-checksums"]));
    assert_eq!(bootstrap.pg_hba.len(), 3);
}

#[test]
fn the_file_of_an_old_slide_deck_is_read() {
    let node = Node::with(SLIDES);
    let local = node.load(&[]);
    let store = local.store().expect("a section of a store");
    assert_eq!(store.section, "etcd");
    crate::stores::check(&store).expect("usable");

    let settings = AgentSettings::new(local).expect("usable");
    let effective = settings.effective(&Map::new()).expect("usable");
    let postgresql = &effective.postgresql;
    assert_eq!(postgresql.pgpass, PathBuf::from("/var/tmp/pgpass"));
    assert_eq!(postgresql.parameters["unix_socket_directories"], ".");
    assert_eq!(postgresql.parameters["max_replication_slots"], "10");
    assert_eq!(postgresql.authentication.rewind().username.as_deref(), Some("rewind"));
    let [ReplicaMethod::BaseBackup(options)] = postgresql.create_replica_methods.as_slice() else { panic!("one method") };
    assert_eq!(*options, json!([{"max-rate": "100M"}]));
}

#[test]
fn a_variable_overrides_the_file_and_a_whole_configuration_beside_a_file_is_ignored() {
    let node = Node::with(MINIMAL);
    let local = node.load(&[("SCOPE", "x"), ("CONFIGURATION", "scope: y\nname: z\n")]);
    assert_eq!((&local.tree()["scope"], &local.tree()["name"]), (&json!("x"), &json!("n1")));
}

#[test]
fn a_whole_configuration_in_a_variable_hides_the_other_variables() {
    let environment = environment(&[("CONFIGURATION", "scope: y\nname: z\n"), ("NAME", "x")]);
    let local = LocalConfig::load(Some(Path::new("/nonexistent/quorate.yml")), environment).expect("loadable");
    assert_eq!(local.tree()["name"], "z");
    assert_eq!(*local.origin(), Origin::Configuration);
}

#[test]
fn variables_alone_are_a_configuration_and_nothing_is_none() {
    let local = LocalConfig::load(None, environment(&[("SCOPE", "x")])).expect("loadable");
    assert_eq!(*local.origin(), Origin::Environment);
    let error = LocalConfig::load(None, Environment::empty()).expect_err("nothing");
    assert_eq!(error.to_string(), "Config is empty.");
}

#[test]
fn files_of_a_directory_are_laid_over_each_other_in_order() {
    let node = Node::new();
    node.write("00.yml", "scope: a\nname: n\ntags: {x: 1, y: 2}\nrestapi: {listen: 'a:1', allowlist: [a, b]}\n");
    node.write("10.yaml", "scope: b\nname: null\ntags: {y: 3}\nrestapi: {allowlist: [c]}\n");
    node.write("20.txt", "scope: c\n");
    let local = LocalConfig::load(Some(node.dir.path()), Environment::empty()).expect("loadable");
    assert_eq!(
        Value::Object(local.tree().clone()),
        json!({"scope": "b", "tags": {"x": 1, "y": 3}, "restapi": {"listen": "a:1", "allowlist": ["c"]}})
    );
}

#[test]
fn an_empty_file_in_a_directory_is_refused() {
    let node = Node::new();
    node.write("00.yml", "scope: a\n");
    node.write("10.yml", "# nothing\n");
    let error = LocalConfig::load(Some(node.dir.path()), Environment::empty()).expect_err("an empty file");
    assert!(error.to_string().contains("10.yml: it does not contain a dict"), "{error}");
}

#[test]
fn a_path_that_is_neither_file_nor_directory_is_refused() {
    let error = LocalConfig::load(Some(Path::new("/dev/null")), Environment::empty()).expect_err("a device");
    assert_eq!(error.to_string(), "invalid config path: `/dev/null` is neither directory nor file");
}

#[test]
fn bad_yaml_is_shown_with_file_line_and_column() {
    let message = refusal("scope: demo\nrestapi:\n  listen:0.0.0.0:8008\n  x: 1\n");
    assert!(message.starts_with("DIR/quorate.yml is not valid YAML (line "), "{message}");
    assert!(message.contains('^'), "{message}");
}

#[test]
fn what_is_missing_is_named_with_the_way_to_give_it() {
    assert_eq!(
        refusal(&MINIMAL.replace("name: n1\n", "")),
        "DIR/quorate.yml: `name` is not defined\n\nhint: add `name:` to the configuration file, or set PATRONI_NAME"
    );
    assert_eq!(
        refusal(&MINIMAL.replace("  data_dir: {DATA}\n", "")),
        "DIR/quorate.yml:9:1: `postgresql.data_dir` is not defined\n\nhint: add `data_dir:` to the section `postgresql:` of the \
         configuration file, or set PATRONI_POSTGRESQL_DATA_DIR"
    );
    let message = refusal(&MINIMAL.replace("  listen: 127.0.0.1:8008\n", "  connect_address: 127.0.0.1:8008\n"));
    assert!(message.starts_with("DIR/quorate.yml:3:1: Can not find \"restapi.listen\" config"), "{message}");
    let message = refusal(&MINIMAL.replace("etcd3:\n  hosts: 127.0.0.1:2379\n", ""));
    assert!(message.contains("Can not find suitable configuration of distributed configuration store"), "{message}");
    assert!(message.contains("Available implementations: "), "{message}");
}

#[test]
fn an_unusable_address_is_shown() {
    let message = refusal(&MINIMAL.replace("127.0.0.1:8008", "127.0.0.1"));
    assert!(
        message
            .starts_with("DIR/quorate.yml:4:3: Invalid \"restapi\" config: expected <HOST>:<PORT> for \"listen\", but got \"127.0.0.1\""),
        "{message}"
    );
    let message = refusal(&MINIMAL.replace("127.0.0.1:5432", "127.0.0.1:many"));
    assert!(message.starts_with("DIR/quorate.yml:10:3: `postgresql.listen` must be HOST[,HOST...][:PORT]"), "{message}");
}

#[test]
fn half_of_a_credential_is_refused() {
    let message = refusal(&MINIMAL.replace("restapi:\n", "restapi:\n  authentication: {username: admin}\n"));
    assert!(message.contains("`restapi.authentication.password` is not defined"), "{message}");
}

#[test]
fn a_required_watchdog_without_a_way_to_it_is_refused() {
    let message = refusal(&minimal_with("watchdog: {mode: Required, driver: mine}"));
    let expected = "quorate.yml:16:28: Configuration requires a watchdog, but watchdog is not supported on this platform.";
    assert!(message.contains(expected), "{message}");
    let _ = Node::with(&minimal_with("watchdog: {mode: automatic, driver: mine}")).settings();
}

/// Must hold: configuration.md 10 (C10-1, C10-2).
#[test]
fn the_watchdog_of_a_node_is_read_with_its_defaults() {
    use ha_engine::settings::{WatchdogDriver, WatchdogMode, WatchdogSettings};

    let read = |section: &str| Node::with(&minimal_with(section)).settings().effective(&Map::new()).expect("usable").watchdog.clone();
    for nothing in ["", "watchdog:", "watchdog: {}", "watchdog: {safety_margin: 5}"] {
        assert_eq!(read(nothing), WatchdogSettings::default(), "{nothing}");
    }
    for (mode, expected) in [
        ("off", WatchdogMode::Off),
        ("'off'", WatchdogMode::Off),
        ("Auto", WatchdogMode::Automatic),
        ("require", WatchdogMode::Required),
        ("on", WatchdogMode::Off),
        ("mandatory", WatchdogMode::Off),
    ] {
        assert_eq!(read(&format!("watchdog: {{mode: {mode}}}")).mode, expected, "{mode}");
    }
    let testing =
        WatchdogSettings { mode: WatchdogMode::Required, device: "/run/fifo".into(), driver: WatchdogDriver::Testing, safety_margin: -1 };
    assert_eq!(read("watchdog: {mode: required, device: /run/fifo, driver: testing, safety_margin: -1}"), testing);
}

#[test]
fn a_complete_citus_section_is_refused_and_others_are_dropped() {
    let message = refusal(&minimal_with("citus: {group: 0, database: d}"));
    assert!(message.contains("`citus` is not supported by this version"), "{message}");
    let _ = Node::with(&minimal_with("citus: {group: '0'}")).settings();
}

#[test]
fn several_hosts_and_a_port_are_what_postgresql_listens_on() {
    let text = MINIMAL.replace("listen: 127.0.0.1:5432", "listen: '10.0.0.5,127.0.0.1:5433'");
    let postgresql = effective(&text, json!({})).postgresql;
    assert_eq!(postgresql.listen_addresses, "10.0.0.5,127.0.0.1");
    assert_eq!(
        (postgresql.listen.hosts.as_slice(), postgresql.listen.port),
        (["10.0.0.5".to_owned(), "127.0.0.1".to_owned()].as_slice(), 5433)
    );
    assert_eq!(
        (&postgresql.parameters["listen_addresses"], &postgresql.parameters["port"]),
        (&"10.0.0.5,127.0.0.1".to_owned(), &"5433".to_owned())
    );
}

#[test]
fn a_missing_port_is_postgresqls() {
    for (listen, hosts, port) in [("'*'", "*", 5432), ("'[::1]:5433'", "::1", 5433), ("db.example", "db.example", 5432)] {
        let text = MINIMAL.replace("listen: 127.0.0.1:5432", &format!("listen: {listen}"));
        let postgresql = effective(&text, json!({})).postgresql;
        assert_eq!((postgresql.listen_addresses.as_str(), postgresql.listen.port), (hosts, port));
    }
}

#[test]
fn slots_are_switched_off_for_the_whole_cluster_only() {
    let text = MINIMAL.replace("postgresql:\n", "postgresql:\n  use_slots: false\n");
    assert!(effective(&text, json!({})).postgresql.use_slots);
    assert!(!effective(&text, json!({"postgresql": {"use_slots": "off"}})).postgresql.use_slots);
    assert!(!effective(&text, json!({"postgresql": {"use_slots": "what"}})).postgresql.use_slots);
}

#[test]
fn local_parameters_beat_dynamic_ones_but_not_the_cluster_wide() {
    let text = MINIMAL.replace("postgresql:\n", "postgresql:\n  parameters: {work_mem: 8MB, max_connections: 300}\n");
    let dynamic = json!({"postgresql": {"parameters": {"work_mem": "4MB", "max_connections": 200, "archive_mode": true, "x.y": null}}});
    let parameters = effective(&text, dynamic).postgresql.parameters;
    assert_eq!((parameters["work_mem"].as_str(), parameters["max_connections"].as_str()), ("8MB", "200"));
    assert_eq!((parameters["archive_mode"].as_str(), parameters.get("x.y")), ("on", None));
}

#[test]
fn an_unusable_document_is_refused_with_its_key() {
    let node = Node::with(MINIMAL);
    let settings = node.settings();
    for (dynamic, key) in [
        (json!({"ttl": "abc"}), "`ttl`"),
        (json!({"postgresql": {"parameters": [1]}}), "postgresql.parameters is not a dictionary"),
        (json!({"postgresql": {"callbacks": {"on_start": "'open"}}}), "`postgresql.callbacks.on_start`"),
    ] {
        let error = settings.effective(&document(dynamic)).expect_err("refused").message;
        assert!(error.starts_with("dynamic configuration: ") && error.contains(key), "{error}");
    }
}

#[test]
fn commands_and_methods_are_split_and_typed() {
    let text = MINIMAL.replace(
        "postgresql:\n",
        "postgresql:\n  create_replica_methods: [wal_g, bare, basebackup]\n  wal_g: {command: \"/bin/wal-g 'a b'\", no_leader: 1, keep_data: 'no', threads: 4}\n  \
         callbacks: {on_start: '/cb \"x y\"'}\n  pre_promote: /fence\n  basebackup: [verbose]\n",
    );
    let postgresql = effective(&text, json!({})).postgresql;
    let [
        ReplicaMethod::Custom { name, command, no_params, no_leader, keep_data, parameters },
        ReplicaMethod::Custom { command: bare, .. },
        ReplicaMethod::BaseBackup(_),
    ] = postgresql.create_replica_methods.as_slice()
    else {
        panic!("three methods: {:?}", postgresql.create_replica_methods)
    };
    assert_eq!((name.as_str(), command.arguments.as_slice()), ("wal_g", ["a b".to_owned()].as_slice()));
    assert_eq!((*no_params, *no_leader, *keep_data), (false, true, false));
    assert_eq!(parameters.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["no_leader", "keep_data", "threads"]);
    assert_eq!(bare.program, "bare");
    assert_eq!(postgresql.callbacks["on_start"].arguments, ["x y"]);
    assert_eq!(postgresql.pre_promote.expect("one").program, "/fence");
}

#[test]
fn a_custom_bootstrap_needs_its_command() {
    let bootstrap = |more: &str| effective(&minimal_with(more), json!({})).bootstrap.expect("a bootstrap section");
    let custom = bootstrap(
        "bootstrap:\n  method: clone\n  clone: {command: '/clone now', scope: x, jobs: 4, recovery_conf: {restore_command: c}}\n",
    );
    let BootstrapMethod::Custom { name, command, parameters, recovery_conf, .. } = custom.method else { panic!("a custom method") };
    assert_eq!((name.as_str(), command.arguments.as_slice()), ("clone", ["now".to_owned()].as_slice()));
    assert_eq!(parameters, [("jobs".to_owned(), "4".to_owned())]);
    assert_eq!(recovery_conf.expect("settings")["restore_command"], "c");
    assert_eq!(bootstrap("bootstrap: {method: clone}").method, BootstrapMethod::Initdb);
    assert_eq!(bootstrap("bootstrap: {method: clone, clone: {x: 1}}").method, BootstrapMethod::Initdb);
    let scripts = bootstrap("bootstrap: {post_init: /b}");
    assert_eq!(scripts.post_bootstrap.expect("one").program, "/b");
    let scripts = bootstrap("bootstrap: {post_init: /b, post_bootstrap: /a}");
    assert_eq!(scripts.post_bootstrap.expect("one").program, "/a");
}

#[test]
fn without_a_bootstrap_section_no_cluster_is_made() {
    assert!(effective(MINIMAL, json!({})).bootstrap.is_none());
    assert!(effective(&minimal_with("bootstrap: {}"), json!({})).bootstrap.is_some());
}

#[test]
fn tags_are_published_by_their_rules() {
    let tags = |tags: &str| Value::Object(effective(&minimal_with(&format!("tags: {tags}")), json!({})).tags.0);
    assert_eq!(tags("{nofailover: false, clonefrom: false, x: 1.5}"), json!({"x": 1.5}));
    assert_eq!(tags("{nofailover: false, failover_priority: 1}"), json!({"nofailover": false, "failover_priority": 1}));
}

#[test]
fn the_lease_guard_may_be_set_locally() {
    use ha_engine::settings::LeaseGuardMode;
    let guard = |local: &str, dynamic: Value| effective(&minimal_with(local), dynamic).global.lease_guard;
    assert_eq!(guard("quorate: {lease_guard: off}", json!({"quorate": {"lease_guard": "on"}})), LeaseGuardMode::Off);
    assert_eq!(guard("", json!({"quorate": {"lease_guard": "on"}})), LeaseGuardMode::On);
}

#[test]
fn the_cache_survives_a_restart_and_comes_before_bootstrap() {
    let node = Node::with(&minimal_with("bootstrap: {dcs: {ttl: 40}}"));
    assert_eq!(node.settings().initial_dynamic(), document(json!({"ttl": 40})));
    node.settings().store_dynamic_cache(&document(json!({"ttl": 10, "x": 1}))).expect("writable");
    assert_eq!(node.settings().initial_dynamic(), document(json!({"ttl": 20, "x": 1, "loop_wait": 1, "retry_timeout": 9})));
    fs::write(node.data_dir().join("patroni.dynamic.json"), "{").expect("writable");
    assert_eq!(node.settings().initial_dynamic(), document(json!({"ttl": 40})), "a broken file is ignored");
}

#[test]
fn a_bootstrap_section_that_cannot_be_used_does_not_keep_an_old_cluster_from_starting() {
    let node = Node::with(&minimal_with("bootstrap: {dcs: {ttl: abc}}"));
    assert_eq!(node.settings().initial_dynamic(), Map::new());
}

#[test]
fn an_option_of_the_store_is_refused_with_its_place() {
    let local = Node::with(&MINIMAL.replace("  hosts: 127.0.0.1:2379", "  hosts: 127.0.0.1:many")).load(&[]);
    let error = crate::stores::check(&local.store().expect("a section")).expect_err("no port").to_string();
    assert!(error.contains("quorate.yml:7:3: ") && error.contains("etcd3.hosts"), "{error}");
}

#[test]
fn hosts_may_be_a_list_or_a_text() {
    for hosts in ["'a:1, b'", "[a:1, b]"] {
        let local = Node::with(&MINIMAL.replace("127.0.0.1:2379", hosts)).load(&[]);
        crate::stores::check(&local.store().expect("a section")).expect("usable");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error_that_names_it() {
    let node = Node::with(MINIMAL);
    let settings = node.settings();
    fs::remove_dir(node.data_dir()).expect("empty");
    let error = settings.store_dynamic_cache(&Map::new()).expect_err("no directory").message;
    assert!(error.contains("patroni.dynamic.json: "), "{error}");
}

#[test]
fn a_reload_says_whether_something_changed_and_keeps_the_old_file_if_the_new_one_is_broken() {
    let node = Node::with(MINIMAL);
    let settings = node.settings();
    assert!(!settings.reload_local().expect("readable"), "nothing changed");
    node.write("quorate.yml", &minimal_with("tags: {x: 1}"));
    assert!(settings.reload_local().expect("readable"));
    assert_eq!(settings.local().tree()["tags"], json!({"x": 1}));
    for broken in ["scope: [", "", "scope: x\n", &minimal_with("log: {level: loud}")] {
        node.write("quorate.yml", broken);
        let error = settings.reload_local().expect_err("broken").message;
        assert!(error.contains("quorate.yml"), "{error}");
        assert_eq!(settings.local().tree()["tags"], json!({"x": 1}));
    }
    fs::remove_file(node.file()).expect("there");
    assert!(settings.reload_local().is_err(), "a vanished file is not an empty one");
}

#[test]
fn a_reload_keeps_the_environment_of_the_start() {
    let node = Node::with(MINIMAL);
    let settings = AgentSettings::new(node.load(&[("POSTGRESQL_LISTEN", "0.0.0.0:6000")])).expect("usable");
    node.write("quorate.yml", &minimal_with("tags: {x: 1}"));
    assert!(settings.reload_local().expect("readable"));
    assert_eq!(settings.effective(&Map::new()).expect("usable").postgresql.listen.port, 6000);
}

#[test]
fn the_rest_api_is_read_with_its_fallbacks() {
    let text = MINIMAL.replace(
        "restapi:\n",
        "restapi:\n  certfile: /c.pem\n  keyfile: /k.pem\n  cafile: /ca.pem\n  verify_client: Required\n  connect_address: '[::1]:8008'\n  \
         authentication: {username: u, password: 0815}\n  http_extra_headers: {X-A: 1, X-B: b}\n  https_extra_headers: {X-A: 2}\n  allowlist: [10.0.0.0/8]\n",
    );
    let local = Node::with(&text).load(&[]);
    let (rest, warnings) = local.rest_api().expect("usable");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(rest.api_url(), "https://[::1]:8008/patroni");
    assert_eq!(rest.verify_client, VerifyClient::Required);
    assert_eq!(rest.extra_headers, [("X-B".to_owned(), "b".to_owned()), ("X-A".to_owned(), "2".to_owned())]);
    let ctl = local.ctl().expect("usable");
    assert_eq!(ctl.authentication.as_ref().expect("that of the REST API").password.expose(), "0815");
    assert_eq!(ctl.cacert, Some(PathBuf::from("/ca.pem")));
    assert_eq!(ctl.certfile, None);
    assert!(!format!("{rest:?}{ctl:?}{local:?}").contains("0815"), "no secret in debug output");
}

#[test]
fn headers_for_tls_need_tls() {
    let text = MINIMAL.replace("restapi:\n", "restapi:\n  certfile: ''\n  https_extra_headers: {X-A: 2}\n  verify_client: sometimes\n");
    let (rest, warnings) = Node::with(&text).load(&[]).rest_api().expect("usable");
    assert!(rest.extra_headers.is_empty() && rest.tls.is_none());
    assert_eq!(warnings, ["Bad value in the \"restapi.verify_client\": sometimes"]);
    let RestApiSettings { listen, connect_address, .. } = rest;
    assert!(!listen.is_any());
    assert_eq!(connect_address, "127.0.0.1:8008");
}

#[test]
fn the_first_store_in_the_alphabet_is_used() {
    let local = Node::with(&minimal_with("consul: {host: h}")).load(&[]);
    let store = local.store().expect("a store");
    assert_eq!((store.section, store.ignored.as_slice()), ("consul", ["etcd3"].as_slice()));
    crate::stores::check(&store).expect("usable");
}

#[test]
fn logging_is_read_with_its_old_words() {
    use crate::config::{LogFormat, LogLevel};
    let (log, _) =
        Node::with(&minimal_with("log: {level: WARN, mode: 0640, dir: /x, loggers: {patroni.ha: DEBUG}}")).load(&[]).log().expect("usable");
    assert_eq!((log.level, log.loggers["patroni.ha"]), (LogLevel::Warning, LogLevel::Debug));
    assert_eq!(log.file.expect("a file").mode, Some(0o640));
    let (log, warnings) = Node::with(&minimal_with("log: {type: json, format: [message, {levelname: level}, 7], static_fields: {app: x}}"))
        .load(&[])
        .log()
        .expect("usable");
    let LogFormat::Json { fields, static_fields } = log.format else { panic!("JSON") };
    assert_eq!(fields.iter().map(|field| field.key.as_str()).collect::<Vec<_>>(), ["message", "level"]);
    assert_eq!((static_fields["app"].as_str(), warnings.len()), (Some("x"), 1));
    let error = Node::with(&minimal_with("log: {level: loud}")).load(&[]).log().expect_err("unknown").to_string();
    assert!(error.contains("quorate.yml:16:7: `loud` is not a level of logging"), "{error}");
}
