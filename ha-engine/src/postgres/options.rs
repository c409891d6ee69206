//! Options of external programs: from lists and mappings in the configuration to arguments.

use serde_json::{Map, Value};

use crate::settings::CommandLine;

use super::value::text_form;
use super::words::unquote;

/// Arguments, and what is wrong with the options that gave none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `--name` and `--name=value`, in configuration order.
    pub(crate) arguments: Vec<String>,
    /// The complaints, in configuration order.
    pub(crate) errors: Vec<String>,
}

/// The arguments of `initdb`.
///
/// # Errors
///
/// The first complaint: a cluster is not made with half of the options.
pub(crate) fn initdb(options: &Value) -> Result<Vec<String>, String> {
    let converted = convert("initdb", options, &["pgdata", "nosync", "pwfile", "sync-only", "version"]);
    match converted.errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(converted.arguments),
    }
}

/// The arguments of `pg_basebackup` of a server of `version`. What is wrong is left out.
pub(crate) fn basebackup(options: &Value, version: u32) -> Options {
    let forbidden =
        ["pgdata", "format", "wal-method", "xlog-method", "gzip", "version", "dbname", "host", "port", "username", "password", "compress"];
    let compress_too = version < 150_000;
    let forbidden = if compress_too { &forbidden[..] } else { &forbidden[..forbidden.len() - 1] };
    let mut converted = convert("basebackup", options, forbidden);
    let before = converted.arguments.len();
    // The backup is written as plain files, so it has to be unpacked before it arrives.
    converted.arguments.retain(|argument| argument.strip_prefix("--compress=").is_none_or(|method| method.starts_with("server")));
    for _ in converted.arguments.len()..before {
        converted.errors.push(
            "compress option for basebackup must use server-side compression (e.g., server-gzip, server-zstd). \
             Client-side compression is not allowed."
                .to_owned(),
        );
    }
    converted
}

fn convert(tool: &str, options: &Value, forbidden: &[&str]) -> Options {
    let mut converted = Options::default();
    match options {
        Value::Null => {}
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(name, value)| !name.is_empty() && is_something(value)) {
                if converted.allows(tool, name, forbidden) {
                    converted.arguments.push(format!("--{name}={}", unquote(&text_form(value))));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| converted.push_item(tool, item, forbidden)),
        _ => converted.errors.push(format!("{tool} options must be list or dict")),
    }
    converted
}

impl Options {
    fn allows(&mut self, tool: &str, name: &str, forbidden: &[&str]) -> bool {
        let allowed = !forbidden.contains(&name);
        if !allowed {
            self.errors.push(format!("{name} option for {tool} is not allowed"));
        }
        allowed
    }

    fn push_item(&mut self, tool: &str, item: &Value, forbidden: &[&str]) {
        match item {
            Value::String(name) if self.allows(tool, name, forbidden) => self.arguments.push(format!("--{name}")),
            Value::Object(map) => self.push_pair(tool, map, forbidden),
            other => self.errors.push(format!(
                "Error when parsing {tool} option {}: value should be string value or a single key-value pair",
                text_form(other)
            )),
        }
    }

    fn push_pair(&mut self, tool: &str, map: &Map<String, Value>, forbidden: &[&str]) {
        let mut entries = map.iter();
        let first = entries.next();
        match (first, entries.next()) {
            (Some((name, Value::String(value))), None) if self.allows(tool, name, forbidden) => {
                self.arguments.push(format!("--{name}={}", unquote(value)));
            }
            _ => {
                let hint = match first {
                    Some((name, Value::Bool(true))) => format!(". An option without a value is written `- {name}`"),
                    _ => String::new(),
                };
                self.errors.push(format!(
                    "Error when parsing {tool} key-value option {}: only one key-value is allowed and value should be a \
                     string{hint}",
                    first.map_or_else(|| "{}".to_owned(), |(_, value)| text_form(value))
                ));
            }
        }
    }
}

/// What a mapping's value must be to count.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) => true,
    }
}

/// What a custom method is told about the node it works for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MethodContext<'a> {
    /// The cluster.
    pub(crate) scope: &'a str,
    /// The data directory.
    pub(crate) data_dir: &'a str,
    /// The connection string of the source; empty without one.
    pub(crate) connstring: &'a str,
}

/// The arguments of a custom replica method: those of the command, then its parameters in configuration order, then our
/// four. A parameter that is named like one of ours gets our value and keeps its place. With `no_params` ours are left out.
pub(crate) fn replica_method(
    command: &CommandLine,
    parameters: &[(String, Value)],
    no_params: bool,
    context: MethodContext<'_>,
) -> Vec<String> {
    let ours = [("scope", context.scope), ("role", "replica"), ("datadir", context.data_dir), ("connstring", context.connstring)];
    let mut pairs: Vec<(&str, String)> = parameters
        .iter()
        .filter(|(name, _)| name != "command")
        .filter(|(name, _)| !(no_params && matches!(name.as_str(), "no_params" | "no_leader" | "keep_data")))
        .map(|(name, value)| (name.as_str(), text_form(value)))
        .collect();
    if !no_params {
        for (name, value) in ours {
            match pairs.iter_mut().find(|(found, _)| *found == name) {
                Some(pair) => pair.1 = value.to_owned(),
                None => pairs.push((name, value.to_owned())),
            }
        }
    }
    let arguments = pairs.into_iter().map(|(name, value)| format!("--{name}={value}"));
    command.arguments.iter().cloned().chain(arguments).collect()
}

/// The arguments of a custom bootstrap method: those of the command, then scope and data directory unless `no_params`, then
/// its parameters in configuration order.
pub(crate) fn bootstrap_method(
    command: &CommandLine,
    parameters: &[(String, String)],
    no_params: bool,
    context: MethodContext<'_>,
) -> Vec<String> {
    let reserved = ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];
    let ours = [("scope", context.scope), ("datadir", context.data_dir)];
    let ours = ours.into_iter().filter(|_| !no_params).map(|(name, value)| format!("--{name}={value}"));
    let theirs = parameters.iter().filter(|(name, _)| !reserved.contains(&name.as_str())).map(|(name, value)| format!("--{name}={value}"));
    command.arguments.iter().cloned().chain(ours).chain(theirs).collect()
}

#[cfg(test)]
mod tests;
