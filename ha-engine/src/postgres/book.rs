//! What the port knows about the server without asking it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dcs_core::model::SystemId;

use super::control::Identity;
use super::parameters::Parameters;
use super::postmaster::Process;
use super::recovery::Recovery;
use crate::decide::observation::DataDir;
use crate::ports::CallbackEvent;

/// What is called when a start has finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing is known about this start: `on_start`.
    #[default]
    Unset,
    /// This event.
    Event(CallbackEvent),
    /// Nothing: it was found running, or a role change is called instead.
    Nothing,
}

/// Whether a new cluster is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// No.
    #[default]
    Normal,
    /// By `initdb`: callbacks are silent until it is complete.
    Initdb,
    /// By the operator's method: moreover, access is open and configuration is left alone until it is complete.
    Custom {
        /// Whether recovery settings left by the method stay.
        keep_existing_recovery_conf: bool,
    },
}

impl Stage {
    /// Whether a new cluster is being made.
    pub(super) fn is_bootstrap(self) -> bool {
        self != Self::Normal
    }

    /// Whether it is made by the operator's method.
    pub(super) fn is_custom(self) -> bool {
        matches!(self, Self::Custom { .. })
    }
}

/// Where the agent's own connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// SQL: host, or nothing for the default socket.
    pub(super) sql: String,
    /// The replication protocol.
    pub(super) replication: String,
    /// The port of both.
    pub(super) port: u16,
}

/// What a `postgres` program says about itself, which does not change as long as the file is the same.
#[derive(Debug)]
pub(super) struct Binary {
    /// The file.
    pub(super) file: Option<Identity>,
    /// Its version, e.g. 150013.
    pub(super) version: Option<u32>,
    /// Names that `--describe-config` knows, in lower case.
    pub(super) described: BTreeSet<String>,
}

/// Everything that changes without the settings changing. Guarded by one lock that is never held across an await.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The postmaster that was seen or launched last.
    pub(super) postmaster: Option<Process>,
    /// A start of ours is under way, and judges by itself how it ends: before the postmaster is launched nothing answers,
    /// and that is no failure.
    pub(super) start_under_way: bool,
    /// How many stops were asked for. A start that was begun before the last of them must not bring the server up after it.
    pub(super) stops: u64,
    /// e.g. 150000; nothing while unknown.
    pub(super) major: Option<u32>,
    /// The number of the running server, e.g. 150013.
    pub(super) running_version: Option<u32>,
    /// What the `postgres` program says about itself.
    pub(super) binary: Option<Arc<Binary>>,
    /// Server parameters in force.
    pub(super) parameters: Parameters,
    /// `synchronous_standby_names` as last decided; nothing: the agent has not decided.
    pub(super) synchronous_names: Option<String>,
    /// Whether `hot_standby_feedback` is on whatever is configured.
    pub(super) feedback_enforced: bool,
    /// Extra recovery settings of replicas.
    pub(super) recovery_conf: BTreeMap<String, String>,
    /// Recovery settings as last decided; stay after a promotion, where PostgreSQL ignores them.
    pub(super) recovery: Option<Recovery>,
    /// Where the agent's connections go.
    pub(super) addresses: Addresses,
    /// What is called when the start that is under way has finished.
    pub(super) pending: Pending,
    /// Whether a start, stop or role callback has been due.
    pub(super) callback_called: bool,
    /// Whether a new cluster is being made.
    pub(super) stage: Stage,
    /// The last data directory that was seen, for the case that the disk does not answer.
    pub(super) data_dir: Option<DataDir>,
    /// The system identifier, once read.
    pub(super) system_id: Option<SystemId>,
    /// Set when a running standby was adopted: its first comparison of recovery settings asks for a reload, so that
    /// `postgresql.conf` comes under control.
    pub(super) reload_after_adoption: bool,
    /// Recovery settings as the server has them, and what that was read under.
    pub(super) current_recovery: Option<super::follow::CurrentRecovery>,
    /// Whether `pg_rewind` runs, once tried.
    pub(super) rewind_program: Option<bool>,
}
