//! How the local PostgreSQL is run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Authentication, CommandLine};
use crate::postgres::cluster_wide::CLUSTER_WIDE;

/// A host list and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Hosts or addresses, without brackets.
    pub hosts: Vec<String>,
    /// The port.
    pub port: u16,
}

/// Names of the PostgreSQL programs, where they differ from the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinaryNames(pub BTreeMap<String, String>);

/// One entry of `create_replica_methods`.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaMethod {
    /// `pg_basebackup`, with options as configured (list or mapping).
    BaseBackup(Value),
    /// A command of the operator.
    Custom {
        /// The method's name.
        name: String,
        /// Program and arguments.
        command: CommandLine,
        /// Whether our four parameters are left out.
        no_params: bool,
        /// Whether it works without a node to clone from.
        no_leader: bool,
        /// Whether the data directory is not emptied before.
        keep_data: bool,
        /// Parameters as configured, in order, without `command`.
        parameters: Vec<(String, Value)>,
    },
}

/// The effective `postgresql` section.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresSettings {
    /// Where the server listens.
    pub listen: ServerAddress,
    /// Raw `listen_addresses`, as PostgreSQL gets it.
    pub listen_addresses: String,
    /// How others reach the server, `host:port`; computed from `listen` if absent.
    pub connect_address: Option<String>,
    /// How others reach the pooler in front of it, `host:port`.
    pub proxy_address: Option<String>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where configuration files live; the data directory by default.
    pub config_dir: PathBuf,
    /// `postgresql`: the stem of `postgresql.conf` and `postgresql.base.conf`.
    pub config_base_name: String,
    /// Where the programs are; empty means through `PATH`.
    pub bin_dir: PathBuf,
    /// Names of programs.
    pub bin_name: BinaryNames,
    /// The database of the agent's own connections and of published URLs.
    pub database: String,
    /// The password file that the agent writes.
    pub pgpass: PathBuf,
    /// Kerberos service name.
    pub krbsrvname: Option<String>,
    /// Whether the agent connects through a socket.
    pub use_unix_socket: bool,
    /// Whether local replication connections use a socket.
    pub use_unix_socket_repl: bool,
    /// The users.
    pub authentication: Authentication,
    /// Server parameters, merged (defaults, dynamic, local) and with `cluster_name`, `listen_addresses` and `port`; text
    /// form of each value. Not yet validated against a server version.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`, if configured.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf`, if configured.
    pub pg_ident: Option<Vec<String>>,
    /// Included instead of `postgresql.base.conf`.
    pub custom_conf: Option<String>,
    /// Extra recovery settings of replicas.
    pub recovery_conf: BTreeMap<String, String>,
    /// Whether diverged nodes may be rewound.
    pub use_pg_rewind: bool,
    /// Whether a node that could not be rewound is rebuilt.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Whether a diverged node that must not be rewound is rebuilt.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Whether replication slots are used.
    pub use_slots: bool,
    /// Bound of a start.
    pub pg_ctl_timeout: Duration,
    /// How replicas are made, in order; never empty.
    pub create_replica_methods: Vec<ReplicaMethod>,
    /// Every configured replica method section by name, for standby clusters that name other methods.
    pub replica_method_sections: BTreeMap<String, Value>,
    /// Commands for events: `on_start`, `on_stop`, `on_restart`, `on_reload`, `on_role_change`.
    pub callbacks: BTreeMap<String, CommandLine>,
    /// Command run before a promotion.
    pub pre_promote: Option<CommandLine>,
    /// Command run before a stop.
    pub before_stop: Option<CommandLine>,
}

impl PostgresSettings {
    /// A server in `data_dir` that listens at `listen`, with the users of `authentication`. Everything else is as in a
    /// configuration that says no more than that: for programs that make their settings themselves.
    pub fn new(scope: &str, data_dir: impl Into<PathBuf>, listen: ServerAddress, authentication: Authentication) -> Self {
        let data_dir = data_dir.into();
        let listen_addresses = listen.hosts.join(",");
        let cluster_wide = CLUSTER_WIDE.iter().filter_map(|parameter| Some((parameter.name, parameter.default?.to_owned())));
        let of_the_node =
            [("cluster_name", scope.to_owned()), ("listen_addresses", listen_addresses.clone()), ("port", listen.port.to_string())];
        let parameters = cluster_wide.chain(of_the_node).map(|(name, value)| (name.to_owned(), value)).collect();
        Self {
            listen,
            listen_addresses,
            connect_address: None,
            proxy_address: None,
            config_dir: data_dir.clone(),
            config_base_name: "postgresql".to_owned(),
            bin_dir: PathBuf::new(),
            bin_name: BinaryNames::default(),
            database: "postgres".to_owned(),
            pgpass: data_dir.with_extension("pgpass"),
            krbsrvname: None,
            use_unix_socket: false,
            use_unix_socket_repl: false,
            authentication,
            parameters,
            pg_hba: None,
            pg_ident: None,
            custom_conf: None,
            recovery_conf: BTreeMap::new(),
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            use_slots: true,
            pg_ctl_timeout: Duration::from_secs(60),
            create_replica_methods: vec![ReplicaMethod::BaseBackup(Value::Null)],
            replica_method_sections: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            pre_promote: None,
            before_stop: None,
            data_dir,
        }
    }
}
