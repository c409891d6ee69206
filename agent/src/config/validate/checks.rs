//! Checks that look at more than the value: the network, the file system, PostgreSQL's programs.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_engine::settings::values;
use serde_json::Value;

use super::Context;
use crate::config::address::split_host_port;

/// How long a server may take to answer before it counts as not reachable.
const PATIENCE: Duration = Duration::from_secs(3);
/// What others can't connect to.
const NOT_FOR_OTHERS: [&str; 5] = ["127.0.0.1", "0.0.0.0", "*", "::1", "localhost"];
/// The programs that an agent can't do without.
const PROGRAMS: [&str; 6] = ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"];

pub(super) fn wrong_unless(fits: bool) -> Result<(), String> {
    if fits { Ok(()) } else { Err("Wrong value".to_owned()) }
}

fn host_port(value: &Value) -> Result<(String, u16), String> {
    let text = value.as_str().ok_or("contains a wrong value")?;
    split_host_port(text, Some(1)).map_err(|_| "contains a wrong value".to_owned())
}

pub(super) fn connect_address(value: &Value, _: &Context) -> Result<(), String> {
    let (host, _) = host_port(value)?;
    if NOT_FOR_OTHERS.contains(&host.as_str()) {
        return Err(r#"must not contain "127.0.0.1", "0.0.0.0", "*", "::1", "localhost""#.to_owned());
    }
    Ok(())
}

pub(super) fn listen(value: &Value, context: &Context) -> Result<(), String> {
    let (host, port) = host_port(value)?;
    is_free(&host, port, context)
}

pub(super) fn listen_on_several(value: &Value, context: &Context) -> Result<(), String> {
    let (hosts, port) = host_port(value)?;
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
    if hosts.len() > 1 && hosts.contains(&"*") {
        return Err("expecting '*' alone".to_owned());
    }
    hosts.into_iter().try_for_each(|host| is_free(host, port, context))
}

/// Nothing listens there yet, unless that is fine.
fn is_free(host: &str, port: u16, context: &Context) -> Result<(), String> {
    let host = if host == "*" || host.is_empty() { "localhost" } else { host };
    let addresses = resolve(host, port)?;
    if !context.options.ignore_listen_port && addresses.iter().any(connects) {
        return Err(format!("Port {port} is already in use."));
    }
    Ok(())
}

pub(super) fn reachable(value: &Value, _: &Context) -> Result<(), String> {
    let (host, port) = host_port(value)?;
    if resolve(&host, port)?.iter().any(connects) { Ok(()) } else { Err(format!("{} is not reachable", values::text(value))) }
}

/// Every item of a list, or of a text with commas.
pub(super) fn reachable_list(value: &Value, context: &Context) -> Result<(), String> {
    let items: Vec<Value> = match value {
        Value::String(text) => text.split(',').map(|item| item.trim().into()).collect(),
        Value::Array(items) => items.clone(),
        _ => return Err("contains a wrong value".to_owned()),
    };
    items.iter().try_for_each(|item| reachable(item, context))
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    (host, port).to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string())
}

fn connects(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, PATIENCE).is_ok()
}

pub(super) fn ipv4(value: &Value, _: &Context) -> Result<(), String> {
    let fits = value.as_str().is_some_and(|text| text.parse::<Ipv4Addr>().is_ok());
    if fits { Ok(()) } else { Err("Is not a valid ipv4 address".to_owned()) }
}

pub(super) fn ipv6(value: &Value, _: &Context) -> Result<(), String> {
    let fits = value.as_str().is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    if fits { Ok(()) } else { Err("Is not a valid ipv6 address".to_owned()) }
}

pub(super) fn log_format(value: &Value, _: &Context) -> Result<(), String> {
    match value {
        Value::String(_) => Ok(()),
        Value::Array(items) if items.is_empty() => Err("should contain at least one item".to_owned()),
        Value::Array(items) => {
            let fits = |item: &Value| match item {
                Value::String(_) => true,
                Value::Object(map) => map.len() == 1 && map.values().all(Value::is_string),
                _ => false,
            };
            if items.iter().all(fits) { Ok(()) } else { Err("each item should be a string or a dictionary with string values".to_owned()) }
        }
        _ => Err("Should be a string or a list".to_owned()),
    }
}

pub(super) fn watchdog_mode(value: &Value, _: &Context) -> Result<(), String> {
    match value {
        Value::Bool(on) => wrong_unless(!on),
        Value::String(word) => wrong_unless(["off", "automatic", "required"].contains(&word.as_str())),
        _ => Err("expected type is not a string".to_owned()),
    }
}

pub(super) fn synchronous_mode(value: &Value, _: &Context) -> Result<(), String> {
    let quorum = value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("quorum"));
    if quorum || values::bool_word(value).is_some() { Ok(()) } else { Err("invalid value for synchronous_mode".to_owned()) }
}

/// `name` in `directory`, or in `PATH` if that is empty.
fn find_program(name: &str, directory: &str) -> Option<PathBuf> {
    let is_program =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    if !directory.is_empty() {
        return Some(Path::new(directory).join(name)).filter(is_program);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(is_program)
}

fn shown(directory: &str) -> &str {
    if directory.is_empty() { "$PATH" } else { directory }
}

pub(super) fn program(value: &Value, context: &Context) -> Result<(), String> {
    let name = value.as_str().unwrap_or_default();
    if name.is_empty() {
        return Err("is an empty string".to_owned());
    }
    match find_program(name, &context.bin_dir) {
        Some(_) => Ok(()),
        None => Err(format!("does not contain '{name}' in '{}'", shown(&context.bin_dir))),
    }
}

impl Context {
    fn bin_name<'a>(&'a self, program: &'a str) -> &'a str {
        self.bin_name.get(program).and_then(Value::as_str).unwrap_or(program)
    }
}

/// What is missing in the directory of PostgreSQL's programs.
pub(super) fn bin_directory(directory: &str, context: &Context) -> Vec<String> {
    if !directory.is_empty() {
        match fs::metadata(directory) {
            Err(_) => return vec![format!("Directory '{directory}' does not exist.")],
            Ok(metadata) if !metadata.is_dir() => return vec![format!("'{directory}' is not a directory.")],
            Ok(_) => {}
        }
    }
    PROGRAMS
        .into_iter()
        .map(|program| context.bin_name(program))
        .filter(|name| find_program(name, directory).is_none())
        .map(|name| format!("does not contain '{name}' in '{}'", shown(directory)))
        .collect()
}

pub(super) fn data_dir(value: &Value, context: &Context) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return Err("is an empty string".to_owned());
    }
    let directory = Path::new(text);
    if directory.exists() && !directory.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if is_empty(directory) {
        return Ok(());
    }
    let Ok(version) = fs::read_to_string(directory.join("PG_VERSION")) else {
        return Err("doesn't look like a valid data directory".to_owned());
    };
    let version = version.trim();
    if !directory.join("pg_wal").is_dir() {
        return Err("data dir for the cluster is not empty, but doesn't contain \"pg_wal\" directory".to_owned());
    }
    let binaries = major_version(context).unwrap_or_default();
    if version != binaries {
        return Err(format!(
            "data_dir directory postgresql version ({version}) doesn't match with 'postgres --version' output ({binaries})"
        ));
    }
    Ok(())
}

/// Nothing is in there that PostgreSQL would mind.
fn is_empty(directory: &Path) -> bool {
    if directory.join("global/pg_control").is_file() {
        return false;
    }
    let Ok(entries) = fs::read_dir(directory) else { return true };
    entries.flatten().all(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().starts_with(b".") || name == "lost+found"
    })
}

/// The major version of the configured programs.
fn major_version(context: &Context) -> Option<String> {
    let program = find_program(context.bin_name("postgres"), &context.bin_dir)?;
    super::major_version_of(&program).ok().map(|major| major.to_string())
}
