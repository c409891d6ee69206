//! What the API says about an object, as far as it matters here, and how a cluster's objects are called.

use std::collections::BTreeMap;

use dcs_core::model::Revision;
use serde::{Deserialize, Serialize};

use crate::config::Port;

/// An Endpoints, a ConfigMap or a Pod. What is not named here is never written, and so stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    pub(crate) metadata: Metadata,
    /// Of Endpoints.
    pub(crate) subsets: Option<Vec<Subset>>,
    /// Of pods.
    pub(crate) spec: Spec,
    /// Of pods.
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) resource_version: String,
    pub(crate) uid: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    pub(crate) hostname: Option<String>,
    pub(crate) node_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PodStatus {
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
}

/// Addresses and their ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Subset {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<Vec<Address>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Address {
    pub(crate) ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TargetRef {
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_version: Option<String>,
}

/// A list of objects.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct List {
    pub(crate) metadata: Metadata,
    pub(crate) items: Option<Vec<Object>>,
}

impl Object {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::new(&self.metadata.resource_version)
    }

    /// A number to tell newer from older. Versions are said to mean nothing, but every server counts them up, and every
    /// client that keeps a cache relies on it.
    pub(crate) fn version(&self) -> u64 {
        version_number(&self.metadata.resource_version)
    }

    /// Whether all of these annotations are as here; nothing means that it must be absent.
    pub(crate) fn has(&self, annotations: &Annotations) -> bool {
        annotations.iter().all(|(name, value)| self.annotation(name) == value.as_deref())
    }

    /// The addresses of the TCP port called `name`, as `host:port`.
    pub(crate) fn addresses_of(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for subset in self.subsets.iter().flatten() {
            let port = subset
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
            let Some(port) = port.map(|port| port.port) else { continue };
            for address in subset.addresses.iter().flatten() {
                let ip = &address.ip;
                found.push(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
        found
    }
}

pub(crate) fn version_number(text: &str) -> u64 {
    // One that is no number counts as newer than everything: the server said it last.
    text.parse().unwrap_or(u64::MAX)
}

/// What annotations shall be; nothing removes one.
pub(crate) type Annotations = Vec<(&'static str, Option<String>)>;

/// The annotations of a cluster's objects.
pub(crate) mod annotation {
    pub(crate) const LEADER: &str = "leader";
    pub(crate) const TTL: &str = "ttl";
    pub(crate) const RENEW_TIME: &str = "renewTime";
    pub(crate) const ACQUIRE_TIME: &str = "acquireTime";
    pub(crate) const TRANSITIONS: &str = "transitions";
    pub(crate) const OPTIME: &str = "optime";
    pub(crate) const SLOTS: &str = "slots";
    pub(crate) const RETAIN_SLOTS: &str = "retain_slots";
    pub(crate) const FAILSAFE: &str = "failsafe";
    pub(crate) const CONFIG: &str = "config";
    pub(crate) const HISTORY: &str = "history";
    pub(crate) const INITIALIZE: &str = "initialize";
    pub(crate) const MEMBER: &str = "member";
    pub(crate) const SCHEDULED_AT: &str = "scheduled_at";
    pub(crate) const SYNC_STANDBY: &str = "sync_standby";
    /// In the object of the synchronous state: the version that the last write was made for. Nobody reads it.
    pub(crate) const REPLACES: &str = "replaces";
    pub(crate) const QUORUM: &str = "quorum";
    pub(crate) const STATUS: &str = "status";
}

/// The names of a cluster's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The lock, `status` and `failsafe`.
    pub(crate) leader: String,
    /// `config`, `history` and `initialize`. The Service that keeps Endpoints from being collected is called the same.
    pub(crate) config: String,
    pub(crate) failover: String,
    pub(crate) sync: String,
}

impl Names {
    pub(crate) fn new(scope: &str, group: Option<u32>, use_endpoints: bool) -> Self {
        // A path of others; here a name, which has no slashes.
        let scope: Vec<_> = scope.split('/').filter(|part| !part.is_empty()).collect();
        let base = scope.join("-") + &group.map(|group| format!("-{group}")).unwrap_or_default();
        Self {
            leader: if use_endpoints { base.clone() } else { format!("{base}-leader") },
            config: format!("{base}-config"),
            failover: format!("{base}-failover"),
            sync: format!("{base}-sync"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_object_has_the_name_of_the_service_it_stands_behind() {
        let names = Names::new("batman", None, true);
        assert_eq!((names.leader.as_str(), names.config.as_str()), ("batman", "batman-config"));
        let names = Names::new("batman", None, false);
        assert_eq!((names.leader.as_str(), names.failover.as_str()), ("batman-leader", "batman-failover"));
        let names = Names::new("batman", Some(0), true);
        assert_eq!((names.leader.as_str(), names.sync.as_str()), ("batman-0", "batman-0-sync"));
    }

    #[test]
    fn api_servers_are_the_addresses_of_the_port_https() {
        let object: Object = serde_json::from_value(serde_json::json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"name": "x", "port": 1}, {"name": "https", "port": 6443, "protocol": "TCP"}]},
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "https", "port": 6444}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "https", "port": 6445, "protocol": "UDP"}]},
            {"notReadyAddresses": [{"ip": "10.0.0.4"}], "ports": [{"name": "https", "port": 6443}]},
        ]}))
        .unwrap();
        assert_eq!(object.addresses_of("https"), ["10.0.0.1:6443", "[fd00::1]:6443", "10.0.0.2:6444"]);
        assert!(Object::default().addresses_of("https").is_empty());
    }

    #[test]
    fn an_annotation_that_shall_be_absent_must_be() {
        let object: Object = serde_json::from_value(serde_json::json!({"metadata": {"annotations": {"leader": "a"}}})).unwrap();
        assert!(object.has(&vec![("leader", Some("a".to_owned())), ("optime", None)]));
        assert!(!object.has(&vec![("leader", None)]));
        assert!(!object.has(&vec![("ttl", Some("30".to_owned()))]));
    }
}
