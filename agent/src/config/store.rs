//! Which store, and its section.

use std::fmt;

use serde_json::{Map, Value};

use super::error::{KeyError, KeyPlace};
use super::section::Section;
use super::tree::{Places, join};

/// The sections that name a store, in the order in which they are looked for.
pub const STORES: [&str; 7] = ["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"];

/// The store's section, and what every store needs besides.
#[derive(Clone)]
pub struct StoreSettings {
    /// The name of the section.
    pub section: &'static str,
    /// The section itself.
    pub options: Map<String, Value>,
    /// The prefix of all clusters; `service` by default.
    pub namespace: Option<String>,
    /// The name of the cluster.
    pub scope: String,
    /// The name of this member; empty for the control tool.
    pub name: String,
    /// Other stores' sections that are present and not used.
    pub ignored: Vec<&'static str>,
    places: Places,
}

impl fmt::Debug for StoreSettings {
    /// Option names only: the values contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("section", &self.section)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .field("namespace", &self.namespace)
            .field("scope", &self.scope)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl StoreSettings {
    /// Finds the store in the effective tree. `name` may be missing for the control tool.
    pub(super) fn read(root: &Section<'_>, places: &Places, needs_name: bool) -> Result<Self, KeyError> {
        let present: Vec<&'static str> = STORES.into_iter().filter(|section| root.map().contains_key(*section)).collect();
        let Some((&section, ignored)) = present.split_first() else {
            return Err(KeyError {
                key: String::new(),
                place: places.first_source().map_or(KeyPlace::Unknown, KeyPlace::Local),
                problem: format!(
                    "Can not find suitable configuration of distributed configuration store\nAvailable \
                     implementations: {}",
                    crate::stores::available().join(", ")
                ),
                hint: Some(
                    "for etcd, add a section `etcd3:` with `hosts: HOST:2379,HOST:2379`; for Consul, `consul:` with `host: HOST:8500`; for \
                     ZooKeeper, `zookeeper:` with `hosts: HOST:2181,HOST:2181`; for Kubernetes, `kubernetes:` with `labels`; without an \
                     external store, `raft:` with `self_addr: HOST:2222` and `partner_addrs: [HOST:2222, HOST:2222]`"
                        .to_owned(),
                ),
            });
        };
        Ok(Self {
            section,
            options: root.section(section)?.map(|section| section.map().clone()).unwrap_or_default(),
            namespace: root.text("namespace")?,
            scope: root.required_text("scope")?,
            name: if needs_name { root.required_text("name")? } else { root.text("name")?.unwrap_or_default() },
            ignored: ignored.to_vec(),
            places: places.clone(),
        })
    }

    /// The section `raft` alone, for whoever has to do with the nodes of the embedded store and not with a cluster in it.
    pub(super) fn read_raft(root: &Section<'_>, places: &Places) -> Result<Self, KeyError> {
        let Some(options) = root.section("raft")? else {
            return Err(KeyError {
                key: "raft".to_owned(),
                place: places.first_source().map_or(KeyPlace::Unknown, KeyPlace::Local),
                problem: "there is no section `raft`: the nodes of the embedded store are not configured".to_owned(),
                hint: Some(
                    "add it with `self_addr` and `partner_addrs`, or set `PATRONI_RAFT_SELF_ADDR` and `PATRONI_RAFT_PARTNER_ADDRS`"
                        .to_owned(),
                ),
            });
        };
        Ok(Self {
            section: "raft",
            options: options.map().clone(),
            namespace: None,
            scope: String::new(),
            name: String::new(),
            ignored: Vec::new(),
            places: places.clone(),
        })
    }

    /// An error about `key` of the section, or about the section as a whole if it is empty.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> KeyError {
        let key = if key.is_empty() { self.section.to_owned() } else { join(self.section, key) };
        let place = self.places.nearest(&key).map_or(KeyPlace::Unknown, |place| KeyPlace::Local(place.clone()));
        KeyError { key, place, problem: problem.into(), hint: None }
    }
}
