//! `PATRONI_*` variables: read once, at start, and kept away from every child process.
//!
//! The process environment itself is never changed (that is not safe in a threaded program). Instead the variables that
//! were read are remembered by name, and [`Environment::hides`] tells whoever starts a child which ones to leave out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

use ha_engine::settings::values;
use serde_json::Value;

use super::tree::{Mapping, Place, Source};
use super::yaml;

/// What every variable of ours begins with.
pub const PREFIX: &str = "PATRONI_";
/// The variable that holds a whole configuration.
pub const CONFIGURATION: &str = "PATRONI_CONFIGURATION";

const TOP_LEVEL: [&str; 5] = ["name", "namespace", "scope", "thread_pool_size", "thread_stack_size"];
const RENAMED: [(&str, &str); 3] = [("LOG_LEVEL", "LOGLEVEL"), ("LOG_FORMAT", "LOGFORMAT"), ("LOG_DATEFORMAT", "LOG_DATEFMT")];
const SECTIONS: [(&str, &[&str]); 5] = [
    (
        "restapi",
        &[
            "listen",
            "connect_address",
            "certfile",
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "http_extra_headers",
            "https_extra_headers",
            "allowlist",
            "allowlist_include_members",
            "request_queue_size",
            "server_tokens",
            "thread_pool_size",
        ],
    ),
    ("ctl", &["insecure", "cacert", "certfile", "keyfile", "keyfile_password"]),
    ("postgresql", &["listen", "connect_address", "proxy_address", "config_dir", "data_dir", "pgpass", "bin_dir"]),
    (
        "log",
        &[
            "type",
            "level",
            "traceback_level",
            "format",
            "dateformat",
            "static_fields",
            "max_queue_size",
            "dir",
            "mode",
            "file_size",
            "file_num",
            "loggers",
            "deduplicate_heartbeat_logs",
        ],
    ),
    ("raft", &["data_dir", "self_addr", "partner_addrs", "password", "bind_addr"]),
];
const BINARIES: [&str; 7] = ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"];

/// The settings of one database user: name, password and libpq's keywords for TLS and GSS.
pub(crate) const AUTHENTICATION_KEYS: [&str; 12] = [
    "username",
    "password",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

const STORE_SUFFIXES: [&str; 42] = [
    "HOST",
    "HOSTS",
    "PORT",
    "USE_PROXIES",
    "PROTOCOL",
    "SRV",
    "SRV_SUFFIX",
    "URL",
    "PROXY",
    "CACERT",
    "CERT",
    "KEY",
    "VERIFY",
    "TOKEN",
    "CHECKS",
    "DC",
    "CONSISTENCY",
    "REGISTER_SERVICE",
    "SERVICE_CHECK_INTERVAL",
    "SERVICE_CHECK_TLS_SERVER_NAME",
    "SERVICE_TAGS",
    "NAMESPACE",
    "CONTEXT",
    "USE_ENDPOINTS",
    "SCOPE_LABEL",
    "ROLE_LABEL",
    "POD_IP",
    "PORTS",
    "LABELS",
    "BYPASS_API_SERVICE",
    "RETRIABLE_HTTP_CODES",
    "KEY_PASSWORD",
    "USE_SSL",
    "SET_ACLS",
    "GROUP",
    "DATABASE",
    "LEADER_LABEL_VALUE",
    "FOLLOWER_LABEL_VALUE",
    "STANDBY_LEADER_LABEL_VALUE",
    "TMP_ROLE_LABEL",
    "AUTH_DATA",
    "BOOTSTRAP_LABELS",
];

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Integer,
    List,
    Mapping,
    LogFormat,
}

/// The environment as it was at start, and the configuration in it.
#[derive(Clone)]
pub struct Environment {
    tree: Mapping,
    configuration: Option<String>,
    taken: BTreeSet<String>,
    warnings: Vec<String>,
}

impl fmt::Debug for Environment {
    /// Names only: the values contain passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("variables", &self.taken).finish_non_exhaustive()
    }
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_this_process() -> Self {
        Self::read(std::env::vars_os())
    }

    /// No variables at all.
    pub fn empty() -> Self {
        Self::read(std::iter::empty::<(OsString, OsString)>())
    }

    /// Reads `variables`, of which only those with our prefix matter.
    pub fn read<K: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut reader = Reader::default();
        for (name, value) in variables {
            let Ok(name) = name.into().into_string() else { continue };
            if !name.starts_with(PREFIX) {
                continue;
            }
            match value.into().into_string() {
                Ok(value) => {
                    reader.variables.insert(name[PREFIX.len()..].to_owned(), value);
                }
                Err(_) => reader.warnings.push(format!("{name} is not UTF-8 and is ignored")),
            }
        }
        reader.read()
    }

    /// The configuration in the recognised variables.
    pub fn tree(&self) -> &Mapping {
        &self.tree
    }

    /// The text of `PATRONI_CONFIGURATION`.
    pub fn configuration(&self) -> Option<&str> {
        self.configuration.as_deref()
    }

    /// What could not be used, and why.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The names of the variables that were read as configuration. Children never see them.
    pub fn taken(&self) -> &BTreeSet<String> {
        &self.taken
    }

    /// Whether `name` was read as configuration, and so is not passed on to callbacks and other children.
    pub fn hides(&self, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| self.taken.contains(name))
    }

    /// Whether `name` is not passed on to the postmaster: everything with our prefix or that of Kubernetes, and the
    /// service manager's socket.
    pub fn hides_from_postmaster(name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        name.starts_with(PREFIX.as_bytes()) || name.starts_with(b"KUBERNETES_") || name == b"NOTIFY_SOCKET"
    }
}

#[derive(Default)]
struct Reader {
    /// Without the prefix.
    variables: BTreeMap<String, String>,
    tree: Mapping,
    taken: BTreeSet<String>,
    warnings: Vec<String>,
}

impl Reader {
    fn read(mut self) -> Environment {
        for key in TOP_LEVEL {
            self.set(&key.to_uppercase(), &[key], Kind::Text);
        }
        for (name, old) in RENAMED {
            if let Some(value) = self.take(old).filter(|value| !value.is_empty()) {
                self.variables.entry(name.to_owned()).or_insert(value);
            }
        }
        for (section, keys) in SECTIONS {
            for key in keys {
                let name = format!("{section}_{key}").to_uppercase();
                self.set(&name, &[section, key], kind_of(section, key));
            }
        }
        for binary in BINARIES {
            let name = format!("POSTGRESQL_BIN_{binary}").to_uppercase();
            self.set(&name, &["postgresql", "bin_name", binary], Kind::Text);
        }
        for section in ["ctl", "restapi"] {
            for key in ["username", "password"] {
                let name = format!("{section}_{key}").to_uppercase();
                self.set(&name, &[section, "authentication", key], Kind::Text);
            }
        }
        for user in ["replication", "superuser", "rewind"] {
            for key in AUTHENTICATION_KEYS {
                let name = format!("{user}_{key}").to_uppercase();
                self.set(&name, &["postgresql", "authentication", user, key], Kind::Text);
            }
        }
        self.read_stores();
        let configuration = self.take("CONFIGURATION");
        Environment { tree: self.tree, configuration, taken: self.taken, warnings: self.warnings }
    }

    /// `<SECTION>_<SUFFIX>`: every section that has one of the suffixes of a store.
    fn read_stores(&mut self) {
        let names: Vec<String> = self.variables.keys().cloned().collect();
        for name in names {
            let Some((section, suffix)) = name.split_once('_') else { continue };
            let known = STORE_SUFFIXES.contains(&suffix) || (section, suffix) == ("CONSUL", "SCHEME");
            if section.is_empty() || !known {
                continue;
            }
            let kind = match (section, suffix) {
                ("CITUS", "GROUP") => Kind::Integer,
                ("CITUS", "DATABASE") => Kind::Text,
                ("CITUS", _) => continue,
                ("ZOOKEEPER", "USE_SSL") => Kind::Word,
                (_, "PORT") => Kind::Integer,
                (_, "HOSTS" | "PORTS" | "CHECKS" | "SERVICE_TAGS" | "RETRIABLE_HTTP_CODES") => Kind::List,
                (_, "LABELS" | "SET_ACLS" | "AUTH_DATA" | "BOOTSTRAP_LABELS") => Kind::Mapping,
                (_, "USE_PROXIES" | "REGISTER_SERVICE" | "USE_ENDPOINTS" | "BYPASS_API_SERVICE" | "VERIFY") => Kind::Word,
                _ => Kind::Text,
            };
            let path = [section.to_lowercase(), suffix.to_lowercase()];
            let Some(text) = self.take(&name) else { continue };
            let value = if text.is_empty() && matches!(kind, Kind::Text | Kind::List | Kind::Integer) {
                Some(Value::String(String::new()))
            } else {
                self.convert(&name, &text, kind)
            };
            if let Some(value) = value {
                self.insert(&name, &[&path[0], &path[1]], value);
            }
        }
        for section in ["etcd", "etcd3"] {
            if self.tree.get(section).is_some() {
                for key in ["username", "password"] {
                    self.set(&format!("{section}_{key}").to_uppercase(), &[section, key], Kind::Text);
                }
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.variables.remove(name)?;
        self.taken.insert(format!("{PREFIX}{name}"));
        Some(value)
    }

    /// An empty variable counts as unset.
    fn set(&mut self, name: &str, path: &[&str], kind: Kind) {
        let Some(text) = self.take(name).filter(|text| !text.is_empty()) else { return };
        if let Some(value) = self.convert(name, &text, kind).filter(|value| kind != Kind::List || values::is_set(value)) {
            self.insert(name, path, value);
        }
    }

    fn insert(&mut self, name: &str, path: &[&str], value: Value) {
        let place = Place::of(&Arc::new(Source::Variable(format!("{PREFIX}{name}"))));
        self.tree.insert_at(path, value, &place);
    }

    fn convert(&mut self, name: &str, text: &str, kind: Kind) -> Option<Value> {
        let unparsed = Value::String(text.to_owned());
        match kind {
            Kind::Text => Some(unparsed),
            Kind::Word => {
                let word = values::bool_word(&unparsed).map(Value::Bool);
                self.or_warn(name, word, "not a boolean")
            }
            Kind::Integer => {
                let number = values::int(&unparsed, None).map(Value::from);
                self.or_warn(name, number, "not a whole number")
            }
            Kind::List => self.yaml(name, text, "list"),
            Kind::Mapping => self.yaml(name, text, "dict"),
            Kind::LogFormat if has_placeholder(text) => Some(unparsed),
            Kind::LogFormat => self.yaml(name, text, "list").or(Some(unparsed)),
        }
    }

    fn or_warn(&mut self, name: &str, value: Option<Value>, what: &str) -> Option<Value> {
        if value.is_none() {
            self.warnings.push(format!("{PREFIX}{name} is {what} and is ignored"));
        }
        value
    }

    /// Reads a list or a mapping written as YAML; the brackets may be left out.
    fn yaml(&mut self, name: &str, text: &str, what: &str) -> Option<Value> {
        let complete = match what {
            "list" if text.trim().starts_with('-') || text.contains('[') => text.to_owned(),
            "list" => format!("[{text}]"),
            _ if text.trim().starts_with('{') => text.to_owned(),
            _ => format!("{{{text}}}"),
        };
        let source = Arc::new(Source::Variable(format!("{PREFIX}{name}")));
        match yaml::parse(&complete, &source) {
            Ok(document) => Some(document.root.to_value()).filter(|value| !value.is_null()),
            Err(error) => {
                // The text itself may be a credential (AUTH_DATA) and is left out of the log.
                self.warnings.push(format!("Exception when parsing {what} in {PREFIX}{name}, which is ignored: {error}"));
                None
            }
        }
    }
}

fn kind_of(section: &str, key: &str) -> Kind {
    match (section, key) {
        ("restapi", "allowlist_include_members") | ("ctl", "insecure") | ("log", "deduplicate_heartbeat_logs") => Kind::Word,
        ("restapi", "request_queue_size" | "thread_pool_size") | ("log", "max_queue_size" | "file_size" | "file_num" | "mode") => {
            Kind::Integer
        }
        ("restapi", "allowlist") | ("raft", "partner_addrs") => Kind::List,
        ("restapi", "http_extra_headers" | "https_extra_headers") | ("log", "static_fields" | "loggers") => Kind::Mapping,
        ("log", "format") => Kind::LogFormat,
        _ => Kind::Text,
    }
}

/// Whether a log format contains `%(word)`.
fn has_placeholder(text: &str) -> bool {
    text.split("%(").skip(1).any(|rest| {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        word > 0 && rest[word..].starts_with(')')
    })
}

#[cfg(test)]
mod tests;
