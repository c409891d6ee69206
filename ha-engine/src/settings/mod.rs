//! What people configured, as typed values.
//!
//! The agent merges defaults, the dynamic document in the store and the local file (see `spec/configuration.md` 1.6 of
//! the reference behaviour, told in `docs/configuration.md`) and hands the result to the engine as one immutable
//! [`EffectiveSettings`]. A changed document or file makes a new value; nothing is changed in place.

mod authentication;
mod bootstrap;
mod command;
mod global;
mod in_code;
mod postgresql;
pub mod values;
mod watchdog;

use std::fmt;
use std::sync::Arc;

use dcs_core::model::{MemberName, Tags};
use serde_json::{Map, Value};

pub use self::authentication::{Authentication, Credentials, Secret};
pub use self::bootstrap::{BootstrapMethod, BootstrapSettings, CommandOption};
pub use self::command::{CommandLine, NotACommand};
pub use self::global::{GlobalConfig, LeaseGuardMode, StandbyCluster, SyncMode, UnusableDocument};
pub use self::in_code::InCode;
pub use self::postgresql::{BinaryNames, PostgresSettings, ReplicaMethod, ServerAddress};
pub use self::watchdog::{WatchdogDriver, WatchdogMode, WatchdogSettings};

/// Everything that is configured for this node, with the dynamic configuration applied.
#[derive(Clone, Debug)]
pub struct EffectiveSettings {
    /// The cluster-wide settings.
    pub global: GlobalConfig,
    /// The member name of this node.
    pub name: MemberName,
    /// The name of the cluster.
    pub scope: String,
    /// The tags of this node, as published (truthy predefined tags, custom ones as they are).
    pub tags: Tags,
    /// How others reach the REST API of this node: `http(s)://HOST:PORT/patroni`.
    pub api_url: String,
    /// How a new cluster is made; nothing without a `bootstrap` section: such a node never initialises a cluster.
    pub bootstrap: Option<BootstrapSettings>,
    /// How the local PostgreSQL is run.
    pub postgresql: PostgresSettings,
    /// How this node uses a watchdog.
    pub watchdog: WatchdogSettings,
}

/// Settings could not be applied; the former ones stay in force.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    /// What is wrong: names the file or key, and the remedy.
    pub message: String,
}

/// Where settings come from. The agent implements it over its local configuration.
pub trait SettingsSource: Send + Sync + fmt::Debug {
    /// The effective settings with `dynamic` as the dynamic configuration.
    ///
    /// # Errors
    ///
    /// The document cannot be used, e.g. `postgresql.parameters` is not an object.
    fn effective(&self, dynamic: &Map<String, Value>) -> Result<Arc<EffectiveSettings>, SettingsError>;

    /// Reads the local files again. `true` if they say something new.
    ///
    /// # Errors
    ///
    /// The files cannot be read or parsed; the former local configuration stays in force.
    fn reload_local(&self) -> Result<bool, SettingsError>;

    /// The dynamic document to begin with when the store has none: the cached one, else `bootstrap.dcs`.
    fn initial_dynamic(&self) -> Map<String, Value>;

    /// Keeps `dynamic` in the cache file beside the data directory (blocking; called on a blocking thread).
    ///
    /// # Errors
    ///
    /// The file could not be written; tried again next cycle.
    fn store_dynamic_cache(&self, dynamic: &Map<String, Value>) -> Result<(), SettingsError>;
}
