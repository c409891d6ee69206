//! Values that several tests of this module need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::settings::{Authentication, BinaryNames, Credentials, PostgresSettings, ReplicaMethod, Secret, ServerAddress};

/// Settings of a node `pg1`, as a minimal configuration file gives them.
pub(crate) fn settings() -> PostgresSettings {
    let user = |name: &str, password: &str| Credentials {
        username: Some(name.to_owned()),
        password: Some(Secret::new(password)),
        options: BTreeMap::new(),
    };
    PostgresSettings {
        listen: ServerAddress { hosts: vec!["127.0.0.1".to_owned()], port: 5432 },
        listen_addresses: "127.0.0.1".to_owned(),
        connect_address: Some("10.0.0.1:5432".to_owned()),
        proxy_address: None,
        data_dir: PathBuf::from("/data"),
        config_dir: PathBuf::from("/data"),
        config_base_name: "postgresql".to_owned(),
        bin_dir: PathBuf::new(),
        bin_name: BinaryNames::default(),
        database: "postgres".to_owned(),
        pgpass: PathBuf::from("/home/pgpass"),
        krbsrvname: None,
        use_unix_socket: false,
        use_unix_socket_repl: false,
        authentication: Authentication { superuser: user("postgres", "super"), replication: user("replicator", "rep-pass"), rewind: None },
        parameters: BTreeMap::new(),
        pg_hba: None,
        pg_ident: None,
        custom_conf: None,
        recovery_conf: BTreeMap::new(),
        use_pg_rewind: true,
        remove_data_directory_on_rewind_failure: false,
        remove_data_directory_on_diverged_timelines: false,
        use_slots: true,
        pg_ctl_timeout: Duration::from_secs(60),
        create_replica_methods: vec![ReplicaMethod::BaseBackup(serde_json::Value::Null)],
        replica_method_sections: BTreeMap::new(),
        callbacks: BTreeMap::new(),
        pre_promote: None,
        before_stop: None,
    }
}
