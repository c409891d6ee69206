//! The command line as clap reads it, and its conversion into what is meant.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{Command, Global, Invocation, Role, Target, usage};
use crate::ctl::commands::{
    cluster_role, dsn, edit_config, failover, flush, history, list, pause, reinit, reload, remove, restart, show_config, switchover,
    version, why,
};
use crate::ctl::failure::Failure;
use crate::ctl::output::Format;

#[derive(Debug, Parser)]
#[command(
    about = "Looks at PostgreSQL clusters that Quorate or Patroni keeps available, and operates them",
    disable_help_subcommand = true,
    subcommand_required = true
)]
pub(super) struct Typed {
    /// Configuration file, or directory of them
    // An empty variable counts as unset, so the parser must let it pass.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        env = "PATRONICTL_CONFIG_FILE",
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from)
    )]
    config_file: Option<PathBuf>,
    /// The store to use, e.g. etcd3://host:2379/namespace
    #[arg(short, long, visible_alias = "dcs", value_name = "TEXT", env = "DCS_URL")]
    dcs_url: Option<String>,
    /// Do not verify certificates of the REST API
    #[arg(short = 'k', long)]
    insecure: bool,
    #[command(subcommand)]
    command: TypedCommand,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Demote cluster to a standby cluster
    DemoteCluster(TypedDemoteCluster),
    /// Generate a dsn for the provided member, defaults to a dsn of the leader
    Dsn(TypedDsn),
    /// Edit cluster configuration
    EditConfig(TypedEditConfig),
    /// Failover to a replica
    Failover(TypedFailover),
    /// Discard scheduled events
    Flush(TypedFlush),
    /// Show the history of failovers/switchovers
    History(TypedHistory),
    /// List the members of clusters
    List(TypedList),
    /// Disable auto failover
    Pause(TypedPause),
    /// Promote cluster, make it run standalone
    PromoteCluster(TypedPromoteCluster),
    /// Query a PostgreSQL member
    #[command(disable_help_flag = true)]
    Query(Anything),
    /// Look at the nodes of the embedded store, and operate them
    #[cfg(feature = "raft")]
    Raft(super::typed_raft::TypedRaft),
    /// Reinitialize cluster member
    Reinit(TypedReinit),
    /// Reload cluster member configuration
    Reload(TypedReload),
    /// Remove cluster from DCS
    Remove(TypedRemove),
    /// Restart cluster member
    Restart(TypedRestart),
    /// Resume auto failover
    Resume(TypedPause),
    /// Show cluster configuration
    ShowConfig(OptionalCluster),
    /// Switchover to a replica
    Switchover(TypedSwitchover),
    /// Print the members of clusters as a tree
    Topology(TypedTopology),
    /// Output version of quoratectl, or of the agents of a cluster
    Version(TypedVersion),
    /// Tell what the members did, what they refused, and why
    Why(TypedWhy),
}

/// Takes whatever is typed after a command that is not there yet.
#[derive(Debug, Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

#[derive(Debug, Args)]
struct OptionalCluster {
    /// The cluster; the configured scope by default
    #[arg(value_name = "CLUSTER_NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    group: Group,
}

#[derive(Debug, Args)]
struct RequiredCluster {
    /// The cluster
    #[arg(value_name = "CLUSTER_NAME")]
    cluster: String,
    #[command(flatten)]
    group: Group,
}

#[derive(Debug, Args)]
struct Group {
    /// Citus group
    #[arg(long, value_name = "INTEGER")]
    group: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TypedFormat {
    Pretty,
    Tsv,
    Json,
    Yaml,
    Yml,
}

impl From<TypedFormat> for Format {
    fn from(format: TypedFormat) -> Self {
        match format {
            TypedFormat::Pretty => Self::Pretty,
            TypedFormat::Tsv => Self::Tsv,
            TypedFormat::Json => Self::Json,
            TypedFormat::Yaml | TypedFormat::Yml => Self::Yaml,
        }
    }
}

#[derive(Debug, Args)]
struct OutputFormat {
    /// Output format
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: TypedFormat,
}

#[derive(Debug, Args)]
struct Watch {
    /// Auto update the screen every 2 seconds
    #[arg(short = 'W')]
    often: bool,
    /// Auto update the screen every X seconds
    #[arg(short, long, value_name = "FLOAT")]
    watch: Option<f64>,
}

impl Watch {
    /// How often to repeat. Zero seconds mean not at all; a negative number means at once, as in Patroni's tool.
    fn interval(&self) -> Option<Duration> {
        const OFTEN: Duration = Duration::from_secs(2);
        let chosen = self.watch.filter(|seconds| *seconds != 0.0);
        match chosen {
            Some(seconds) => Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)),
            None => self.often.then_some(OFTEN),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Force {
    /// Do not ask for confirmation at any point
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
struct TypedList {
    /// The clusters; the configured scope by default
    #[arg(value_name = "CLUSTER_NAMES")]
    clusters: Vec<String>,
    #[command(flatten)]
    group: Group,
    /// Show some extra information
    #[arg(short, long)]
    extended: bool,
    /// Print timestamp
    #[arg(short, long)]
    timestamp: bool,
    #[command(flatten)]
    format: OutputFormat,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Args)]
struct TypedTopology {
    /// The clusters; the configured scope by default
    #[arg(value_name = "CLUSTER_NAMES")]
    clusters: Vec<String>,
    #[command(flatten)]
    group: Group,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Args)]
struct TypedSwitchover {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// The name of the current leader
    #[arg(long, visible_alias = "primary", alias = "master", value_name = "TEXT")]
    leader: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "TEXT")]
    candidate: Option<String>,
    /// Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TEXT")]
    scheduled: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedFailover {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// The name of the candidate
    #[arg(long, value_name = "TEXT")]
    candidate: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedRestart {
    #[command(flatten)]
    cluster: RequiredCluster,
    /// The members; all by default
    #[arg(value_name = "MEMBER_NAMES")]
    members: Vec<String>,
    /// Restart only members with this role
    #[arg(short, long, value_enum, default_value = "any")]
    role: Role,
    /// Restart a single member only
    #[arg(long)]
    any: bool,
    /// Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TEXT")]
    scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)
    #[arg(long, value_name = "TEXT")]
    pg_version: Option<String>,
    /// Restart if pending
    #[arg(long)]
    pending: bool,
    /// Return error and fail over if necessary when restarting takes longer than this
    #[arg(long, value_name = "TEXT")]
    timeout: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedReload {
    #[command(flatten)]
    cluster: RequiredCluster,
    /// The members; all by default
    #[arg(value_name = "MEMBER_NAMES")]
    members: Vec<String>,
    /// Reload only members with this role
    #[arg(short, long, value_enum, default_value = "any")]
    role: Role,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedReinit {
    #[command(flatten)]
    cluster: RequiredCluster,
    /// The members
    #[arg(value_name = "MEMBER_NAMES")]
    members: Vec<String>,
    #[command(flatten)]
    force: Force,
    /// Get basebackup from leader
    #[arg(long)]
    from_leader: bool,
    /// Wait until reinitialization completes
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct TypedPause {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// Wait until all nodes have understood
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct TypedDemoteCluster {
    /// The cluster; the configured scope by default
    #[arg(value_name = "CLUSTER_NAME")]
    cluster: Option<String>,
    /// Address of the remote node
    #[arg(long, value_name = "TEXT")]
    host: Option<String>,
    /// Port of the remote node
    #[arg(long, value_name = "INTEGER")]
    port: Option<u16>,
    /// Command to restore WAL records from the remote primary
    #[arg(long, value_name = "TEXT")]
    restore_command: Option<String>,
    /// Name of the slot on the remote node to use for replication
    #[arg(long, value_name = "TEXT")]
    primary_slot_name: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedPromoteCluster {
    /// The cluster; the configured scope by default
    #[arg(value_name = "CLUSTER_NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedHistory {
    #[command(flatten)]
    cluster: OptionalCluster,
    #[command(flatten)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
struct TypedEditConfig {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// Do not show changes
    #[arg(short, long)]
    quiet: bool,
    /// Set specific configuration value. Can be specified multiple times
    #[arg(short, long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Set specific PostgreSQL parameter value. Shorthand for -s postgresql.parameters. Can be specified multiple times
    #[arg(short, long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pg: Vec<String>,
    /// Apply configuration from file. Use - for stdin
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    apply: Option<String>,
    /// Apply configuration from file, replacing existing configuration. Use - for stdin
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    replace: Option<String>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedVersion {
    /// The cluster whose agents are asked
    #[arg(value_name = "CLUSTER_NAME")]
    cluster: Option<String>,
    /// The members; all by default
    #[arg(value_name = "MEMBER_NAMES")]
    members: Vec<String>,
    #[command(flatten)]
    group: Group,
}

#[derive(Debug, Args)]
#[command(override_usage = "quoratectl flush [OPTIONS] CLUSTER_NAME [MEMBER_NAMES]... {restart|switchover}")]
struct TypedFlush {
    #[command(flatten)]
    cluster: RequiredCluster,
    /// Members, and at last what to discard: restart or switchover
    #[arg(value_name = "MEMBER_NAMES... {restart|switchover}", required = true)]
    members_and_target: Vec<String>,
    /// Flush only members with this role
    #[arg(short, long, value_enum, default_value = "any")]
    role: Role,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct TypedRemove {
    #[command(flatten)]
    cluster: RequiredCluster,
    #[command(flatten)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
struct TypedDsn {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// Give a dsn of any member with this role
    #[arg(short, long, value_enum)]
    role: Option<Role>,
    /// Generate a dsn for this member
    #[arg(short, long, value_name = "TEXT")]
    member: Option<String>,
}

#[derive(Debug, Args)]
struct TypedWhy {
    #[command(flatten)]
    cluster: OptionalCluster,
    /// Only what was the case at this time or later: a timestamp in unambiguous format (e.g. ISO 8601), or how long ago
    /// (e.g. 10min)
    #[arg(long, value_name = "TEXT")]
    since: Option<String>,
    /// Only what this member tells. Can be specified multiple times
    #[arg(short, long, value_name = "TEXT")]
    member: Vec<String>,
    /// Only the newest so many entries; 50 by default, all if --since is given
    #[arg(short = 'n', long, value_name = "INTEGER")]
    limit: Option<usize>,
    #[command(flatten)]
    format: OutputFormat,
}

impl OptionalCluster {
    fn target(self) -> Target {
        Target { cluster: self.cluster, group: self.group.group, group_from_configuration: false }
    }

    fn target_in_configured_group(self) -> Target {
        Target { group_from_configuration: true, ..self.target() }
    }
}

impl RequiredCluster {
    fn target(self) -> Target {
        Target { cluster: Some(self.cluster), group: self.group.group, group_from_configuration: false }
    }
}

impl Typed {
    /// What is meant.
    pub(super) fn meaning(self, program: &str) -> Result<Box<Invocation>, Failure> {
        let global = Global {
            config_file: self.config_file.filter(|path| !path.as_os_str().is_empty()),
            dcs_url: self.dcs_url.filter(|url| !url.is_empty()),
            insecure: self.insecure,
        };
        Ok(Box::new(Invocation { global, command: self.command.meaning(program)? }))
    }
}

impl TypedCommand {
    fn meaning(self, program: &str) -> Result<Command, Failure> {
        Ok(match self {
            Self::DemoteCluster(typed) => Command::ClusterRole(typed.options()),
            Self::PromoteCluster(typed) => Command::ClusterRole(cluster_role::Options {
                target: Target { cluster: typed.cluster, ..Target::default() },
                change: cluster_role::Change::Promote,
                force: typed.force.force,
            }),
            Self::Query(_) => Command::Missing("query"),
            Self::List(typed) => Command::List(list::Options {
                clusters: typed.clusters,
                group: typed.group.group,
                extended: typed.extended,
                timestamp: typed.timestamp,
                format: typed.format.format.into(),
                every: typed.watch.interval(),
            }),
            Self::Topology(typed) => Command::List(list::Options {
                clusters: typed.clusters,
                group: typed.group.group,
                extended: false,
                timestamp: false,
                format: Format::Topology,
                every: typed.watch.interval(),
            }),
            Self::Switchover(typed) => Command::Switchover(switchover::Options {
                target: typed.cluster.target(),
                leader: typed.leader,
                candidate: typed.candidate,
                scheduled: typed.scheduled,
                force: typed.force.force,
            }),
            Self::Failover(typed) => Command::Failover(failover::Options {
                target: typed.cluster.target(),
                candidate: typed.candidate,
                force: typed.force.force,
            }),
            Self::Restart(typed) => Command::Restart(restart::Options {
                target: typed.cluster.target(),
                members: typed.members,
                role: typed.role,
                any: typed.any,
                scheduled: typed.scheduled,
                pg_version: typed.pg_version,
                pending: typed.pending,
                timeout: typed.timeout,
                force: typed.force.force,
            }),
            Self::Reload(typed) => Command::Reload(reload::Options {
                target: typed.cluster.target(),
                members: typed.members,
                role: typed.role,
                force: typed.force.force,
            }),
            #[cfg(feature = "raft")]
            Self::Raft(typed) => Command::Raft(typed.options(program)?),
            Self::Reinit(typed) => Command::Reinit(reinit::Options {
                target: typed.cluster.target(),
                members: typed.members,
                force: typed.force.force,
                from_leader: typed.from_leader,
                wait: typed.wait,
            }),
            Self::Pause(typed) => Command::Pause(typed.options(true)),
            Self::Resume(typed) => Command::Pause(typed.options(false)),
            Self::History(typed) => Command::History(history::Options {
                target: typed.cluster.target_in_configured_group(),
                format: typed.format.format.into(),
            }),
            Self::ShowConfig(cluster) => Command::ShowConfig(show_config::Options { target: cluster.target_in_configured_group() }),
            Self::EditConfig(typed) => Command::EditConfig(typed.options()),
            Self::Version(typed) => Command::Version(version::Options {
                program: program.to_owned(),
                cluster: typed.cluster,
                group: typed.group.group,
                members: typed.members,
            }),
            Self::Flush(typed) => Command::Flush(typed.options(program)?),
            Self::Remove(typed) => Command::Remove(remove::Options { target: typed.cluster.target(), format: typed.format.format.into() }),
            Self::Why(typed) => Command::Why(why::Options {
                target: typed.cluster.target_in_configured_group(),
                since: typed.since,
                members: typed.member,
                limit: typed.limit,
                format: typed.format.format.into(),
            }),
            Self::Dsn(typed) => Command::Dsn(dsn::Options { target: typed.cluster.target(), role: typed.role, member: typed.member }),
        })
    }
}

impl TypedDemoteCluster {
    fn options(self) -> cluster_role::Options {
        let Self { cluster, host, port, restore_command, primary_slot_name, force } = self;
        cluster_role::Options {
            target: Target { cluster, ..Target::default() },
            change: cluster_role::Change::Demote(cluster_role::Remote { host, port, restore_command, primary_slot_name }),
            force: force.force,
        }
    }
}

impl TypedPause {
    fn options(self, pause: bool) -> pause::Options {
        pause::Options { target: self.cluster.target_in_configured_group(), pause, wait: self.wait }
    }
}

impl TypedEditConfig {
    fn options(self) -> edit_config::Options {
        edit_config::Options {
            target: self.cluster.target_in_configured_group(),
            quiet: self.quiet,
            force: self.force.force,
            requested: edit_config::Requested {
                replace: self.replace.map(edit_config::Input::named),
                apply: self.apply.map(edit_config::Input::named),
                assignments: self
                    .set
                    .into_iter()
                    .chain(self.pg.iter().map(|pair| format!("postgresql.parameters.{}", pair.trim_start())))
                    .collect(),
            },
        }
    }
}

impl TypedFlush {
    fn options(self, program: &str) -> Result<flush::Options, Failure> {
        let mut members = self.members_and_target;
        let word = members.pop().unwrap_or_default();
        let what = flush::What::from_word(&word).ok_or_else(|| {
            usage::of_command(
                program,
                "flush",
                format!("Invalid value for '{{restart|switchover}}': '{word}' is not one of 'restart', 'switchover'."),
            )
        })?;
        Ok(flush::Options { target: self.cluster.target(), members, what, role: self.role, force: self.force.force })
    }
}
