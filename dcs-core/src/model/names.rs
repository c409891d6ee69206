//! Newtypes for what must not be mixed up.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of one member, unique in its cluster. Compares exactly.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberName(String);

impl MemberName {
    /// The name `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two names are the same without regard to case, as names in `/sync` and
    /// `synchronous_standby_names` compare.
    pub fn same_as_standby(&self, other: &str) -> bool {
        self.0.to_lowercase() == other.to_lowercase()
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl From<String> for MemberName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl Borrow<str> for MemberName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for MemberName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for MemberName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// An opaque token for one stored value, taken from a read or a write and used for compare-and-set.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// The token `text`, in the store's own form.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token in the store's own form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<i64> for Revision {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// The liveness handle that a key is bound to: an etcd lease, a Consul or ZooKeeper session, a Raft lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(String);

impl HandleId {
    /// The handle `text`, in the store's own form.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The handle in the store's own form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HandleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A PostgreSQL system identifier: all digits, at least ten of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SystemId(String);

impl SystemId {
    /// Reads `text` as a system identifier; nothing if it is not a valid one.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() >= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        valid.then(|| Self(text.to_owned()))
    }

    /// The identifier in decimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
