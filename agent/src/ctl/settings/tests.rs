use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use super::{Settings, load};
use crate::config::Environment;
use crate::ctl::arguments::Global;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::read(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

fn file(text: &str) -> (tempfile::TempDir, Global) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("patroni.yml");
    fs::write(&path, text).expect("the directory is writable");
    (directory, Global { config_file: Some(path), ..Global::default() })
}

#[test]
fn a_full_agent_configuration_is_fine_and_variables_override_it() {
    let (_directory, global) = file("scope: demo\nretry_timeout: 5\netcd3:\n  hosts: [a:2379, b:2379]\npostgresql: nonsense\n");
    let config = load(&global, environment(&[("PATRONI_SCOPE", "other")])).expect("it can be read");
    let settings = Settings::of(&config);
    assert_eq!(settings.scope.as_deref(), Some("other"));
    assert_eq!(settings.patience(), Duration::from_secs(10));
    assert_eq!(settings.servers, "etcd3 at a:2379, b:2379");
    assert!(!settings.citus);
}

#[test]
fn a_named_file_must_be_there() {
    let global = Global { config_file: Some("/nowhere/patroni.yml".into()), ..Global::default() };
    assert_eq!(
        load(&global, Environment::empty()).map(|_| ()).map_err(|failure| failure.to_string()),
        Err("Provided config file /nowhere/patroni.yml not existing or no read rights. Check the -c/--config-file \
             parameter"
            .to_owned())
    );
}

#[test]
fn the_store_on_the_command_line_wins() {
    let (_directory, mut global) = file("scope: demo\nnamespace: old\nconsul: {host: x}\n");
    global.dcs_url = Some("etcd3://h:2379/ns".to_owned());
    let config = load(&global, Environment::empty()).expect("it can be read");
    let store = config.store_for_control_tool().expect("a store");
    assert_eq!((store.section, store.namespace.as_deref(), store.scope.as_str()), ("etcd3", Some("/ns"), "demo"));
}

#[test]
fn without_any_store_the_message_has_its_two_lines() {
    let (_directory, global) = file("scope: demo\n");
    let config = load(&global, Environment::empty()).expect("it can be read");
    let failure = config.store_for_control_tool().map(|_| ()).map_err(|error| super::unusable(&error)).expect_err("no store");
    let message = failure.to_string();
    assert!(
        message.starts_with("Can not find suitable configuration of distributed configuration store\nAvailable implementations: "),
        "{message}"
    );
}

#[test]
fn citus_is_noticed_with_its_group() {
    let (_directory, global) = file("scope: demo\ncitus: {group: 1, database: x}\n");
    let settings = Settings::of(&load(&global, Environment::empty()).expect("it can be read"));
    assert_eq!((settings.citus, settings.citus_group), (true, Some(1)));
}
