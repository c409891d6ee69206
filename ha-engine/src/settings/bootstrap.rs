//! How a brand new cluster is made.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::CommandLine;

/// One option of an external program, as configured in a list or a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOption {
    /// `--name`
    Flag(String),
    /// `--name=value`
    Value(String, String),
}

/// The `bootstrap` section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootstrapSettings {
    /// The dynamic configuration of a new cluster, before the timeout rule.
    pub dcs: Map<String, Value>,
    /// How the data directory is made.
    pub method: BootstrapMethod,
    /// Raw `initdb` options as configured (list or mapping); checked when they are used.
    pub initdb: Value,
    /// Lines appended to `pg_hba.conf`.
    pub pg_hba: Vec<String>,
    /// The command run in the new cluster (`post_bootstrap`, or `post_init`).
    pub post_bootstrap: Option<CommandLine>,
}

/// How the data directory of a new cluster is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum BootstrapMethod {
    /// `initdb`.
    #[default]
    Initdb,
    /// A command of the operator.
    Custom {
        /// The method's name.
        name: String,
        /// Program and arguments.
        command: CommandLine,
        /// Whether `--scope` and `--datadir` are left out.
        no_params: bool,
        /// Whether recovery settings left by the command stay.
        keep_existing_recovery_conf: bool,
        /// Recovery settings for the first start.
        recovery_conf: Option<BTreeMap<String, String>>,
        /// Further parameters, in configuration order.
        parameters: Vec<(String, String)>,
    },
}
