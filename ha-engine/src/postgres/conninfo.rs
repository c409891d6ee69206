//! libpq's connection strings: read, written, and made for each of their purposes; and the password file that keeps
//! passwords out of them.

use std::collections::BTreeMap;
use std::fmt;

use crate::decide::observation::Upstream;
use crate::settings::{Credentials, PostgresSettings};

mod parse;
mod passfile;

pub(crate) use self::passfile::write_passfile;

/// Keywords and values of a connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnInfo(BTreeMap<String, String>);

/// Keywords in the order in which they are written. `passfile` stands for the password if there is one.
const ORDER: [&str; 20] = [
    "dbname",
    "user",
    "passfile",
    "password",
    "host",
    "port",
    "sslmode",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "application_name",
    "krbsrvname",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
    "sslnegotiation",
];

/// The first major whose libpq knows `keyword`.
fn since(keyword: &str) -> u32 {
    match keyword {
        "gssencmode" => 120_000,
        "channel_binding" | "sslpassword" => 130_000,
        "sslcrldir" => 140_000,
        "sslnegotiation" => 170_000,
        _ => 0,
    }
}

/// What libpq does if these keywords are absent, as far as comparisons need it.
const DEFAULTS: [(&str, &str); 4] =
    [("sslmode", "prefer"), ("gssencmode", "prefer"), ("channel_binding", "prefer"), ("sslnegotiation", "postgres")];

impl ConnInfo {
    /// Reads a connection string, `keyword=value …` or a `postgres://` URL; nothing if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        parse::parse(text)
    }

    /// A connection to `upstream` with `credentials`; `database` if the upstream names none.
    pub(crate) fn for_upstream(upstream: &Upstream, credentials: &Credentials, database: &str) -> Self {
        let mut conninfo = Self::default().with("host", &upstream.host);
        if let Some(port) = upstream.port {
            conninfo.set("port", port.to_string());
        }
        conninfo.set("dbname", upstream.dbname.as_deref().filter(|name| !name.is_empty()).unwrap_or(database));
        conninfo.add_credentials(credentials);
        conninfo
    }

    /// `primary_conninfo` of the member `name` that streams from `upstream`, with the password.
    pub(crate) fn primary(settings: &PostgresSettings, upstream: &Upstream, name: &str, major: u32) -> Self {
        let replication = &settings.authentication.replication;
        let mut conninfo = Self::for_upstream(upstream, replication, &settings.database);
        conninfo.set("application_name", name);
        for (keyword, default) in DEFAULTS {
            if conninfo.get(keyword).is_none() {
                conninfo.set(keyword, default);
            }
        }
        if let Some(service) = &settings.krbsrvname {
            conninfo.set("krbsrvname", service);
        }
        // Of several remote hosts only the primary will do, with or without a slot.
        if upstream.remote && upstream.host.contains(',') {
            conninfo.set("target_session_attrs", "read-write");
        }
        conninfo.0.retain(|keyword, _| since(keyword) <= major);
        conninfo
    }

    /// Adds a user with password and TLS settings.
    pub(crate) fn add_credentials(&mut self, credentials: &Credentials) {
        if let Some(user) = &credentials.username {
            self.set("user", user);
        }
        if let Some(password) = &credentials.password {
            self.set("password", password.expose());
        }
        for (keyword, value) in &credentials.options {
            self.set(keyword, value);
        }
    }

    /// The value of `keyword`.
    pub(crate) fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    /// Sets `keyword`.
    pub(crate) fn set(&mut self, keyword: &str, value: impl Into<String>) {
        self.0.insert(keyword.to_owned(), value.into());
    }

    /// The same with `keyword` set.
    pub(crate) fn with(mut self, keyword: &str, value: impl Into<String>) -> Self {
        self.set(keyword, value);
        self
    }

    /// The same without `keyword`.
    pub(crate) fn without(mut self, keyword: &str) -> Self {
        self.0.remove(keyword);
        self
    }

    /// Whether nothing is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keywords and values, by keyword.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(keyword, value)| (keyword.as_str(), value.as_str()))
    }

    /// The connection string, without what the libpq of `major` does not know.
    pub(crate) fn format(&self, major: u32) -> String {
        let instead = self.get("passfile").is_some_and(|path| !path.is_empty());
        let pairs = ORDER
            .iter()
            .filter(|keyword| since(keyword) <= major)
            .filter(|keyword| **keyword != if instead { "password" } else { "passfile" })
            .filter_map(|keyword| self.get(keyword).map(|value| format!("{keyword}={}", escape(value))));
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// Whether a server that connects like `self` does what `wanted` asks for: every wanted keyword has the same value.
    /// Further keywords do not matter; what is absent reads as libpq's default.
    pub(crate) fn satisfies(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(keyword, value)| {
            let default = || DEFAULTS.iter().find(|(name, _)| *name == keyword).map(|(_, default)| *default);
            self.get(keyword).or_else(default) == Some(value)
        })
    }

    /// The lines of a password file for this connection; nothing without a password.
    pub(crate) fn passfile_lines(&self) -> Option<String> {
        passfile::lines(self)
    }
}

/// Passwords are not shown.
impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |keyword: &str| matches!(keyword, "password" | "sslpassword");
        f.debug_map().entries(self.iter().map(|(k, v)| (k, if secret(k) { "***" } else { v }))).finish()
    }
}

/// A value in a connection string.
fn escape(value: &str) -> String {
    if value.is_empty() {
        // Without quotes libpq would take the next keyword for the value.
        return "''".to_owned();
    }
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, '\'' | '\\') || character.is_ascii_whitespace() || character == '\x0b' {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests;
