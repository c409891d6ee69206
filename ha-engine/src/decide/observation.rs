//! Everything a decision may use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::failsafe::exclusion::Promise;
use super::slots::LogicalReport;
use super::sync::sample::SyncSample;
use dcs_core::Moment;
use dcs_core::model::{ClusterView, Lsn, MemberName, PendingRestart, Role, ServerState, SystemId, Tags, Timeline};

/// Parameters that wait for a restart, by name.
pub type PendingRestarts = BTreeMap<String, PendingRestart>;

/// One look at the world, taken within one cycle.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The name of this node.
    pub me: MemberName,
    /// The tags of this node.
    pub tags: Tags,
    /// The REST URL of this node.
    pub api_url: String,
    /// The cluster as just loaded, or that the store failed.
    pub view: Result<Arc<ClusterView>, StoreFailed>,
    /// When the agent was started. What it had promised before that is forgotten.
    pub started_at: Moment,
    /// The word that this node has given not to race, if it is in force.
    pub promise: Option<Promise>,
    /// The local server.
    pub server: ServerObservation,
    /// The watchdog.
    pub watchdog: WatchdogObservation,
    /// What a primary shows of its standbys; read only in synchronous mode.
    pub synchronous: Option<SyncSample>,
    /// What came of the work on logical slots that was ordered by a former cycle; told once.
    pub slot_report: Option<LogicalReport>,
    /// The version of the running server, e.g. 150018; read only while a restart is scheduled.
    pub server_version: Option<u32>,
    /// The long task that is running.
    pub task: Option<RunningTask>,
    /// Whether a start, stop or role callback has been due since the agent started.
    pub callback_called: bool,
    /// Whether this node has a `bootstrap` section.
    pub may_bootstrap: bool,
    /// What the configuration allows about divergence.
    pub rewind_policy: RewindPolicy,
    /// Whether replication slots are used.
    pub use_slots: bool,
    /// Replica methods that work without a node to clone from exist.
    pub has_leaderless_method: bool,
}

/// The watchdog at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogObservation {
    /// Whether the configuration wants one, if it can be had.
    pub wanted: bool,
    /// Whether it is armed.
    pub running: bool,
    /// False: one is required and cannot be used, so that this node must not lead.
    pub usable: bool,
}

/// The store could not be used; the log has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFailed;

/// What may be done with a data directory that has diverged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewindPolicy {
    /// `use_pg_rewind`, the program is there, and the control file allows it.
    pub can_rewind: bool,
    /// Rebuild what cannot be rewound (`remove_data_directory_on_diverged_timelines`).
    pub rebuild_diverged: bool,
    /// Rebuild after a failed rewind (`remove_data_directory_on_rewind_failure`, or the former).
    pub rebuild_after_failure: bool,
}

impl RewindPolicy {
    /// Whether knowing about a divergence would change anything.
    pub fn can_act(self) -> bool {
        self.can_rewind || self.rebuild_diverged
    }
}

/// A long task beside the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTask {
    /// Its name, as operators see it.
    pub name: String,
    /// What kind of task it is, as far as decisions differ.
    pub kind: TaskKind,
    /// When it was started.
    pub since: Moment,
}

/// Tasks that some rows treat in a way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Promotion; whether its `pre_promote` part is still running.
    Promote {
        /// `pre_promote` has not ended yet.
        pre_promote_pending: bool,
    },
    /// Single-user crash recovery.
    CrashRecovery,
    /// A restart on request.
    Restart,
    /// Starting a crashed primary.
    StartAfterFailure,
    /// A demotion: it stops the server anyway.
    Demote,
    /// Anything else.
    Other,
}

/// The local server at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerObservation {
    /// State as known to the agent.
    pub state: ServerState,
    /// Role as known to the agent.
    pub role: Role,
    /// When the state was entered.
    pub since: Moment,
    /// Whether a postmaster of this data directory runs.
    pub postmaster: Postmaster,
    /// The data directory.
    pub data_dir: DataDir,
    /// The system identifier, if it could be read.
    pub system_id: Option<SystemId>,
    /// What the server said this cycle.
    pub monitor: Monitor,
    /// The slots; none if they were not asked for or could not be read.
    pub slots: Option<Vec<SlotObservation>>,
    /// e.g. 150000; none without a readable `PG_VERSION`.
    pub major_version: Option<u32>,
    /// Parameters that wait for a restart.
    pub pending_restart: PendingRestarts,
}

/// The process table's view of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Postmaster {
    /// Not running.
    None,
    /// Running since this many seconds after the epoch.
    Running {
        /// The process.
        pid: i32,
        /// Start time, seconds since the epoch.
        started_at: i64,
    },
    /// A single-user server holds the directory.
    SingleUser {
        /// The process.
        pid: i32,
    },
}

impl Postmaster {
    /// Whether something runs on the data directory.
    pub fn is_running(self) -> bool {
        self != Self::None
    }
}

/// The data directory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// Missing, or only dot-files and `lost+found`.
    Empty,
    /// It cannot be looked at; the reason.
    Inaccessible(String),
    /// There is a cluster in it.
    Present {
        /// `standby.signal` or `recovery.signal` exists.
        recovery_file: bool,
        /// `backup_label` exists.
        backup_label: bool,
    },
}

/// What the monitoring query said.
#[derive(Clone, Debug, PartialEq)]
pub enum Monitor {
    /// Not asked: the server does not run or is starting.
    NotAsked,
    /// It failed twice, or was cancelled by the statement timeout.
    Failed,
    /// A writable server.
    Primary(PrimaryMonitor),
    /// A server in recovery.
    Standby(StandbyMonitor),
}

/// A writable server's positions.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryMonitor {
    /// Its timeline.
    pub timeline: Timeline,
    /// Flushed position.
    pub lsn: Lsn,
}

/// A standby's positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyMonitor {
    /// Replayed position.
    pub replayed: Lsn,
    /// The larger of received and written position; 0 if nothing was received.
    pub received: Lsn,
    /// Whether replay is paused.
    pub replay_paused: bool,
    /// The timeline that the WAL receiver reported.
    pub received_timeline: Option<Timeline>,
    /// The timeline of the control file's checkpoint (standby leaders).
    pub control_timeline: Option<Timeline>,
    /// `streaming`, `in archive recovery` or nothing.
    pub replication_state: Option<String>,
}

/// What [`StandbyMonitor::replication_state`] says of a standby that gets WAL from its upstream.
pub const STREAMING: &str = "streaming";

impl StandbyMonitor {
    /// Whether the WAL receiver streams.
    pub fn is_streaming(&self) -> bool {
        self.replication_state.as_deref() == Some(STREAMING)
    }
}

impl Monitor {
    /// The node's own position: flushed on a primary, the larger of received and replayed on a standby.
    pub fn lsn(&self) -> Option<Lsn> {
        match self {
            Self::Primary(primary) => Some(primary.lsn),
            Self::Standby(standby) => Some(standby.replayed.max(standby.received)),
            Self::NotAsked | Self::Failed => None,
        }
    }
}

impl ServerObservation {
    /// Whether the server is a primary: what the monitoring query said; if it failed, what was known before, as long as
    /// the postmaster runs.
    pub fn is_primary(&self) -> bool {
        match self.monitor {
            Monitor::Primary(_) => true,
            Monitor::Standby(_) => false,
            Monitor::NotAsked | Monitor::Failed => self.postmaster.is_running() && self.role == Role::Primary,
        }
    }

    /// Whether the server may acknowledge writes, or may be about to: a primary, or a promotion under way.
    pub fn is_or_becomes_primary(&self) -> bool {
        self.is_primary() || (self.postmaster.is_running() && self.role == Role::Promoted)
    }
}

/// One replication slot as seen on this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotObservation {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub logical: bool,
    /// Its database, for logical slots.
    pub database: Option<String>,
    /// Its plugin, for logical slots.
    pub plugin: Option<String>,
    /// Whether somebody streams from it.
    pub active: bool,
    /// The oldest transaction whose rows it keeps from vacuum.
    pub xmin: Option<TransactionId>,
    /// The oldest transaction whose catalog rows it keeps from vacuum.
    pub catalog_xmin: Option<TransactionId>,
    /// The oldest WAL it keeps.
    pub restart_lsn: Option<Lsn>,
    /// What its consumer confirmed, for logical slots.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `wal_status` is `lost`: it is of no use any more.
    pub lost: bool,
}

/// A transaction's number, as catalogs show it: of 32 bits, and going round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId(pub u32);

impl TransactionId {
    /// Whether this transaction is `other` or older.
    pub const fn is_at_most(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) <= u32::MAX / 2
    }
}

impl FromStr for TransactionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A server to stream, copy or rewind from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The member's name; `remote_member:…` for a remote node.
    pub name: String,
    /// Host or hosts.
    pub host: String,
    /// Port; none for a remote member configured without one.
    pub port: Option<u16>,
    /// Database for SQL connections.
    pub dbname: Option<String>,
    /// Whether it is outside this cluster.
    pub remote: bool,
}

/// A member to ask for its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerTarget {
    /// The member.
    pub name: MemberName,
    /// Its published URL.
    pub api_url: String,
}

/// What asking a member brought.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerAnswer {
    /// It answered with a usable document.
    Status(PeerStatus),
    /// It did not, or what it said cannot be used.
    Unreachable,
}

/// A member's `GET /patroni`, as far as the race needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Whether the server is in recovery.
    pub in_recovery: bool,
    /// The larger of received and replayed position in recovery, otherwise 0.
    pub position: Lsn,
    /// The timeline, if told.
    pub timeline: Option<Timeline>,
    /// The tags.
    pub tags: Tags,
    /// The watchdog is required and cannot be used.
    pub watchdog_failed: bool,
    /// The cluster it belongs to, if told.
    pub scope: Option<String>,
    /// The system identifier, if told.
    pub system_id: Option<String>,
}
