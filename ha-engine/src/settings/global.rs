//! The cluster-wide settings: what the dynamic configuration says, with defaults.

mod parse;

use std::path::PathBuf;
use std::time::Duration;

use dcs_core::Timing;
use serde_json::{Map, Value};

pub use self::parse::UnusableDocument;

/// Whether and how commits wait for standbys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Asynchronous replication.
    #[default]
    Off,
    /// Named synchronous standbys.
    On,
    /// Quorum commit.
    Quorum,
}

/// When the lease guard is armed on a primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseGuardMode {
    /// When another member could take over, and not in pause.
    #[default]
    Automatic,
    /// Never.
    Off,
    /// Always, outside pause.
    On,
}

/// The remote cluster that a standby cluster follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyCluster {
    /// Remote host or hosts, comma separated.
    pub host: Option<String>,
    /// Remote port; 5432 by default.
    pub port: Option<u16>,
    /// Slot on the remote node.
    pub primary_slot_name: Option<String>,
    /// Methods for building members.
    pub create_replica_methods: Vec<String>,
    /// `restore_command` of all members.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command` of all members.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay` of the standby leader.
    pub recovery_min_apply_delay: Option<String>,
}

/// The dynamic configuration as the engine uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalConfig {
    /// The document as stored, with everything that this version does not know.
    pub document: Map<String, Value>,
    /// How long the lock outlives its last renewal. 20 s or more; 5 s or more with `quorate.low_ttl`.
    pub ttl: Duration,
    /// The period of the engine's cycle. 1 s or more.
    pub loop_wait: Duration,
    /// The bound of store operations. 3 s or more; 1 s or more with `quorate.low_ttl`.
    pub retry_timeout: Duration,
    /// Replicas lagging more, in bytes, may not be elected.
    pub maximum_lag_on_failover: i64,
    /// How many lines of timeline history are kept; 0 means all.
    pub max_timelines_history: usize,
    /// Whether nodes on an older timeline may not be elected.
    pub check_timeline: bool,
    /// How long a crashed primary may take to start; zero means failing over at once.
    pub primary_start_timeout: Duration,
    /// Bound of a stop in synchronous mode; zero means none.
    pub primary_stop_timeout: Duration,
    /// Whether commits wait for standbys.
    pub synchronous_mode: SyncMode,
    /// Whether commits wait even if no standby is there.
    pub synchronous_mode_strict: bool,
    /// Wanted number of synchronous standbys.
    pub synchronous_node_count: u32,
    /// Standbys lagging more, in bytes, are not eligible; 0 or less means no test.
    pub maximum_lag_on_syncnode: i64,
    /// Whether the primary may go on when only the store is lost.
    pub failsafe_mode: bool,
    /// Maintenance mode.
    pub pause: bool,
    /// How long the slot of an absent member is kept; zero means not at all.
    pub member_slots_ttl: Duration,
    /// Permanent slots, as configured.
    pub slots: Map<String, Value>,
    /// Slots that are left alone, as configured.
    pub ignore_slots: Vec<Value>,
    /// The remote cluster, if this is a standby cluster.
    pub standby_cluster: Option<StandbyCluster>,
    /// When the lease guard is armed.
    pub lease_guard: LeaseGuardMode,
    /// Where WAL is copied to that a rewind or a new copy of another node would give up; nothing: it is given up.
    pub keep_divergent_wal: Option<PathBuf>,
}

impl GlobalConfig {
    /// How long an orderly stop of a primary may take before it turns into an immediate one; nothing: as long as it takes.
    /// Only where nothing is lost by that: standbys have every acknowledged commit.
    pub fn stop_timeout(&self) -> Option<Duration> {
        Some(self.primary_stop_timeout).filter(|limit| self.synchronous_mode != SyncMode::Off && !limit.is_zero())
    }

    /// The timings, as the store needs them.
    pub fn timing(&self) -> Timing {
        Timing { ttl: self.ttl, loop_wait: self.loop_wait, retry_timeout: self.retry_timeout }
    }
}
