//! The `patroni.yml` of a node.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agents::Agent;
use crate::postgres::SUPERUSER;

/// The three times that everything follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The life of the leader lock.
    pub ttl: Duration,
    /// The period of the loop.
    pub loop_wait: Duration,
    /// How long an operation on the store may take.
    pub retry_timeout: Duration,
}

impl Times {
    /// Times for tests: as short as the agent allows and a busy machine bears.
    ///
    /// Only Quorate accepts a ttl below 20 seconds.
    #[must_use]
    pub const fn low(agent: Agent) -> Self {
        let (ttl, retry_timeout) = match agent {
            Agent::Quorate => (8, 3),
            Agent::Patroni => (20, 3),
        };
        Self { ttl: Duration::from_secs(ttl), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(retry_timeout) }
    }

    /// What is in use everywhere.
    #[must_use]
    pub const fn default_of_patroni() -> Self {
        Self { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) }
    }
}

/// The dynamic configuration that a cluster begins with.
#[must_use]
pub fn dynamic(times: Times) -> Value {
    let mut dynamic = json!({
        "ttl": times.ttl.as_secs(),
        "loop_wait": times.loop_wait.as_secs(),
        "retry_timeout": times.retry_timeout.as_secs(),
        "maximum_lag_on_failover": 1_048_576,
        "postgresql": {
            "use_pg_rewind": true,
            "use_slots": true,
            "parameters": {
                "max_connections": 50,
                "shared_buffers": "16MB",
                "wal_keep_size": "128MB",
                "max_wal_size": "256MB",
                "log_checkpoints": "on",
                // In the data directory, so that a killed server leaves nothing outside of it.
                "dynamic_shared_memory_type": "mmap",
                // A killed process loses nothing that the kernel has; only a dead machine does, and no test here kills that.
                "fsync": "off",
            },
        },
    });
    if times.ttl < Duration::from_secs(20) {
        merge(&mut dynamic, &json!({"quorate": {"low_ttl": true}}));
    }
    dynamic
}

/// What a node's own file is made of.
#[derive(Debug)]
pub struct Local<'a> {
    /// The cluster's name.
    pub scope: &'a str,
    /// The node's name.
    pub name: &'a str,
    /// Where the REST API listens, and where others are told that it does.
    pub rest: (SocketAddr, SocketAddr),
    /// Where PostgreSQL listens, and where others are told that it does.
    pub postgres: (SocketAddr, SocketAddr),
    /// The section that says where the store is, and what is in it.
    pub store: (&'a str, &'a Value),
    /// The node's directory.
    pub directory: &'a Path,
    /// The directory of PostgreSQL's data.
    pub data_dir: &'a Path,
    /// The directory of PostgreSQL's programs.
    pub bin_dir: &'a Path,
    /// The dynamic configuration to bootstrap with.
    pub dynamic: &'a Value,
}

/// A node's file, as somebody with a plain set-up would write it.
#[must_use]
pub fn local(node: &Local<'_>) -> Value {
    json!({
        "scope": node.scope,
        "name": node.name,
        "restapi": {
            "listen": node.rest.0.to_string(),
            "connect_address": node.rest.1.to_string(),
        },
        (node.store.0): node.store.1,
        "bootstrap": {
            "dcs": node.dynamic,
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
        },
        "postgresql": {
            "listen": node.postgres.0.to_string(),
            "connect_address": node.postgres.1.to_string(),
            "data_dir": node.data_dir,
            "bin_dir": node.bin_dir,
            "pgpass": node.directory.join("pgpass"),
            "authentication": {
                "superuser": {"username": SUPERUSER.0, "password": SUPERUSER.1},
                "replication": {"username": "replicator", "password": "rep-secret"},
                "rewind": {"username": "rewinder", "password": "rewind-secret"},
            },
            "parameters": {
                "unix_socket_directories": node.directory,
            },
            "pg_hba": [
                "local all all trust",
                "host all all 127.0.0.0/8 scram-sha-256",
                "host replication replicator 127.0.0.0/8 scram-sha-256",
            ],
            "basebackup": [{"checkpoint": "fast"}],
        },
    })
}

/// Puts the section of a store in the place of whichever was there.
pub fn exchange_store(settings: &mut Value, section: &str, options: Value) {
    if let Value::Object(settings) = settings {
        for store in ["consul", "etcd", "etcd3", "kubernetes", "raft", "zookeeper"] {
            settings.remove(store);
        }
        settings.insert(section.to_owned(), options);
    }
}

/// Merges as `PATCH /config` does: objects into objects, `null` removes, everything else replaces.
pub fn merge(into: &mut Value, patch: &Value) {
    let (Value::Object(target), Value::Object(changes)) = (&mut *into, patch) else {
        into.clone_from(patch);
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), change);
        }
    }
}
