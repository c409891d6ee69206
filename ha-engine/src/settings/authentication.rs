//! Who connects to PostgreSQL, and with what.

use std::collections::BTreeMap;
use std::fmt;

/// A text that must not be shown. There is no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The credentials of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The role name; libpq's default if absent.
    pub username: Option<String>,
    /// The password; none for peer or certificate authentication.
    pub password: Option<Secret>,
    /// libpq keywords for TLS and GSS: `sslmode`, `sslcert`, `sslkey`, `sslpassword`, `sslrootcert`, `sslcrl`,
    /// `sslcrldir`, `gssencmode`, `channel_binding`, `sslnegotiation`.
    pub options: BTreeMap<String, String>,
}

impl Credentials {
    /// A role with a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: Some(username.into()), password: Some(Secret::new(password)), options: BTreeMap::new() }
    }
}

/// The users that the agent works with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Local administration.
    pub superuser: Credentials,
    /// Streaming replication and base backups.
    pub replication: Credentials,
    /// `pg_rewind` and checks on the leader; the superuser if absent.
    pub rewind: Option<Credentials>,
}

impl Authentication {
    /// The user for `pg_rewind` and checks on the leader.
    pub fn rewind(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }
}
