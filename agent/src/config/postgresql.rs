//! From the effective tree to [`PostgresSettings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_engine::postgres::value::guc_text;
use ha_engine::settings::{
    Authentication, BinaryNames, Credentials, PostgresSettings, ReplicaMethod, Secret, ServerAddress, StandbyCluster, values,
};
use serde_json::{Map, Value};

use super::address::split_host_port;
use super::env::AUTHENTICATION_KEYS;
use super::error::KeyError;
use super::section::Section;

/// Keys of `postgresql` that are not the options of a replica method.
pub(super) const KEYS: [&str; 36] = [
    "listen",
    "connect_address",
    "proxy_address",
    "data_dir",
    "config_dir",
    "config_base_name",
    "bin_dir",
    "bin_name",
    "database",
    "pgpass",
    "krbsrvname",
    "use_unix_socket",
    "use_unix_socket_repl",
    "authentication",
    "parameters",
    "pg_hba",
    "pg_ident",
    "custom_conf",
    "recovery_conf",
    "use_pg_rewind",
    "remove_data_directory_on_rewind_failure",
    "remove_data_directory_on_diverged_timelines",
    "use_slots",
    "pg_ctl_timeout",
    "create_replica_methods",
    "create_replica_method",
    "callbacks",
    "pre_promote",
    "before_stop",
    "replication",
    "superuser",
    "pg_rewind",
    "name",
    "scope",
    "retry_timeout",
    "citus",
];

/// Reads the section `postgresql` of `root`; `scope` becomes the cluster's name.
///
/// Members of a standby cluster are built as `standby_cluster` says, whatever the list under `postgresql` is.
pub(super) fn read(root: &Section<'_>, scope: &str, standby_cluster: Option<&StandbyCluster>) -> Result<PostgresSettings, KeyError> {
    let Some(section) = root.section("postgresql")? else { return Err(root.missing("postgresql")) };
    let listen_text = section.required_text("listen")?;
    let (listen_addresses, port) = split_host_port(&listen_text, Some(5432)).map_err(|error| {
        section.error(
            "listen",
            format!("`postgresql.listen` must be HOST[,HOST...][:PORT], but is \"{listen_text}\": {error}"),
            Some("for example `listen: 10.0.0.5,127.0.0.1:5432`; put IPv6 addresses into brackets".to_owned()),
        )
    })?;
    let hosts = listen_addresses.split(',').map(|host| host.trim().to_owned()).collect();
    for key in ["connect_address", "proxy_address"] {
        if let Some(text) = section.text(key)? {
            split_host_port(&text, Some(5432))
                .map_err(|error| section.error(key, format!("`postgresql.{key}` must be HOST[:PORT], but is \"{text}\": {error}"), None))?;
        }
    }
    let data_dir = absolute(&section, "data_dir", Path::new(&section.required_text("data_dir")?))?;
    let config_dir = match section.path("config_dir")? {
        Some(path) => absolute(&section, "config_dir", &path)?,
        None => data_dir.clone(),
    };
    let pgpass = match section.path("pgpass")? {
        Some(path) => absolute(&section, "pgpass", &path)?,
        None => home().join("pgpass"),
    };
    let recovery_conf = section.section("recovery_conf")?.map(|section| settings_of(section.map())).unwrap_or_default();
    let callbacks = match section.section("callbacks")? {
        None => BTreeMap::new(),
        Some(callbacks) => {
            let mut commands = BTreeMap::new();
            for event in callbacks.map().keys() {
                if let Some(command) = callbacks.command(event)? {
                    commands.insert(event.clone(), command);
                }
            }
            commands
        }
    };
    Ok(PostgresSettings {
        parameters: parameters(&section, scope, &listen_addresses, port)?,
        listen: ServerAddress { hosts, port },
        listen_addresses,
        connect_address: section.text("connect_address")?,
        proxy_address: section.text("proxy_address")?,
        data_dir,
        config_dir,
        config_base_name: section.text("config_base_name")?.unwrap_or_else(|| "postgresql".to_owned()),
        bin_dir: section.path("bin_dir")?.unwrap_or_default(),
        bin_name: bin_name(&section)?,
        database: section.text("database")?.unwrap_or_else(|| "postgres".to_owned()),
        pgpass,
        krbsrvname: section.text("krbsrvname")?,
        use_unix_socket: section.switch("use_unix_socket"),
        use_unix_socket_repl: section.switch("use_unix_socket_repl"),
        authentication: authentication(&section)?,
        pg_hba: lines(&section, "pg_hba")?,
        pg_ident: lines(&section, "pg_ident")?,
        custom_conf: section.text("custom_conf")?,
        recovery_conf,
        use_pg_rewind: section.switch("use_pg_rewind"),
        remove_data_directory_on_rewind_failure: section.switch("remove_data_directory_on_rewind_failure"),
        remove_data_directory_on_diverged_timelines: section.switch("remove_data_directory_on_diverged_timelines"),
        use_slots: section.map().get("use_slots").and_then(values::bool_word).unwrap_or(false),
        pg_ctl_timeout: section
            .get("pg_ctl_timeout")
            .and_then(|value| values::real(value, None))
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(Duration::from_secs(60)),
        create_replica_methods: replica_methods(&section, standby_cluster)?,
        replica_method_sections: section
            .map()
            .iter()
            .filter(|(key, value)| !KEYS.contains(&key.as_str()) && (value.is_object() || value.is_array()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        callbacks,
        pre_promote: section.command("pre_promote")?,
        before_stop: section.command("before_stop")?,
    })
}

fn absolute(section: &Section<'_>, key: &str, path: &Path) -> Result<PathBuf, KeyError> {
    std::path::absolute(path).map_err(|error| section.error(key, format!("`postgresql.{key}` can't be made absolute: {error}"), None))
}

/// The home directory, as the shell would find it.
fn home() -> PathBuf {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("/"))
}

pub(super) fn settings_of(map: &Map<String, Value>) -> BTreeMap<String, String> {
    map.iter().filter_map(|(name, value)| Some((name.clone(), guc_text(value)?))).collect()
}

fn parameters(section: &Section<'_>, scope: &str, listen_addresses: &str, port: u16) -> Result<BTreeMap<String, String>, KeyError> {
    let mut parameters = section.section("parameters")?.map(|section| settings_of(section.map())).unwrap_or_default();
    for (name, value) in [("cluster_name", scope), ("listen_addresses", listen_addresses), ("port", port.to_string().as_str())] {
        parameters.retain(|known, _| !known.eq_ignore_ascii_case(name));
        parameters.insert(name.to_owned(), value.to_owned());
    }
    Ok(parameters)
}

fn bin_name(section: &Section<'_>) -> Result<BinaryNames, KeyError> {
    let mut names = BTreeMap::new();
    if let Some(configured) = section.section("bin_name")? {
        for program in configured.map().keys() {
            if let Some(name) = configured.text(program)? {
                names.insert(program.clone(), name);
            }
        }
    }
    Ok(BinaryNames(names))
}

fn lines(section: &Section<'_>, key: &str) -> Result<Option<Vec<String>>, KeyError> {
    Ok(section.texts(key)?.filter(|lines| !lines.is_empty()))
}

fn authentication(section: &Section<'_>) -> Result<Authentication, KeyError> {
    let Some(users) = section.section("authentication")? else { return Ok(Authentication::default()) };
    let credentials = |user: &str| -> Result<Option<Credentials>, KeyError> {
        let Some(user) = users.section(user)? else { return Ok(None) };
        let mut options = BTreeMap::new();
        for keyword in &AUTHENTICATION_KEYS[2..] {
            if let Some(value) = user.text(keyword)? {
                options.insert((*keyword).to_owned(), value);
            }
        }
        Ok(Some(Credentials { username: user.text("username")?, password: user.text("password")?.map(Secret::new), options }))
    };
    Ok(Authentication {
        superuser: credentials("superuser")?.unwrap_or_default(),
        replication: credentials("replication")?.unwrap_or_default(),
        rewind: credentials("rewind")?,
    })
}

fn replica_methods(section: &Section<'_>, standby_cluster: Option<&StandbyCluster>) -> Result<Vec<ReplicaMethod>, KeyError> {
    let named = |key: &str| -> Result<Vec<String>, KeyError> {
        let names = section.texts(key)?.unwrap_or_default();
        Ok(names.iter().flat_map(|name| name.split(',')).map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect())
    };
    let mut names = match standby_cluster {
        Some(remote) => remote.create_replica_methods.clone(),
        None => named("create_replica_methods")?,
    };
    if names.is_empty() && standby_cluster.is_none() {
        names = named("create_replica_method")?;
    }
    if names.is_empty() {
        names.push("basebackup".to_owned());
    }
    names.into_iter().map(|name| replica_method(section, name)).collect()
}

fn replica_method(section: &Section<'_>, name: String) -> Result<ReplicaMethod, KeyError> {
    if name == "basebackup" {
        return Ok(ReplicaMethod::BaseBackup(section.get("basebackup").cloned().unwrap_or(Value::Object(Map::new()))));
    }
    let command_error = |error| section.error(&name, format!("`postgresql.{name}` has no usable command: {error}"), None);
    let options = section.section(&name)?;
    let command = match &options {
        Some(options) => options.command("command")?,
        None => None,
    };
    let command = match command {
        Some(command) => command,
        None => ha_engine::settings::CommandLine::split(&name).map_err(command_error)?,
    };
    let switch = |key: &str| options.as_ref().is_some_and(|options| options.switch(key));
    let no_params = switch("no_params");
    let own: &[&str] = if no_params { &["command", "no_params", "no_leader", "keep_data"] } else { &["command"] };
    let parameters = options.as_ref().map(|options| options.map().clone()).unwrap_or_default();
    Ok(ReplicaMethod::Custom {
        command,
        no_params,
        no_leader: switch("no_leader"),
        keep_data: switch("keep_data"),
        parameters: parameters.into_iter().filter(|(key, _)| !own.contains(&key.as_str())).collect(),
        name,
    })
}
