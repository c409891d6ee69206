//! `quoratectl raft …` as clap reads it.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use dcs_raft::transport::Address;

use super::typed::Force;
use super::usage;
use crate::ctl::commands::raft::{Options, Shown};
use crate::ctl::failure::Failure;
use crate::ctl::output::Format;

#[derive(Debug, Args)]
#[command(disable_help_subcommand = true, subcommand_required = true)]
pub(super) struct TypedRaft {
    #[command(subcommand)]
    command: RaftCommand,
}

#[derive(Debug, Subcommand)]
enum RaftCommand {
    /// Wait until a node has joined: it does so by itself, through one of its partners
    Add(TypedAdd),
    /// Remove a node for good
    Remove(TypedRemove),
    /// Wait until a node has joined, then remove the one that it replaces
    Replace(TypedReplace),
    /// Show the nodes as the leader sees them, and as they see themselves
    Status(TypedStatus),
    /// Let the leader hand over
    Transfer(TypedTransfer),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RaftFormat {
    Pretty,
    Tsv,
    Json,
    Yaml,
    Yml,
    /// The lines of `syncobj_admin -status`
    Syncobj,
}

#[derive(Debug, Args)]
struct TypedStatus {
    /// Show what this node says, instead of the leader
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: RaftFormat,
}

#[derive(Debug, Args)]
struct Timeout {
    /// How many seconds the node may take
    #[arg(long, value_name = "INTEGER", default_value_t = 60)]
    timeout: u32,
}

#[derive(Debug, Args)]
struct TypedAdd {
    /// The `raft.self_addr` of the node
    #[arg(value_name = "HOST:PORT")]
    node: String,
    #[command(flatten)]
    timeout: Timeout,
}

#[derive(Debug, Args)]
struct TypedRemove {
    /// The `raft.self_addr` of the node
    #[arg(value_name = "HOST:PORT")]
    node: String,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedReplace {
    /// The `raft.self_addr` of the node that goes
    #[arg(value_name = "OLD")]
    old: String,
    /// The `raft.self_addr` of the node that comes
    #[arg(value_name = "NEW")]
    new: String,
    #[command(flatten)]
    timeout: Timeout,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedTransfer {
    /// Who is to lead; whoever has most of the log by default
    #[arg(value_name = "HOST:PORT")]
    node: Option<String>,
}

impl RaftFormat {
    fn shown(self) -> Shown {
        match self {
            Self::Pretty => Shown::As(Format::Pretty),
            Self::Tsv => Shown::As(Format::Tsv),
            Self::Json => Shown::As(Format::Json),
            Self::Yaml | Self::Yml => Shown::As(Format::Yaml),
            Self::Syncobj => Shown::Syncobj,
        }
    }
}

impl Timeout {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

impl TypedRaft {
    /// What is meant.
    pub(super) fn options(self, program: &str) -> Result<Options, Failure> {
        let address = |text: String| {
            let wrong = |error| usage::of_command(program, "raft", format!("Invalid value for 'HOST:PORT': {error}."));
            text.parse::<Address>().map_err(wrong)
        };
        Ok(match self.command {
            RaftCommand::Status(typed) => Options::Status { node: typed.node.map(address).transpose()?, shown: typed.format.shown() },
            RaftCommand::Add(typed) => Options::Add { limit: typed.timeout.limit(), address: address(typed.node)? },
            RaftCommand::Remove(typed) => Options::Remove { address: address(typed.node)?, force: typed.force.force },
            RaftCommand::Replace(typed) => Options::Replace {
                old: address(typed.old)?,
                new: address(typed.new)?,
                limit: typed.timeout.limit(),
                force: typed.force.force,
            },
            RaftCommand::Transfer(typed) => Options::Transfer { to: typed.node.map(address).transpose()? },
        })
    }
}
