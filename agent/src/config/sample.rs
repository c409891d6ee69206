//! `--generate-sample-config`: a file to start from.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use ha_engine::settings::values;
use serde_json::{Map, Value, json};

use super::cluster_wide;
use super::env::Environment;
use super::tree::{Content, Node, Place, Source};
use super::yaml;

/// Stands where the operator must fill something in.
const FILL_IN: &str = "#FIXME";
const BEFORE_BOOTSTRAP: [&str; 14] = [
    "scope",
    "namespace",
    "name",
    "log",
    "restapi",
    "ctl",
    "citus",
    "consul",
    "etcd",
    "etcd3",
    "exhibitor",
    "kubernetes",
    "raft",
    "zookeeper",
];

/// What is found out about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Host name and its first address; nothing if that failed.
    pub(super) host: Option<(String, String)>,
    /// The major version of PostgreSQL's programs.
    pub(super) major: u32,
}

/// The directory of PostgreSQL's programs and the name of the server, as the environment has them.
pub(super) fn server_program(environment: &Environment) -> (String, String) {
    let tree = Value::Object(environment.tree().to_map());
    let text = |pointer: &str| tree.pointer(pointer).map(values::text);
    (
        text("/postgresql/bin_dir").unwrap_or_default(),
        text("/postgresql/bin_name/postgres").filter(|name| !name.is_empty()).unwrap_or_else(|| "postgres".to_owned()),
    )
}

/// The sample for this machine, with the environment laid over it. No newline ends it.
pub(super) fn sample(machine: &Machine, environment: &Environment) -> String {
    let mut config = template(machine, environment);
    let replication = config["postgresql"]["authentication"]["replication"]["username"].clone();
    let postgresql = &mut config["postgresql"];
    postgresql["parameters"] = json!({"password_encryption": "scram-sha-256"});
    postgresql["pg_hba"] =
        json!(["host all all all scram-sha-256", format!("host replication {} all scram-sha-256", values::text(&replication))]);
    let rewind = &mut postgresql["authentication"]["rewind"];
    if !rewind.is_object() {
        *rewind = json!({"username": "rewind_user"});
    }
    if rewind.get("password").is_none() {
        rewind["password"] = FILL_IN.into();
    }
    written(&config, machine.major)
}

fn template(machine: &Machine, environment: &Environment) -> Value {
    let (name, address) = machine.host.clone().unwrap_or_else(|| (FILL_IN.to_owned(), FILL_IN.to_owned()));
    let (rest, server) = (format!("{address}:8008"), format!("{address}:5432"));
    let template = json!({
        "scope": FILL_IN,
        "name": name,
        "restapi": {"connect_address": rest, "listen": rest},
        "log": {
            "type": "plain", "level": "INFO", "traceback_level": "ERROR", "format": super::DEFAULT_FORMAT, "max_queue_size": 1000,
        },
        "postgresql": {
            "data_dir": FILL_IN,
            "connect_address": server,
            "listen": server,
            "bin_dir": "",
            "authentication": {
                "superuser": {"username": "postgres", "password": FILL_IN},
                "replication": {"username": "replicator", "password": FILL_IN},
            },
        },
        "tags": {
            "failover_priority": 1, "sync_priority": 1, "noloadbalance": false, "clonefrom": true, "nosync": false, "nostream": false,
        },
    });
    let place = Place::of(&Arc::new(Source::Variable("the sample".to_owned())));
    match Node::from_value(template, &place).content {
        Content::Mapping(mut mapping) => {
            mapping.patch(environment.tree().clone());
            Value::Object(mapping.to_map())
        }
        _ => Value::Null,
    }
}

/// The dynamic configuration of the new cluster.
fn dynamic(major: u32) -> Value {
    let mut parameters = cluster_wide::defaults();
    // As numbers, which is how people would write them.
    for value in parameters.values_mut() {
        if let Some(number) = values::int(value, None) {
            *value = number.into();
        }
    }
    parameters.insert("wal_level".to_owned(), "replica".into());
    match major {
        12 => parameters.insert("wal_keep_segments".to_owned(), 8.into()),
        _ => parameters.insert("wal_keep_size".to_owned(), "128MB".into()),
    };
    json!({"parameters": parameters, "use_pg_rewind": true, "use_slots": true})
}

fn written(config: &Value, major: u32) -> String {
    let mut text = String::new();
    let section = |text: &mut String, name: &str| {
        if let Some(value) = config.get(name) {
            if value.is_object() {
                text.push('\n');
            }
            block(text, name, value, "");
        }
    };
    for name in BEFORE_BOOTSTRAP {
        section(&mut text, name);
    }
    text.push_str(
        "\n# The bootstrap configuration. Works only when the cluster is not yet initialized.\n\
         # If the cluster is already initialized, all changes in the `bootstrap` section are ignored!\n\
         bootstrap:\n  \
           # This section will be written into <dcs>:/<namespace>/<scope>/config after initializing\n  \
           # new cluster and all other cluster members will use it as a `global configuration`.\n  \
           # WARNING! If you want to change any of the parameters that were set up\n  \
           # via `bootstrap.dcs` section, please use `quoratectl edit-config`!\n  \
           dcs:\n",
    );
    for (name, seconds) in [("loop_wait", 10), ("retry_timeout", 10), ("ttl", 30)] {
        block(&mut text, name, &seconds.into(), "    ");
    }
    block(&mut text, "postgresql", &dynamic(major), "    ");
    for name in ["postgresql", "watchdog", "tags"] {
        section(&mut text, name);
    }
    text.truncate(text.trim_end().len());
    text
}

/// `name: value` in block style, every line after `indent`.
fn block(text: &mut String, name: &str, value: &Value, indent: &str) {
    let mut map = Map::new();
    map.insert(name.to_owned(), value.clone());
    let lines = yaml::block(&Value::Object(map));
    for line in lines.trim_end().lines() {
        let _ = writeln!(text, "{indent}{line}");
    }
}

/// This machine, as far as it can be found out: the host's name and address, PostgreSQL's version.
///
/// # Errors
///
/// The version could not be found out; the message says why.
pub(super) fn this_machine(environment: &Environment) -> Result<(Machine, Option<String>), String> {
    use std::net::{IpAddr, ToSocketAddrs as _};

    let mut warning = None;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| error.to_string()).and_then(|name| {
        let name = name.trim().to_owned();
        let mut addresses: Vec<IpAddr> =
            (name.as_str(), 0).to_socket_addrs().map_err(|error| error.to_string())?.map(|address| address.ip()).collect();
        // IPv4 first.
        addresses.sort_by_key(IpAddr::is_ipv6);
        let address = addresses.first().ok_or("the host name has no address")?;
        Ok((name, address.to_string()))
    });
    let host = match host {
        Ok(host) => Some(host),
        Err(error) => {
            warning = Some(format!("Failed to obtain address: {error}"));
            None
        }
    };
    let (directory, program) = server_program(environment);
    let path = if directory.is_empty() { program.into() } else { Path::new(&directory).join(program) };
    let major = super::validate::major_version_of(&path).map_err(|error| format!("Failed to get postgres version: {error}"))?;
    Ok((Machine { host, major }, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(major: u32) -> Machine {
        Machine { host: Some(("node1".to_owned(), "192.0.2.1".to_owned())), major }
    }

    fn read(text: &str) -> Value {
        yaml::parse(text, &Arc::new(Source::Variable("TEST".to_owned()))).expect("valid YAML").root.to_value()
    }

    #[test]
    fn the_sample_is_as_people_know_it() {
        insta::assert_snapshot!(sample(&machine(15), &Environment::empty()));
    }

    #[test]
    fn the_environment_is_laid_over_the_sample() {
        let environment = Environment::read([
            ("PATRONI_SCOPE", "x"),
            ("PATRONI_REPLICATION_USERNAME", "rep"),
            ("PATRONI_ETCD3_HOSTS", "a:1,b:2"),
            ("PATRONI_REWIND_PASSWORD", "p"),
        ]);
        let config = read(&sample(&machine(15), &environment));
        assert_eq!(config["scope"], "x");
        assert_eq!(config["etcd3"], json!({"hosts": ["a:1", "b:2"]}));
        assert_eq!(config["postgresql"]["pg_hba"][1], "host replication rep all scram-sha-256");
        assert_eq!(config["postgresql"]["authentication"]["rewind"], json!({"password": "p"}));
    }

    #[test]
    fn an_old_server_keeps_segments() {
        let config = read(&sample(&machine(12), &Environment::empty()));
        let parameters = &config["bootstrap"]["dcs"]["postgresql"]["parameters"];
        assert_eq!((&parameters["wal_keep_segments"], parameters.get("wal_keep_size")), (&json!(8), None));
    }

    #[test]
    fn an_unknown_address_is_to_be_filled_in() {
        let config = read(&sample(&Machine { host: None, major: 15 }, &Environment::empty()));
        assert_eq!((&config["name"], &config["restapi"]["listen"]), (&json!("#FIXME"), &json!("#FIXME:8008")));
    }
}
