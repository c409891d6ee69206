//! What each member publishes about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::{HandleId, Lsn, MemberName, Revision, Timeline};

/// A word of the store's vocabulary that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known name")]
pub struct UnknownName(pub String);

macro_rules! named {
    ($(#[$outer:meta])* $type:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$inner])* $variant,)+ }

        impl $type {
            /// The text that stands in member keys and REST answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// What a node is in its cluster.
    Role {
        /// A writable server known to be in production.
        Primary = "primary",
        /// The leader of a standby cluster.
        StandbyLeader = "standby_leader",
        /// Any other standby.
        Replica = "replica",
        /// Was primary, is being or has been shut down by the agent.
        Demoted = "demoted",
        /// No usable data directory.
        Uninitialized = "uninitialized",
        /// Promotion was requested and is not confirmed yet.
        Promoted = "promoted",
    }
}

impl FromStr for Role {
    type Err = UnknownName;

    /// Also reads `master`, which agents before 4.0 wrote.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Ok(match text {
            "primary" | "master" => Self::Primary,
            "standby_leader" => Self::StandbyLeader,
            "replica" => Self::Replica,
            "demoted" => Self::Demoted,
            "uninitialized" => Self::Uninitialized,
            "promoted" => Self::Promoted,
            other => return Err(UnknownName(other.to_owned())),
        })
    }
}

named! {
    /// What a node's PostgreSQL is doing. The order is that of the published metric, so the discriminants never change.
    ServerState {
        /// `initdb` is running.
        InitializingNewCluster = "initializing new cluster",
        /// `initdb` failed.
        InitdbFailed = "initdb failed",
        /// A custom bootstrap command is running.
        RunningCustomBootstrap = "running custom bootstrap script",
        /// That command failed.
        CustomBootstrapFailed = "custom bootstrap failed",
        /// A replica method is running.
        CreatingReplica = "creating replica",
        /// The server accepts connections.
        Running = "running",
        /// The postmaster was launched (or found) and does not accept connections yet.
        Starting = "starting",
        /// The same, during a custom bootstrap.
        StartingAfterCustomBootstrap = "starting after custom bootstrap",
        /// The postmaster died during start.
        StartFailed = "start failed",
        /// A restart is in progress.
        Restarting = "restarting",
        /// Stop or start of a restart failed.
        RestartFailed = "restart failed",
        /// A stop is in progress.
        Stopping = "stopping",
        /// Not running, as it should be.
        Stopped = "stopped",
        /// A stop failed.
        StopFailed = "stop failed",
        /// It was running or starting, and the postmaster is gone.
        Crashed = "crashed",
    }
}

impl ServerState {
    /// All states, in the order of their metric values.
    pub const ALL: [Self; 15] = [
        Self::InitializingNewCluster,
        Self::InitdbFailed,
        Self::RunningCustomBootstrap,
        Self::CustomBootstrapFailed,
        Self::CreatingReplica,
        Self::Running,
        Self::Starting,
        Self::StartingAfterCustomBootstrap,
        Self::StartFailed,
        Self::Restarting,
        Self::RestartFailed,
        Self::Stopping,
        Self::Stopped,
        Self::StopFailed,
        Self::Crashed,
    ];

    /// Whether the postmaster was launched and the server is not ready yet.
    pub const fn is_starting(self) -> bool {
        matches!(self, Self::Starting | Self::StartingAfterCustomBootstrap)
    }

    /// The value of the state metric.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl FromStr for ServerState {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownName(text.to_owned()))
    }
}

/// A parameter whose new value waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRestart {
    /// The running value, in human form.
    pub old_value: String,
    /// The configured value, in human form.
    pub new_value: String,
}

/// A node's tags, as configured or as published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tags(pub Map<String, Value>);

impl Tags {
    /// Whether the value of `key` counts as true: anything but absent, null, false, 0 and the empty string, list or
    /// object. The string `"false"` is true, as in Patroni.
    pub fn is_truthy(&self, key: &str) -> bool {
        match self.0.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
        }
    }

    /// The value of `key` read as an integer, from a number or its text.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.0.get(key)? {
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float.round_ties_even() as i64)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Whether the node must not become leader: the `nofailover` tag decides; without it, a `failover_priority` of 0 or
    /// less.
    pub fn nofailover(&self) -> bool {
        match self.0.get("nofailover") {
            None | Some(Value::Null) => self.integer("failover_priority").is_some_and(|priority| priority <= 0),
            Some(_) => self.is_truthy("nofailover"),
        }
    }

    /// The tie-break between equally advanced nodes; 0 if the `nofailover` tag is set, 1 by default.
    pub fn failover_priority(&self) -> i64 {
        if self.is_truthy("nofailover") { 0 } else { self.integer("failover_priority").unwrap_or(1) }
    }

    /// Whether the node must not be a synchronous standby.
    pub fn nosync(&self) -> bool {
        match self.0.get("nosync") {
            None | Some(Value::Null) => self.integer("sync_priority").is_some_and(|priority| priority <= 0),
            Some(_) => self.is_truthy("nosync"),
        }
    }

    /// The order in which synchronous standbys are chosen.
    pub fn sync_priority(&self) -> i64 {
        if self.is_truthy("nosync") { 0 } else { self.integer("sync_priority").unwrap_or(1) }
    }

    /// Whether other nodes should rather be cloned from here.
    pub fn clonefrom(&self) -> bool {
        self.is_truthy("clonefrom")
    }

    /// Whether `GET /replica` should not send clients here.
    pub fn noloadbalance(&self) -> bool {
        self.is_truthy("noloadbalance")
    }

    /// Whether the node does not stream.
    pub fn nostream(&self) -> bool {
        match self.0.get("nostream") {
            Some(Value::String(text)) => matches!(text.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1"),
            _ => self.is_truthy("nostream"),
        }
    }

    /// The member to stream from instead of the leader.
    pub fn replicatefrom(&self) -> Option<&str> {
        self.0.get("replicatefrom").and_then(Value::as_str).filter(|name| !name.is_empty())
    }
}

/// The content of a member key. Fields that this version does not know are kept in `other`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberRecord {
    /// How other nodes reach PostgreSQL; no credentials.
    pub conn_url: Option<String>,
    /// How others reach the REST API.
    pub api_url: Option<String>,
    /// Like `conn_url`, for a pooler.
    pub proxy_url: Option<String>,
    /// The state, as written.
    pub state: Option<String>,
    /// The role, as written.
    pub role: Option<String>,
    /// Compatibility version of the agent, dotted integers.
    pub version: Option<String>,
    /// `Some(false)` until the leader's first checkpoint after its promotion is complete.
    pub checkpoint_after_promote: Option<bool>,
    /// Tags; empty means that none are published.
    pub tags: Tags,
    /// Parameters that wait for a restart; nothing if no restart is pending.
    pub pending_restart: Option<BTreeMap<String, PendingRestart>>,
    /// Flushed position of a primary; the larger of received and replayed of a standby.
    pub xlog_location: Option<Lsn>,
    /// Received position of a standby.
    pub receive_lsn: Option<Lsn>,
    /// Replayed position of a standby.
    pub replay_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    /// The timeline.
    pub timeline: Option<Timeline>,
    /// A scheduled restart, as published.
    pub scheduled_restart: Option<Map<String, Value>>,
    /// Whether the agent is in maintenance mode.
    pub pause: bool,
    /// Everything else.
    pub other: Map<String, Value>,
}

impl MemberRecord {
    /// The role, if it is a known one.
    pub fn role(&self) -> Option<Role> {
        self.role.as_deref().and_then(|role| role.parse().ok())
    }

    /// Whether the state is `running`.
    pub fn is_running(&self) -> bool {
        self.state.as_deref() == Some(ServerState::Running.as_str())
    }

    /// The agent's version as integers; nothing if it cannot be read.
    pub fn version_parts(&self) -> Option<Vec<u32>> {
        self.version.as_deref()?.split('.').map(|part| part.parse().ok()).collect()
    }
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// Revision of its key.
    pub revision: Revision,
    /// The liveness handle that its key is bound to.
    pub handle: Option<HandleId>,
    /// What it says; all empty if the value is damaged.
    pub record: MemberRecord,
}
