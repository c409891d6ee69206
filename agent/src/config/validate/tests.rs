use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::{ValidateOptions, printed, validate};
use crate::config::{Environment, LocalConfig};

/// A configuration that passes: programs, a free port, an etcd that answers.
struct Setup {
    dir: tempfile::TempDir,
    etcd: TcpListener,
}

impl Setup {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("writable");
        for program in ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"] {
            fs::write(bin.join(program), "#!/bin/sh\necho 'postgres (PostgreSQL) 15.13'\n").expect("writable");
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).expect("ours");
        }
        Self { dir, etcd: TcpListener::bind("127.0.0.1:0").expect("a free port") }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn text(&self) -> String {
        let port = self.etcd.local_addr().expect("bound").port();
        let dir = self.path().display();
        format!(
            "name: n1\nscope: demo\nrestapi:\n  listen: 127.0.0.1:1\n  connect_address: 192.0.2.1:8008\netcd3:\n  hosts: 127.0.0.1:{port}\n\
             postgresql:\n  listen: 127.0.0.1:1\n  connect_address: 192.0.2.1:5432\n  data_dir: {dir}/data\n  bin_dir: {dir}/bin\n  authentication:\n    \
             superuser: {{username: postgres, password: geheim}}\n    replication: {{username: r}}\n"
        )
    }

    fn findings(&self, text: &str) -> Vec<String> {
        let local = self.load(text);
        let prefix = self.path().display().to_string();
        validate(&local, ValidateOptions::default()).into_iter().map(|line| line.replace(&prefix, "DIR")).collect()
    }

    fn load(&self, text: &str) -> LocalConfig {
        let file = self.path().join("q.yml");
        fs::write(&file, text).expect("writable");
        LocalConfig::load_unchecked(Some(&file), Environment::empty()).expect("loadable")
    }

    /// The findings of the good configuration with `more` laid over it.
    fn with(&self, more: &str) -> Vec<String> {
        let mut base = self.load(&self.text()).tree().clone();
        let more = self.load(more).tree().clone();
        overlay(&mut base, more);
        self.findings(&crate::config::yaml::block(&base.into()))
    }
}

fn overlay(base: &mut serde_json::Map<String, serde_json::Value>, more: serde_json::Map<String, serde_json::Value>) {
    for (key, value) in more {
        match (base.get_mut(&key), value) {
            (Some(serde_json::Value::Object(known)), serde_json::Value::Object(more)) => overlay(known, more),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Without their places, which depend on the order of the keys.
fn bare(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| line.split_once(": ").map_or(line.clone(), |(_, rest)| rest.to_owned())).collect()
}

#[test]
fn a_good_configuration_has_no_findings() {
    let setup = Setup::new();
    assert_eq!(setup.findings(&setup.text()), Vec::<String>::new());
}

#[test]
fn what_is_missing_is_listed_in_order() {
    let setup = Setup::new();
    let missing = ["name", "restapi", "consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper", "postgresql"];
    let expected: Vec<String> = missing.iter().map(|key| format!("DIR/q.yml: {key}  is not defined.")).collect();
    assert_eq!(setup.findings("scope: x\n"), expected);
    let nothing = LocalConfig::load_unchecked(None, Environment::empty()).expect("loadable");
    assert_eq!(validate(&nothing, ValidateOptions::default())[..2], ["name  is not defined.", "scope  is not defined."]);
}

#[test]
fn every_finding_has_its_file_line_and_column() {
    let setup = Setup::new();
    let text = format!("{}log:\n  level: info\nthread_pool_size: many\n", setup.text());
    assert_eq!(
        setup.findings(&text),
        ["DIR/q.yml:18:1: thread_pool_size many is not an integer", "DIR/q.yml:17:3: log.level info didn't pass validation: Wrong value",]
    );
}

#[test]
fn an_address_that_others_cannot_reach_is_refused() {
    let setup = Setup::new();
    let reason = r#"didn't pass validation: must not contain "127.0.0.1", "0.0.0.0", "*", "::1", "localhost""#;
    assert_eq!(
        bare(setup.with("restapi: {connect_address: '127.0.0.1:8008'}")),
        [format!("restapi.connect_address 127.0.0.1:8008 {reason}")]
    );
    assert_eq!(
        bare(setup.with("postgresql: {connect_address: 'a:b'}")),
        ["postgresql.connect_address a:b didn't pass validation: contains a wrong value"]
    );
}

#[test]
fn a_port_in_use_is_refused_unless_told_otherwise() {
    let setup = Setup::new();
    let used = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = used.local_addr().expect("bound").port();
    let text = setup.text().replacen("listen: 127.0.0.1:1\n", &format!("listen: 127.0.0.1:{port}\n"), 1);
    assert_eq!(
        setup.findings(&text),
        [format!("DIR/q.yml:4:3: restapi.listen 127.0.0.1:{port} didn't pass validation: Port {port} is already in use.")]
    );
    assert!(validate(&setup.load(&text), ValidateOptions { ignore_listen_port: true }).is_empty());
}

#[test]
fn the_embedded_store_has_keys_of_its_own() {
    let setup = Setup::new();
    let with = |more: &str| bare(setup.with(&format!("raft: {{self_addr: 'h:2222', partner_addrs: [], {more}}}")));
    let good = "heartbeat_ms: 50, election_ms: '500', snapshot_entries: 1000, tls: {cert: /c, key: /k, ca: /a}";
    let without = with("data_dir: /d");
    assert_eq!(with(good), without, "nothing to complain about in them");
    let mut wrong = with("heartbeat_ms: often, snapshot_entries: 1, tls: {cert: 5, ca: /a}");
    wrong.retain(|line| !without.contains(line));
    assert_eq!(
        wrong,
        [
            "raft.tls.cert 5 is not a string",
            "raft.heartbeat_ms often didn't pass validation: Wrong value",
            "raft.snapshot_entries 1 didn't pass validation: Wrong value",
        ]
    );
}

#[test]
fn two_tags_that_say_the_same_exclude_each_other() {
    let setup = Setup::new();
    assert_eq!(
        bare(setup.with("tags: {nofailover: true, failover_priority: 1}")),
        ["tags  Multiple of ('nofailover', 'failover_priority') provided"]
    );
    assert_eq!(bare(setup.with("tags: {failover_priority: -1}")), ["tags.failover_priority -1 didn't pass validation: Wrong value"]);
}

#[test]
fn alternatives_show_their_least_severe_findings() {
    let setup = Setup::new();
    assert_eq!(
        bare(setup.with("bootstrap: {dcs: {}, initdb: [1]}")),
        ["bootstrap.initdb.0 1 is not a string", "bootstrap.initdb.0 1 is not a dictionary"]
    );
    assert_eq!(
        bare(setup.with("etcd3: {hosts: ['127.0.0.1:x']}")),
        ["etcd3.hosts.0 127.0.0.1:x didn't pass validation: contains a wrong value"]
    );
}

#[test]
fn lists_are_checked_item_by_item() {
    let setup = Setup::new();
    assert_eq!(bare(setup.with("postgresql: {pg_hba: []}")), ["postgresql.pg_hba [] is an empty list"]);
    assert_eq!(bare(setup.with("postgresql: {pg_hba: [a, 2]}")), ["postgresql.pg_hba.1 2 is not a string"]);
    assert_eq!(bare(setup.with("postgresql: {pg_hba: a}")), ["postgresql.pg_hba a is not a list"]);
}

#[test]
fn secrets_are_not_shown() {
    let setup = Setup::new();
    let lines = setup.with("postgresql: {authentication: {superuser: {password: 4711}}}");
    assert_eq!(bare(lines), ["postgresql.authentication.superuser.password *** is not a string"]);
}

#[test]
fn missing_programs_are_named() {
    let setup = Setup::new();
    fs::remove_file(setup.path().join("bin/pg_ctl")).expect("there");
    let findings = setup.findings(&setup.text());
    assert_eq!(findings, ["DIR/q.yml:12:3: postgresql.bin_dir  does not contain 'pg_ctl' in 'DIR/bin'"]);
    assert_eq!(bare(setup.with("postgresql: {bin_dir: /nonexistent}")), ["postgresql.bin_dir  Directory '/nonexistent' does not exist."]);
}

#[test]
fn a_data_directory_is_empty_or_one_of_this_version() {
    let setup = Setup::new();
    let data = setup.path().join("data");
    fs::create_dir_all(data.join("pg_wal")).expect("writable");
    let line = |reason: &str| [format!("DIR/q.yml:11:3: postgresql.data_dir DIR/data didn't pass validation: {reason}")];
    assert_eq!(setup.findings(&setup.text()), line("doesn't look like a valid data directory"));
    fs::write(data.join("PG_VERSION"), "14\n").expect("writable");
    assert_eq!(
        setup.findings(&setup.text()),
        line("data_dir directory postgresql version (14) doesn't match with 'postgres --version' output (15)")
    );
    fs::write(data.join("PG_VERSION"), "15\n").expect("writable");
    assert!(setup.findings(&setup.text()).is_empty());
    fs::remove_dir(data.join("pg_wal")).expect("empty");
    assert_eq!(setup.findings(&setup.text()), line("data dir for the cluster is not empty, but doesn't contain \"pg_wal\" directory"));
}

#[test]
fn what_is_wrong_in_itself_does_not_hide_what_is_wrong_as_a_whole() {
    let setup = Setup::new();
    let findings = setup.with(
        "{thread_pool_size: many, watchdog: {mode: required, driver: mine}, citus: {group: 0, database: x}, postgresql: {callbacks: {on_start: \"'open\"}}, \
         etcd3: {username: u}, log: {level: info, loggers: {a: loud}}}",
    );
    let expected = [
        "thread_pool_size many is not an integer",
        "log.level info didn't pass validation",
        "`citus` is not supported",
        "`postgresql.callbacks.on_start` is not a command",
        "watchdog is not supported on this platform",
        "`loud` is not a level of logging",
        "`etcd3.password`: it is missing",
    ];
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    for (finding, expected) in findings.iter().zip(expected) {
        assert!(finding.contains(expected), "{findings:#?}");
    }
}

#[test]
fn what_was_found_about_a_key_is_not_told_twice() {
    let setup = Setup::new();
    assert_eq!(bare(setup.with("name: [1]")), ["name [1] is not a string"]);
    assert_eq!(bare(setup.with("etcd3: {hosts: []}")), ["etcd3.hosts [] is an empty list"]);
    assert_eq!(bare(setup.with("postgresql: {parameters: 7}")), ["postgresql.parameters 7 is not a dictionary"]);
    let without = setup.text().replace("scope: demo\n", "");
    assert_eq!(setup.findings(&without), ["DIR/q.yml: scope  is not defined."]);
}

#[test]
fn the_whole_is_checked_when_its_parts_are_fine() {
    let setup = Setup::new();
    let findings = setup.with("postgresql: {callbacks: {on_start: \"'open\"}}");
    assert!(findings[0].contains("`postgresql.callbacks.on_start` is not a command"), "{findings:?}");
    assert!(setup.with("watchdog: {mode: required}").is_empty());
}

#[test]
fn low_timings_need_their_switch() {
    let setup = Setup::new();
    assert_eq!(bare(setup.with("bootstrap: {dcs: {ttl: 6}}")), ["bootstrap.dcs.ttl 6 didn't pass validation: Wrong value"]);
    assert!(setup.with("bootstrap: {dcs: {ttl: 6, quorate: {low_ttl: true}}}").is_empty());
    assert!(setup.with("bootstrap: {dcs: {synchronous_mode: quorum}}").is_empty());
}

#[test]
fn the_printed_configuration_is_the_same_configuration() {
    let setup = Setup::new();
    let local = setup.load(&setup.text());
    let text = printed(&local);
    let again = setup.load(&text);
    assert_eq!(again.tree(), local.tree());
    let tops: Vec<&str> =
        text.lines().filter(|line| !line.starts_with([' ', '-'])).map(|line| line.split(':').next().expect("a key")).collect();
    assert_eq!(tops, ["etcd3", "name", "postgresql", "restapi", "scope"]);
}
