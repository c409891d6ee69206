//! Clusters on a real API server, for the tests of this crate.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

pub mod middle;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::{BoxError, Timing};
use dcs_kubernetes::Config;
use serde_json::{Map, Value, json};
use store_servers::Servers;
use store_servers::apiserver::{ADMIN, Api, kubeconfig_for};

/// A renewal must come through on a busy machine, and an API server that starts takes its time.
pub const TIMING: Timing =
    Timing { ttl: Duration::from_secs(10), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(6) };

/// The plural of what holds the cluster's state.
pub fn plural(use_endpoints: bool) -> &'static str {
    if use_endpoints { "endpoints" } else { "configmaps" }
}

/// The labels of everything of the cluster `scope`.
pub fn labels(scope: &str) -> Value {
    json!({"application": "quorate", "cluster-name": scope})
}

/// The section for a cluster in `namespace`.
pub fn section(namespace: &str, use_endpoints: bool) -> Map<String, Value> {
    let section = json!({"namespace": namespace, "use_endpoints": use_endpoints, "labels": {"application": "quorate"}});
    section.as_object().cloned().expect("it is one")
}

/// Writes a kubeconfig, and makes the configuration that uses it.
pub fn with_kubeconfig(servers: &Servers, section: &Map<String, Value>, address: SocketAddr, user: &Value) -> Result<Config, BoxError> {
    let config = kubeconfig_for(servers.plan(0), address, user);
    let path = new_file(servers, "kubeconfig");
    std::fs::write(&path, config.to_string())?;
    Ok(Config::from_section(section)?.with_kubeconfig(path))
}

/// A path that nobody else has, removed with the servers.
pub fn new_file(servers: &Servers, name: &str) -> PathBuf {
    servers.directory().join(format!("{name}-{:016x}", fastrand::u64(..)))
}

/// The configuration of the administrator.
pub fn as_admin(servers: &Servers, section: &Map<String, Value>) -> Result<Config, BoxError> {
    with_kubeconfig(servers, section, servers.addresses()[0], &json!({"token": ADMIN}))
}

/// The administrator's hands.
pub fn admin(servers: &Servers) -> Result<Api, BoxError> {
    Ok(Api::of(servers, 0, ADMIN)?)
}

/// A kubeconfig for a server that speaks plain HTTP, and where it is.
pub fn kubeconfig_by_http(servers: &Servers, address: SocketAddr, user: &Value) -> Result<PathBuf, BoxError> {
    let mut config = kubeconfig_for(servers.plan(0), address, user);
    config["clusters"][0]["cluster"] = json!({"server": format!("http://{address}")});
    let path = new_file(servers, "kubeconfig");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}
