//! Values that several tests of this module need.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::settings::{Authentication, Credentials, PostgresSettings, ServerAddress};

/// Settings of a node `pg1`, as a minimal configuration file gives them.
pub(crate) fn settings() -> PostgresSettings {
    let listen = ServerAddress { hosts: vec!["127.0.0.1".to_owned()], port: 5432 };
    let authentication = Authentication {
        superuser: Credentials::new("postgres", "super"),
        replication: Credentials::new("replicator", "rep-pass"),
        rewind: None,
    };
    PostgresSettings {
        connect_address: Some("10.0.0.1:5432".to_owned()),
        pgpass: PathBuf::from("/home/pgpass"),
        parameters: BTreeMap::new(),
        use_pg_rewind: true,
        ..PostgresSettings::new("demo", "/data", listen, authentication)
    }
}
