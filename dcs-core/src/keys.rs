//! Where each thing stands in the store: namespace, scope, group and key names, and the name of a member's slot.
//!
//! Only this module knows the spelling of keys. `/<namespace>/<scope>/` (with Citus `/<namespace>/<scope>/<group>/`) is the
//! cluster's prefix; everything under it that is not a [`Key`] belongs to somebody else and is left alone.

use std::fmt;

/// The namespace if none is configured.
pub const DEFAULT_NAMESPACE: &str = "service";

/// The longest name of a replication slot that PostgreSQL takes, in characters.
pub const SLOT_NAME_LENGTH: usize = 63;

/// One of the keys that Quorate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Who bootstraps, or the system identifier.
    Initialize,
    /// The dynamic configuration.
    Config,
    /// The leader lock.
    Leader,
    /// What the member of this name says about itself.
    Member(&'a str),
    /// A request for a switchover or failover.
    Failover,
    /// The synchronous state.
    Sync,
    /// The timelines left behind.
    History,
    /// The leader's positions.
    Status,
    /// The leader's position as agents before 2.1.0 wrote and read it.
    LegacyOptime,
    /// Whom the leader asks in failsafe mode.
    Failsafe,
}

impl<'a> Key<'a> {
    /// Reads a key relative to the cluster's prefix; nothing for a key of somebody else.
    pub fn parse(relative: &'a str) -> Option<Self> {
        Some(match relative {
            "initialize" => Self::Initialize,
            "config" => Self::Config,
            "leader" => Self::Leader,
            "failover" => Self::Failover,
            "sync" => Self::Sync,
            "history" => Self::History,
            "status" => Self::Status,
            "optime/leader" => Self::LegacyOptime,
            "failsafe" => Self::Failsafe,
            other => {
                let name = other.strip_prefix("members/")?;
                if name.is_empty() || name.contains('/') {
                    return None;
                }
                Self::Member(name)
            }
        })
    }
}

impl fmt::Display for Key<'_> {
    /// The key relative to the cluster's prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialize => "initialize",
            Self::Config => "config",
            Self::Leader => "leader",
            Self::Member(name) => return write!(f, "members/{name}"),
            Self::Failover => "failover",
            Self::Sync => "sync",
            Self::History => "history",
            Self::Status => "status",
            Self::LegacyOptime => "optime/leader",
            Self::Failsafe => "failsafe",
        })
    }
}

/// The path under which one cluster keeps its keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterPath {
    /// Begins and ends with a slash, without empty parts.
    prefix: String,
}

impl ClusterPath {
    /// The path of the cluster `scope` in `namespace`. Leading, trailing and doubled slashes make no difference; an
    /// absent namespace is [`DEFAULT_NAMESPACE`].
    pub fn new(namespace: Option<&str>, scope: &str) -> Self {
        let parts = [namespace.unwrap_or(DEFAULT_NAMESPACE), scope];
        let mut prefix = String::from("/");
        for part in parts.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty()) {
            prefix.push_str(part);
            prefix.push('/');
        }
        Self { prefix }
    }

    /// The path of the Citus group `group` below this one.
    #[must_use]
    pub fn group(&self, group: u32) -> Self {
        Self { prefix: format!("{}{group}/", self.prefix) }
    }

    /// What every key of the cluster begins with, trailing slash included, so that `demo` never means `demo2`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The absolute key.
    pub fn key(&self, key: Key<'_>) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An absolute key relative to the prefix; nothing if it is not under it.
    pub fn relative<'a>(&self, absolute: &'a str) -> Option<&'a str> {
        absolute.strip_prefix(self.prefix.as_str())
    }

    /// Reads an absolute key; nothing for a key of somebody else.
    pub fn parse<'a>(&self, absolute: &'a str) -> Option<Key<'a>> {
        Key::parse(self.relative(absolute)?)
    }
}

/// Reads one path element as the number of a Citus group: decimal, without leading zeros.
pub fn parse_group(element: &str) -> Option<u32> {
    let digits = !element.is_empty() && element.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (element == "0" || !element.starts_with('0'));
    canonical.then(|| element.parse().ok()).flatten()
}

/// The name of the replication slot that the leader keeps for a member: lower case, `-` and `.` as `_`, other characters
/// that a slot's name cannot have as `u` and their code point in decimal, cut to [`SLOT_NAME_LENGTH`].
///
/// Two members can have the same slot name; whoever makes slots has to notice.
pub fn slot_name_from_member(member: &str) -> String {
    let mut name = String::with_capacity(member.len());
    for character in member.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' | '_' => name.push(character),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    // Everything in it is ASCII, so that bytes are characters.
    name.truncate(SLOT_NAME_LENGTH);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_the_default_namespace_give_the_same_keys() {
        for namespace in [None, Some("service"), Some("/service"), Some("/service/"), Some("//service")] {
            let path = ClusterPath::new(namespace, "batman");
            assert_eq!(path.key(Key::Leader), "/service/batman/leader", "{namespace:?}");
        }
        assert_eq!(ClusterPath::new(Some("/a//b/"), "c").prefix(), "/a/b/c/");
    }

    #[test]
    fn a_scope_is_not_mixed_up_with_one_that_it_begins() {
        let path = ClusterPath::new(None, "demo");
        assert_eq!(path.parse("/service/demo2/leader"), None);
        assert_eq!(path.parse("/service/demo/leader"), Some(Key::Leader));
    }

    #[test]
    fn every_key_reads_as_it_prints() {
        let path = ClusterPath::new(None, "demo");
        let keys = [
            Key::Initialize,
            Key::Config,
            Key::Leader,
            Key::Member("a b:c"),
            Key::Failover,
            Key::Sync,
            Key::History,
            Key::Status,
            Key::LegacyOptime,
            Key::Failsafe,
        ];
        for key in keys {
            assert_eq!(path.parse(&path.key(key)), Some(key));
        }
    }

    #[test]
    fn keys_of_somebody_else_are_nobodys() {
        let path = ClusterPath::new(None, "demo");
        for foreign in ["members", "members/", "members/a/b", "foo", "optime", "optime/x", "leader/x", "0/leader", ""] {
            assert_eq!(path.parse(&format!("/service/demo/{foreign}")), None, "{foreign}");
        }
    }

    #[test]
    fn a_group_is_a_number_without_leading_zeros() {
        assert_eq!(parse_group("0"), Some(0));
        assert_eq!(parse_group("17"), Some(17));
        for not in ["", "01", "-1", "+1", "1a", "99999999999"] {
            assert_eq!(parse_group(not), None, "{not}");
        }
        assert_eq!(ClusterPath::new(None, "batman").group(0).key(Key::Leader), "/service/batman/0/leader");
    }

    #[test]
    fn slot_names_are_those_of_existing_clusters() {
        let cases = [
            ("node-1.example.com", "node_1_example_com"),
            ("Node_A", "node_a"),
            ("a b", "au0032b"),
            ("ключ", "u1082u1083u1102u1095"),
            ("a:😀", "au0058u128512"),
        ];
        for (member, slot) in cases {
            assert_eq!(slot_name_from_member(member), slot);
        }
        assert_eq!(slot_name_from_member(&"x".repeat(100)).len(), SLOT_NAME_LENGTH);
    }
}
