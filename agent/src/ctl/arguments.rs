//! From what was typed to what is meant.
//!
//! `typed` is what clap reads. It is converted once, here, into an [`Invocation`]: a command with exactly the options
//! that it has, defaults filled in.

mod typed;
#[cfg(feature = "raft")]
mod typed_raft;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use self::typed::Typed;
use super::commands::{
    cluster_role, dsn, edit_config, failover, flush, history, list, pause, reinit, reload, remove, restart, show_config, switchover,
    version, why,
};
use super::failure::Failure;
use super::output::Format;

/// What the user wants.
#[derive(Debug)]
pub struct Invocation {
    /// The options before the command.
    pub global: Global,
    /// The command.
    pub command: Command,
}

/// Options that every command has.
#[derive(Clone, Debug, Default)]
pub struct Global {
    /// The configuration file or directory, if one was named.
    pub config_file: Option<PathBuf>,
    /// The store to use instead of the configured one.
    pub dcs_url: Option<String>,
    /// Whether certificates of agents are taken as they are.
    pub insecure: bool,
}

/// One command, ready to run.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant is the command of its name; its options are documented there")]
pub enum Command {
    ClusterRole(cluster_role::Options),
    List(list::Options),
    Switchover(switchover::Options),
    Failover(failover::Options),
    Restart(restart::Options),
    Reload(reload::Options),
    Reinit(reinit::Options),
    Pause(pause::Options),
    History(history::Options),
    ShowConfig(show_config::Options),
    EditConfig(edit_config::Options),
    Version(version::Options),
    Flush(flush::Options),
    Remove(remove::Options),
    Dsn(dsn::Options),
    Why(why::Options),
    #[cfg(feature = "raft")]
    Raft(super::commands::raft::Options),
    /// A command of Patroni's tool that is not there yet.
    Missing(&'static str),
}

impl Command {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::List(options) if options.format == Format::Topology => "topology",
            Self::List(_) => "list",
            Self::ClusterRole(options) if options.change == cluster_role::Change::Promote => "promote-cluster",
            Self::ClusterRole(_) => "demote-cluster",
            Self::Switchover(_) => "switchover",
            Self::Failover(_) => "failover",
            Self::Restart(_) => "restart",
            Self::Reload(_) => "reload",
            Self::Reinit(_) => "reinit",
            Self::Pause(options) if options.pause => "pause",
            Self::Pause(_) => "resume",
            Self::History(_) => "history",
            Self::ShowConfig(_) => "show-config",
            Self::EditConfig(_) => "edit-config",
            Self::Version(_) => "version",
            Self::Flush(_) => "flush",
            Self::Remove(_) => "remove",
            Self::Dsn(_) => "dsn",
            Self::Why(_) => "why",
            #[cfg(feature = "raft")]
            Self::Raft(_) => "raft",
            Self::Missing(name) => name,
        }
    }
}

/// The cluster that a command works on.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Its name; the configured scope if none is given.
    pub cluster: Option<String>,
    /// The Citus group, if one is given.
    pub group: Option<u32>,
    /// Whether the configured Citus group is meant when none is given.
    pub group_from_configuration: bool,
}

/// Which members a command is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The one that holds the lock.
    Leader,
    /// The same, unless it leads a standby cluster.
    Primary,
    /// The same, unless it does not.
    StandbyLeader,
    /// All others.
    Replica,
    /// All others.
    Standby,
    /// All.
    #[default]
    Any,
}

impl Role {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Primary => "primary",
            Self::StandbyLeader => "standby-leader",
            Self::Replica => "replica",
            Self::Standby => "standby",
            Self::Any => "any",
        }
    }
}

impl Invocation {
    /// Reads the command line. `--help` is an outcome of its own.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] if it has no meaning.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let program = usage::program(arguments.first());
        match arguments.first_mut() {
            Some(first) => *first = program.clone().into(),
            None => arguments.push(program.clone().into()),
        }
        match Typed::try_parse_from(&arguments) {
            Ok(typed) => typed.meaning(&program).map(Parsed::Run),
            Err(error) if usage::is_help(&error) => Ok(Parsed::Help(error.to_string())),
            Err(error) => Err(usage::failure(&program, &arguments, &error)),
        }
    }
}

/// What to do with a command line that has a meaning.
#[derive(Debug)]
pub enum Parsed {
    /// Run this.
    Run(Box<Invocation>),
    /// Show this text.
    Help(String),
}

/// The name that the tool was called by.
pub fn program(first: Option<&OsString>) -> String {
    usage::program(first)
}

/// What to say when a command that takes an optional cluster has none.
pub fn missing_cluster(program: &str, command: &str) -> Failure {
    usage::of_command(program, command, "Missing argument 'CLUSTER_NAME'.".to_owned())
}

#[cfg(test)]
mod tests;
